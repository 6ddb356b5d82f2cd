"""Pairs: overlap, warping, correction, and every way in which two scenes cannot be compared."""

from __future__ import annotations

import datetime as dt
import pickle

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine
from rasterio.warp import Resampling, reproject, transform_bounds
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from tuban.data.grid import Grid
from tuban.data.pair import PairSettings, open_pair
from tuban.data.radiometry import RadiometrySettings
from tuban.data.registration import RegistrationSettings
from tuban.data.scene import Scene
from tuban.data.warp import read_on_grid
from tuban.errors import PairError, SceneError, UsageError

NAMES = ("B02", "B03", "B04")
UTM = Affine(10, 0, 500000, 0, -10, 4000000)
OFF = PairSettings(registration=RegistrationSettings(enabled=False), radiometry=RadiometrySettings(enabled=False))
NO_SHIFT = PairSettings(registration=RegistrationSettings(enabled=False))


def landscape(height=120, width=140, seed=0, smooth=2.5):
    """Smooth reflectances whose bands correlate, as a landscape's do."""
    rng = np.random.default_rng(seed)
    shared = gaussian_filter(rng.normal(0, 1, (height, width)), smooth)
    own = np.stack([gaussian_filter(rng.normal(0, 1, (height, width)), smooth) for _ in NAMES])
    image = shared / shared.std() + 0.4 * own / own.std()
    return (0.2 + 0.03 * image).astype("float32")


def write(path, image, *, crs="EPSG:32650", transform=UTM, names=NAMES, date=None, nodata=np.nan):
    with rasterio.open(
        path, "w", driver="GTiff", count=len(image), height=image.shape[1], width=image.shape[2], dtype=image.dtype,
        crs=crs, transform=transform, nodata=nodata,
    ) as dst:  # fmt: skip
        dst.write(image)
        dst.descriptions = names
        if date:
            dst.update_tags(ACQUISITIONDATETIME=date)
    return path


def at(col, row, transform=UTM):
    return transform @ Affine.translation(col, row)


def whole(pair):
    return Window(0, 0, pair.width, pair.height)


def test_overlap_of_scenes_of_different_size_is_read_unchanged(tmp_path):
    image = landscape()
    a = write(tmp_path / "前 时相.tif", image[:, :90, :100])
    b = write(tmp_path / "后.tif", image[:, 20:, 30:], transform=at(30, 20))
    with open_pair(a, b, settings=OFF) as pair:
        assert (pair.height, pair.width) == (70, 70)
        assert pair.transform == at(30, 20)
        read = pickle.loads(pickle.dumps(pair)).read(whole(pair), NAMES)  # noqa: S301
        outside = pair.read(Window(-5, 65, 10, 10), NAMES)
    np.testing.assert_array_equal(read.before, image[:, 20:90, 30:100])
    np.testing.assert_array_equal(read.after, read.before)
    assert read.valid.all()
    # BEFORE has pixels to the left of the overlap; the pair does not.
    assert outside.valid.sum() == 25
    assert outside.valid[:5, 5:].all()


