"""Scenes: what is read, what is known about it, and every way in which a file can be wrong."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import re

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Geod
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.windows import Window

from tuban.data.metadata import add_offsets, parse_date
from tuban.data.scene import Scene
from tuban.errors import SceneError, UsageError


def from_origin(west, north, dx, dy):
    """North-up transform; rasterio's own function still multiplies in the way that affine 3 deprecates."""
    return Affine(dx, 0, west, 0, -dy, north)


UTM = from_origin(500000, 4000000, 10, 10)
S2 = ("B02", "B03", "B04", "B08")


def write(path, array, *, crs="EPSG:32650", transform=UTM, names=S2, tags=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    scales, offsets, interp = (options.pop(key, None) for key in ("scales", "offsets", "colorinterp"))
    count, height, width = array.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=array.dtype, crs=crs,
        transform=transform,
        **options,
    ) as dst:  # fmt: skip
        dst.write(array)
        if names:
            dst.descriptions = names
        if scales:
            dst.scales, dst.offsets = scales, offsets or (0.0,) * count
        if interp:
            dst.colorinterp = interp
        dst.update_tags(**(tags or {}))
    return path


def ramp(count=4, height=40, width=50, dtype="uint16", start=1):
    return (np.arange(count * height * width).reshape(count, height, width) % 200 + start).astype(dtype)


def test_reads_by_name_scaled_and_pickles(tmp_path):
    data = ramp()
    path = write(tmp_path / "影像 目录" / "前 时相.tif", data, scales=(1e-4,) * 4, offsets=(-0.1,) * 4)
    with Scene.open(path) as scene:
        again = pickle.loads(pickle.dumps(scene))  # noqa: S301
        assert again == scene
        values, valid = again.read(Window(3, 4, 10, 6), ["B08", "B11", "B02"])
        again.close()
    np.testing.assert_allclose(values[0], data[3, 4:10, 3:13] * 1e-4 - 0.1, rtol=1e-5)
    np.testing.assert_allclose(values[2], data[0, 4:10, 3:13] * 1e-4 - 0.1, rtol=1e-5)
    assert np.isnan(values[1]).all()
    assert valid.all()
    assert scene.missing(["B08", "B11", "B12"]) == ("B11", "B12")
    assert scene.radiometry == "reflectance"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(-60, 60), st.integers(-60, 60), st.integers(1, 70), st.integers(1, 70))
def test_boundless_read_equals_a_padded_array(tmp_path_factory, col, row, width, height):
    data = ramp()
    path = tmp_path_factory.getbasetemp() / "padded.tif"
    if not path.exists():
        write(path, data)
    padded = np.pad(data, ((0, 0), (140, 140), (140, 140)))
    with Scene.open(path) as scene:
        values, valid = scene.read(Window(col, row, width, height), S2)
    expected = padded[:, row + 140 : row + 140 + height, col + 140 : col + 140 + width]
    np.testing.assert_allclose(values, expected * np.float32(scene.bands[0].scale), rtol=1e-6)
    np.testing.assert_array_equal(valid, expected[0] > 0)


@pytest.mark.parametrize(
    ("names", "sensor", "expected"),
    [
        (("B2", "B3", "B4", "B8A"), None, ("B02", "B03", "B04", "B8A")),
        (("B4, central wavelength 665 nm", "b08", "Green", "SWIR1"), None, ("B04", "B08", "B03", "B11")),
        (("TM1 blue", "TM2 green", "TM4 NIR", "TM5 SWIR1"), None, ("B02", "B03", "B08", "B11")),
        (("SR_B2", "SR_B4", "SR_B5", "SR_B6"), None, ("B02", "B04", "B08", "B11")),
        (("SR_B1", "SR_B3", "SR_B4", "SR_B5"), None, ("B02", "B04", "B08", "B11")),
        (("B2", "B4", "B5", "B7"), "LANDSAT_8", ("B02", "B04", "B08", "B12")),
        (("blue", "green", "red", "nir"), None, S2),
        (("SR_B2", "SR_B3", "SR_B4", "SR_B5"), None, ("SR_B2", "SR_B3", "SR_B4", "SR_B5")),  # two sensors fit: no guess
    ],
)
def test_band_names(tmp_path, names, sensor, expected):
    path = write(tmp_path / "a.tif", ramp(), names=names, tags={"SPACECRAFT_ID": sensor} if sensor else None)
    with Scene.open(path) as scene:
        assert scene.names == expected


def test_unnamed_bands_are_guessed_aloud(tmp_path):
    rgb = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    with Scene.open(write(tmp_path / "rgb.tif", ramp(3, dtype="uint8"), names=None, colorinterp=rgb)) as scene:
        assert scene.names == ("B04", "B03", "B02")
        assert any("not named" in note for note in scene.notes)
        assert scene.radiometry == "dn"
    plain = (ColorInterp.gray, *[ColorInterp.undefined] * 3)
    with Scene.open(write(tmp_path / "rgbn.tif", ramp(4, dtype="uint8"), names=None, colorinterp=plain)) as scene:
        assert scene.names == ("B04", "B03", "B02", "B08")
    with Scene.open(write(tmp_path / "one.tif", ramp(1), names=None)) as scene:
        assert scene.missing(S2) == S2
        assert any("unknown" in note for note in scene.notes)


def test_sidecar_selects_by_stem_and_scales(tmp_path):
    facts = {"before": "2016-03-15", "after": "2017-08-29", "sensor": "Sentinel-2 L1C", "bands": list(S2),
             "scale": 1e-4, "offset": -0.1, "nodata": 7, "operator": "x"}  # fmt: skip
    (tmp_path / "scene.json").write_text(json.dumps(facts), encoding="utf-8")
    data = ramp()
    for stem, date in (("before", dt.date(2016, 3, 15)), ("after", dt.date(2017, 8, 29))):
        with Scene.open(write(tmp_path / f"{stem}.tif", data, names=None)) as scene:
            assert (scene.date, scene.date_source, scene.sensor) == (date, "scene.json", "Sentinel-2 L1C")
            values, valid = scene.read(Window(0, 0, 50, 40), S2)
            np.testing.assert_array_equal(valid, (data != 7).all(axis=0))
            np.testing.assert_allclose(values[:, valid], data[:, valid] * 1e-4 - 0.1, rtol=1e-4, atol=1e-7)
            assert any("operator" in note for note in scene.notes)
    with Scene.open(tmp_path / "after.tif", date="2020-01-02") as scene:
        assert (scene.date, scene.date_source) == (dt.date(2020, 1, 2), "option")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"before": "15.3.2016"}', "YYYY-MM-DD"),
        ('{"date": "2016-13-45", "bands": ["B02"]}', "YYYY-MM-DD"),
        ('{"bands": ["B02"]}', "names 1"),
        ('{"scale": "much"}', "scale"),
        ('{"scale": [1.0, 2.0]}', "2 values"),
        ('{"scale": 0.0001, "offset": -1000}', "-0.1"),
        ('{"scale": 0}', "not 0"),
        ("not json", "scene.json"),
    ],
)
def test_wrong_sidecar(tmp_path, content, match):
    (tmp_path / "scene.json").write_text(content, encoding="utf-8")
    path = write(tmp_path / "before.tif", ramp())
    with pytest.raises(SceneError, match=re.escape(match)) as caught:
        Scene.open(path)
    assert "\n" not in str(caught.value)


def test_dates_from_tags(tmp_path):
    with Scene.open(write(tmp_path / "a.tif", ramp(), tags={"TIFFTAG_DATETIME": "2019:05:06 10:11:12"})) as scene:
        assert scene.date == dt.date(2019, 5, 6)
        assert any("TIFFTAG_DATETIME" in note for note in scene.notes)
    tags = {"PRODUCT_START_TIME": "2022-07-01T02:45:51.024Z", "TIFFTAG_DATETIME": "2023:01:01 00:00:00"}
    with Scene.open(write(tmp_path / "b.tif", ramp(), tags=tags)) as scene:
        assert (scene.date, scene.date_source) == (dt.date(2022, 7, 1), "tag PRODUCT_START_TIME")
    with Scene.open(write(tmp_path / "c.tif", ramp(), tags={"DATE_ACQUIRED": "soon"})) as scene:
        assert scene.date is None
        assert any("passed over" in note for note in scene.notes)
    with pytest.raises(UsageError, match="YYYY-MM-DD"):
        Scene.open(tmp_path / "c.tif", date="2019-02-30")
    assert parse_date(dt.datetime(2020, 1, 2, 3, tzinfo=dt.UTC), "x") == dt.date(2020, 1, 2)