def test_shared_pixels_on_another_origin_within_the_overlap(tmp_path):
    image = landscape()
    a = write(tmp_path / "a.tif", image)
    b = write(tmp_path / "b.tif", image[:, 10:80, 15:95], transform=at(15, 10))
    with open_pair(a, b, settings=OFF) as pair:
        assert (pair.height, pair.width) == (70, 80)
        read = pair.read(Window(7, 9, 20, 30), NAMES)
    np.testing.assert_array_equal(read.after, image[:, 19:49, 22:42])


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 5), st.sampled_from(["EPSG:4326", "EPSG:32651", "EPSG:3857", "EPSG:4527"]))
def test_after_in_another_crs_reads_back(tmp_path_factory, seed, crs):
    folder = tmp_path_factory.mktemp("crs")
    image = landscape(seed=seed)
    a = write(folder / "a.tif", image)
    west, south, east, north = transform_bounds("EPSG:32650", crs, 500000, 3998800, 501400, 4000000)
    width, height = 150, 135
    t = Affine((east - west) / width, 0, west, 0, (south - north) / height, north)
    moved = np.full((3, height, width), np.nan, "float32")
    reproject(image, moved, src_transform=UTM, src_crs="EPSG:32650", dst_transform=t, dst_crs=crs, src_nodata=np.nan,
              dst_nodata=np.nan, resampling=Resampling.cubic)  # fmt: skip
    b = write(folder / "b.tif", moved, crs=crs, transform=t)
    with open_pair(a, b, settings=OFF) as pair:
        read = pair.read(whole(pair), NAMES)
    assert read.valid.mean() > 0.95
    error = (read.before - read.after)[:, read.valid]
    assert (
        np.sqrt((error**2).mean()) < 0.05 * image.std()
    )  # docs/pairs.md: two resamplings cost below 5 % of the spread


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(-10, 90), st.integers(-10, 90), st.integers(1, 60), st.integers(1, 60))
def test_warped_values_do_not_depend_on_the_window(tmp_path_factory, col, row, width, height):
    folder = tmp_path_factory.getbasetemp() / "tiling"
    if not folder.exists():
        folder.mkdir()
        write(folder / "a.tif", landscape())
        write(folder / "b.tif", landscape(seed=1), transform=Affine(8.7, 0.3, 499960, 0.2, -9.1, 4000040))
    with open_pair(folder / "a.tif", folder / "b.tif", settings=OFF) as pair:
        full = pair.read(whole(pair), NAMES)
        part = pair.read(Window(col, row, width, height), NAMES)
    rows, cols = np.arange(row, row + height), np.arange(col, col + width)
    inside = np.ix_((rows >= 0) & (rows < pair.height), (cols >= 0) & (cols < pair.width))
    pick = np.ix_(rows[(rows >= 0) & (rows < pair.height)], cols[(cols >= 0) & (cols < pair.width)])
    np.testing.assert_array_equal(part.valid[inside], full.valid[pick])
    for i in range(3):
        np.testing.assert_allclose(part.after[i][inside], full.after[i][pick], atol=1e-6)


def test_a_much_finer_after_is_averaged_in_pieces(tmp_path, monkeypatch):
    image = landscape(24, 24)
    fine = np.repeat(np.repeat(image, 8, axis=1), 8, axis=2)
    a = write(tmp_path / "a.tif", image)
    b = write(tmp_path / "b.tif", fine, transform=UTM @ Affine.scale(1 / 8))
    monkeypatch.setattr("tuban.data.warp.MAX_SOURCE_PX", 10_000)
    with open_pair(a, b, settings=OFF) as pair:
        assert any("pixel sizes differ" in note for note in pair.notes)
        read = pair.read(whole(pair), NAMES)
    inner = (slice(None), slice(2, -2), slice(2, -2))
    assert read.valid.all()
    assert np.abs(read.after - read.before)[inner].max() < 0.5 * image.std()
    assert np.corrcoef(read.after[inner].ravel(), read.before[inner].ravel())[0, 1] > 0.99