def test_baseline_0400_offset_comes_from_tags_never_from_the_date(tmp_path):
    names = ("B02", "B03", "B04", "B8A")
    tags = {"BOA_ADD_OFFSET": "-1000", "SPACECRAFT_NAME": "Sentinel-2A"}
    data = ramp(start=1001)
    with Scene.open(write(tmp_path / "a.tif", data, names=names, tags=tags)) as scene:
        values, _ = scene.read(Window(0, 0, 50, 40), names)
    np.testing.assert_allclose(values, (data - 1000.0) * 1e-4, atol=1e-6)
    late = {"PRODUCT_START_TIME": "2023-07-01", "SPACECRAFT_NAME": "Sentinel-2A"}
    with Scene.open(write(tmp_path / "b.tif", data, names=names, tags=late)) as scene:
        assert {band.offset for band in scene.bands} == {0.0}
    # GDAL's own offset is already the whole truth: the tag is not applied on top.
    with Scene.open(
        write(tmp_path / "c.tif", data, names=names, tags=tags, scales=(1e-4,) * 4, offsets=(-0.1,) * 4)
    ) as scene:
        assert {band.offset for band in scene.bands} == {-0.1}
    assert add_offsets({"RADIO_ADD_OFFSET_8": "-900", "x": "1"}, ["B8A", "B02"]) == {"B8A": -900.0}
    with pytest.raises(SceneError, match="not a number"):
        add_offsets({"BOA_ADD_OFFSET": "many"}, ["B02"])


def test_validity(tmp_path):
    data = ramp(dtype="float32")
    data[0, 0, 0], data[1, 0, 1], data[2, 0, 2] = np.nan, np.inf, -9999
    with Scene.open(write(tmp_path / "f.tif", data, nodata=-9999)) as scene:
        values, valid = scene.read(Window(0, 0, 50, 40), S2)
        assert scene.radiometry == "dn"
    assert (~valid).sum() == 3
    assert not valid[0, :3].any()
    assert np.isfinite(values).all()
    assert (values[:, 0, :3] == 0).all()
    eight = ramp(dtype="uint8")
    eight[:, 0, 0] = 0
    eight[0, 0, 1] = 0
    with Scene.open(write(tmp_path / "e.tif", eight, nodata=0)) as scene:
        _, valid = scene.read(Window(0, 0, 50, 40), S2)
    assert (~valid).sum() == 1  # black in every band, not merely in one
    alpha = np.concatenate([ramp(3, dtype="uint8"), np.full((1, 40, 50), 255, np.uint8)])
    alpha[3, :5] = 0
    rgba = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    with Scene.open(write(tmp_path / "a.tif", alpha, names=None, colorinterp=rgba)) as scene:
        _, valid = scene.read(Window(0, 0, 50, 40), ["B04"])
        assert len(scene.bands) == 3
    assert (~valid).sum() == 5 * 50


def test_gsd_is_geodesic(tmp_path):
    step = 0.0001
    with Scene.open(
        write(tmp_path / "g.tif", ramp(), crs="EPSG:4326", transform=from_origin(116, 60, step, step))
    ) as scene:
        lat = 60 - 20 * step
        geod = Geod(ellps="WGS84")
        side_x, side_y = geod.inv(116, lat, 116 + step, lat)[2], geod.inv(116, lat, 116, lat - step)[2]
        assert scene.gsd_m == pytest.approx((side_x * side_y) ** 0.5, rel=1e-4)
    feet = write(tmp_path / "feet.tif", ramp(), crs="EPSG:2263", transform=from_origin(1e6, 2e5, 10, 10))
    with Scene.open(feet) as scene:
        assert scene.gsd_m == pytest.approx(3.048, rel=1e-3)