def test_nodata_does_not_bleed_through_the_warp(tmp_path):
    image = np.full((3, 60, 60), 0.2, "float32")
    image[:, 20:30, 20:30] = np.nan
    a = write(tmp_path / "a.tif", np.full((3, 60, 60), 0.2, "float32"))
    b = write(tmp_path / "b.tif", np.where(np.isnan(image), -9999, image), nodata=-9999, transform=at(0.4, 0.3))
    with open_pair(a, b, settings=OFF) as pair:
        read = pair.read(whole(pair), NAMES)
    np.testing.assert_allclose(read.after[:, read.valid], 0.2, rtol=1e-5)
    assert 60 <= (~read.valid[15:35, 15:35]).sum() <= 120


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, -0.4), (-1.3, 2.2)])
def test_registration_is_measured_and_corrected(tmp_path, shift):
    image = landscape(200, 220, smooth=1.5)
    with Scene.open(write(tmp_path / "big.tif", image)) as scene:
        content, valid = read_on_grid(scene, Grid(scene.crs, UTM, 200, 220), NAMES, shift=(-shift[0], -shift[1]))
    content[:, ~valid] = np.nan
    a, b = tmp_path / "big.tif", write(tmp_path / "b.tif", content * 0.8 + 0.05)
    with open_pair(a, b) as pair:
        found = pair.registration
        assert np.hypot(found.dx_px - shift[0], found.dy_px - shift[1]) < 0.15
        assert found.action == ("corrected" if any(shift) else "none")
        assert found.residual_px < 0.15
        np.testing.assert_allclose(pair.radiometry.gain, 1.25, rtol=0.03)
        read = pair.read(Window(20, 20, 160, 160), NAMES)
    assert np.sqrt(((read.before - read.after)[:, read.valid] ** 2).mean()) < 0.3 * image.std()
    assert not pair.downgraded


def test_radiometry_undoes_stored_units_and_offset(tmp_path):
    image = landscape()
    a = write(tmp_path / "a.tif", image)
    b = write(tmp_path / "b.tif", np.round(image * 10000 + 1000).astype("uint16"), nodata=0)
    with open_pair(a, b) as pair:
        read = pair.read(whole(pair), [*NAMES, "B11"])
        assert any("units differ" in note for note in pair.notes)
    np.testing.assert_allclose(read.after[:3], read.before[:3], atol=2e-4)
    assert np.isnan(read.after[3]).all()
    assert pair.summary()["radiometry"]["action"] == "normalised"


def test_unrelated_scenes_are_refused(tmp_path):
    a, b = write(tmp_path / "a.tif", landscape(seed=1)), write(tmp_path / "b.tif", landscape(seed=2))
    with pytest.raises(PairError, match="radiometry"):
        open_pair(a, b)


def test_a_large_shift_is_refused(tmp_path):
    image = landscape(400, 420, smooth=1.2)
    a = write(tmp_path / "a.tif", image[:, 20:380, 20:380])
    b = write(tmp_path / "b.tif", image[:, 20:380, 34:394])
    with pytest.raises(PairError, match="co-register"):
        open_pair(a, b)


def test_aoi_limits_the_window_and_masks(tmp_path):
    import geopandas as gpd
    from shapely.geometry import Polygon

    image = landscape()
    a, b = write(tmp_path / "a.tif", image), write(tmp_path / "b.tif", image)
    x, y = at(20, 30) @ (0, 0)
    triangle = gpd.GeoSeries([Polygon([(x, y), (x + 400, y), (x, y - 400)])], crs="EPSG:32650")
    triangle.to_crs("EPSG:4326").to_file(tmp_path / "区域.gpkg")
    with open_pair(a, b, aoi=tmp_path / "区域.gpkg", settings=OFF) as pair:
        assert (pair.height, pair.width) in {(h, w) for h in (40, 41, 42) for w in (40, 41, 42)}
        valid = pair.read(whole(pair), NAMES).valid
    assert abs(valid.sum() - 800) < 45  # half of 40 x 40
    triangle.translate(1e6).to_file(tmp_path / "far.gpkg")
    with pytest.raises(PairError, match="inside the area of interest"):
        open_pair(a, b, aoi=tmp_path / "far.gpkg")
    (tmp_path / "bad.geojson").write_text("{}", encoding="utf-8")
    for name, match in (("none.gpkg", "no such file"), ("bad.geojson", "area of interest")):
        with pytest.raises(PairError, match=match):
            open_pair(a, b, aoi=tmp_path / name)


def test_no_overlap_names_both_extents(tmp_path):
    image = landscape(40, 40)
    a, b = write(tmp_path / "a.tif", image), write(tmp_path / "b.tif", image, transform=at(5000, 0))
    with pytest.raises(PairError, match=r"lon 1\d\d\.\d+.*lon 1\d\d\.\d+") as caught:
        open_pair(a, b)
    assert "\n" not in str(caught.value)
    left, right = image.copy(), image.copy()
    left[:, :, :25], right[:, :, 20:] = np.nan, np.nan
    with pytest.raises(PairError, match="no pixel that is valid in both"):
        open_pair(write(tmp_path / "c.tif", left), write(tmp_path / "d.tif", right))


def test_dates(tmp_path):
    image = landscape(40, 40)
    a = write(tmp_path / "a.tif", image, date="2020-05-01")
    b = write(tmp_path / "b.tif", image, date="2019-05-01")
    with pytest.raises(PairError, match="reversed"):
        open_pair(a, b)
    with open_pair(a, b, date_after=dt.date(2020, 5, 1), settings=OFF) as pair:
        assert any("both scenes have the date" in note for note in pair.notes)
    c = write(tmp_path / "c.tif", image)
    with open_pair(a, c, settings=OFF) as pair:
        assert "after: no date is known" in pair.notes
    with pytest.raises(UsageError):
        open_pair(a, b, date_before="yesterday")


def test_no_common_band_and_broken_after(tmp_path):
    image = landscape(40, 40)
    a = write(tmp_path / "a.tif", image)
    with pytest.raises(PairError, match="no common band"):
        open_pair(a, write(tmp_path / "b.tif", image[:1], names=("B11",)))
    with pytest.raises(SceneError, match="no such file"):
        open_pair(a, tmp_path / "none.tif")


def test_tiny_overlap_is_downgraded_not_refused(tmp_path):
    image = landscape(20, 20)
    a, b = write(tmp_path / "a.tif", image), write(tmp_path / "b.tif", image)
    with open_pair(a, b) as pair:
        assert pair.registration.action == "downgraded"
        assert pair.downgraded
        assert any("registration not measured" in note for note in pair.notes)


@pytest.mark.data
def test_real_pairs(data_root):
    for folder, first, second in (
        ("oscd/bercy", "before.tif", "after.tif"),
        ("naip_nd", "m_4709963_se_14_1_20090818.tif", "m_4709963_se_14_1_20150926.tif"),
    ):
        with open_pair(data_root / folder / first, data_root / folder / second) as pair:
            assert pair.radiometry.action == "normalised"
            assert pair.registration.action == {"oscd/bercy": "corrected", "naip_nd": "downgraded"}.get(folder, "none")


@pytest.mark.data
def test_halves_of_a_real_city_and_other_places(data_root, tmp_path):
    paths = [data_root / "oscd" / city / f"{date}.tif" for city in ("rennes", "paris") for date in ("before", "after")]
    with rasterio.open(paths[1]) as src:
        data, transform, names = src.read(), src.transform, src.descriptions
    half = data.shape[2] // 2
    for name, cols in (("left", slice(0, half)), ("right", slice(half, None))):
        image = data[:, :, cols]
        origin = transform @ Affine.translation(cols.start, 0)
        write(tmp_path / f"{name}.tif", image, crs="EPSG:4326", transform=origin, names=names, nodata=0)
    with open_pair(paths[0], tmp_path / "right.tif") as pair:
        assert pair.width == data.shape[2] - half
        assert pair.radiometry.score > 0.8
    with pytest.raises(PairError, match="do not overlap"):
        open_pair(tmp_path / "left.tif", tmp_path / "right.tif")
    with rasterio.open(paths[3]) as src:
        other = src.read()[:, : data.shape[1], : data.shape[2]]
    write(tmp_path / "other.tif", other, crs="EPSG:4326", transform=transform, names=names, nodata=0)
    with pytest.raises(PairError, match="same place"):
        open_pair(paths[0], tmp_path / "other.tif")