def truncated(path):
    """A COG cut in half: its header stands at the front, so that it opens and only reading fails."""
    whole = write(path.with_name("whole.tif"), np.random.default_rng(0).integers(1, 99, (4, 600, 600)).astype("uint16"))
    rasterio.shutil.copy(whole, path, driver="COG", compress="none", overviews="none")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: p / "none.tif", "no such file"),
        (lambda p: p / "none.json", "no such file"),
        (lambda p: (p / "text.tif").write_text("not an image") and p / "text.tif", "not a raster"),
        (lambda p: truncated(p / "cut.tif"), "columns 599-600"),
        (lambda p: write(p / "a.tif", ramp(), crs=None), "no CRS"),
        (lambda p: write(p / "a.tif", ramp(), nodata=0) and write(p / "b.tif", ramp() * 0, nodata=0), "no valid pixel"),
        (lambda p: write(p / "a.tif", ramp(height=1, width=1)), "1 x 1 px"),
        (lambda p: write(p / "a.tif", ramp().astype("complex64")), "real-valued"),
        (lambda p: write(p / "a.tif", np.full((4, 9, 9), np.nan, "float32")), "no valid pixel"),
    ],
)
def test_errors_are_one_line(tmp_path, make, match):
    path = make(tmp_path)
    with pytest.raises(SceneError, match=match) as caught:
        Scene.open(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # the test writes such a file on purpose
def test_no_transform(tmp_path):
    path = write(tmp_path / "a.tif", ramp(), transform=Affine.identity())
    with pytest.raises(SceneError, match="no georeferencing"):
        Scene.open(path)


def item(tmp_path, **properties):
    data = ramp(1, 40, 40, start=2000)
    write(tmp_path / "b" / "red.tif", data, names=None, nodata=0)
    write(
        tmp_path / "b" / "swir.tif",
        ramp(1, 20, 20, start=3000),
        names=None,
        transform=from_origin(500000, 4000000, 20, 20),
    )
    assets = {
        "swir16": {"href": "./b/swir.tif", "eo:bands": [{"name": "swir16", "common_name": "swir16"}]},
        "red": {"href": "b/red.tif", "eo:bands": [{"name": "red", "common_name": "red"}]},
        "thumbnail": {"href": "none.jpg", "roles": ["thumbnail"]},
    }
    if "scale" in properties:
        for asset in assets.values():
            asset["raster:bands"] = [{"scale": properties["scale"], "offset": properties["offset"]}]
    facts = {"datetime": "2023-06-01T03:04:05Z", "platform": "sentinel-2a", **properties}
    path = tmp_path / "item.json"
    path.write_text(json.dumps({"type": "Feature", "properties": facts, "assets": assets}), encoding="utf-8")
    return path, data


def test_stac_item_stacks_its_assets(tmp_path):
    path, data = item(tmp_path, scale=1e-4, offset=-0.1)
    with Scene.open(path) as scene:
        assert scene.names == ("B04", "B11")
        assert (scene.date, scene.date_source, scene.gsd_m) == (
            dt.date(2023, 6, 1),
            "STAC item",
            pytest.approx(10, rel=0.01),
        )
        values, valid = pickle.loads(pickle.dumps(scene)).read(Window(0, 0, 40, 40), ["B04", "B11"])  # noqa: S301
    assert valid.all()
    np.testing.assert_allclose(values[0], data[0] * 1e-4 - 0.1, atol=1e-6)
    assert values[1].min() > 0.19


@pytest.mark.parametrize(
    ("properties", "offset"),
    [
        ({"scale": 1e-4, "offset": -0.1, "earthsearch:boa_offset_applied": True}, 0.0),
        ({"scale": 1e-4, "offset": -0.1, "earthsearch:boa_offset_applied": False}, -0.1),
        ({"s2:processing_baseline": "05.09"}, -0.1),
        ({"s2:processing_baseline": "03.01"}, 0.0),
        ({}, 0.0),
    ],
)
def test_stac_offset(tmp_path, properties, offset):
    path, _ = item(tmp_path, **properties)
    with Scene.open(path) as scene:
        assert {band.offset for band in scene.bands} == {offset}
        assert {band.scale for band in scene.bands} == {1e-4}


@pytest.mark.parametrize(
    "content", ["{", '{"type": "Feature"}', '{"type": "Feature", "assets": {"a": {"href": "x.tif"}}}']
)
def test_wrong_stac_item(tmp_path, content):
    path = tmp_path / "item.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SceneError):
        Scene.open(path)


@pytest.mark.data
@pytest.mark.parametrize("city", ["saclay_e", "beirut"])
def test_real_city(data_root, city):
    with Scene.open(data_root / "oscd" / city / "before.tif") as scene:
        facts = json.loads((data_root / "oscd" / city / "scene.json").read_text(encoding="utf-8"))
        assert scene.names == tuple(facts["bands"])
        assert str(scene.date) == facts["before"]
        assert scene.radiometry == "reflectance"
        assert 9 < scene.gsd_m < 11.5
        values, valid = scene.read(Window(100, 100, 64, 64), ["B04"])
        assert valid.mean() > 0.9
        assert 0 < values[0, valid].mean() < 0.5


@pytest.mark.data
def test_real_landsat(data_root):
    with Scene.open(data_root / "landsat_cn" / "taizhou_A.tif") as scene:
        assert scene.names == ("B02", "B03", "B04", "B08", "B11", "B12")
        assert scene.missing(["B05", "B8A", "B12"]) == ("B05", "B8A")
        assert scene.radiometry == "dn"
        assert scene.gsd_m == pytest.approx(30, rel=0.01)
