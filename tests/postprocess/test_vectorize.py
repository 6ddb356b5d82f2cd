from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from rasterio import Affine, features

from tuban.configs.compose import settings as settings_of
from tuban.errors import OutputError, SceneError, UsageError
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.vectorize import VectorizeSettings, vectorize

UTM = ("EPSG:32650", Affine(10, 0, 5e5, 0, -10, 4.4e6))
DEGREES = ("EPSG:4490", Affine(1e-4, 0, 116, 0, -1e-4, 40))


def write(path, values, *, crs=UTM[0], transform=UTM[1], nodata=0):
    profile = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **profile) as sink:
        sink.write(values, 1)
    return path


def blobs(shape, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 5, (shape[0] // 4 + 1, shape[1] // 4 + 1))
    values = np.kron(coarse, np.ones((4, 4), int))[: shape[0], : shape[1]]
    return np.where(rng.random(shape) < 0.1, rng.integers(0, 5, shape), values).astype(np.uint8)


def expected(values, keep):
    """What GDAL makes of the whole array."""
    shapes = features.shapes(values, mask=keep, connectivity=4)
    return sorted((shapely.normalize(shapely.geometry.shape(shape)).wkb, int(value)) for shape, value in shapes)


@pytest.mark.parametrize(("crs", "transform"), [UTM, DEGREES], ids=["utm", "degrees"])
@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb", "shp"])
def test_writes_classes_and_areas(tmp_path, crs, transform, suffix):
    values = blobs((40, 50))
    raster = write(tmp_path / "类 别.tif", values, crs=crs, transform=transform)
    out = tmp_path / f"图 斑.{suffix}"
    summary = vectorize(raster, out, VectorizeSettings(strip_pixels=300))
    frame = gpd.read_file(out)
    assert set(frame.columns) == {"class", "class_id", "area_m2", "geometry"}
    assert frame.crs.to_epsg() == int(crs[5:])
    assert len(frame) == summary.polygons == len(expected(values, values != 0))
    assert set(frame["class"]) == {"cropland", "plastic_greenhouse", "orchard", "tree"}
    area = geodesic_area(frame.geometry.to_numpy(), frame.crs)
    assert frame["area_m2"].to_numpy() == pytest.approx(area, abs=0.006)
    assert sum(summary.area_m2.values()) == pytest.approx(area.sum(), rel=1e-5)


@pytest.mark.parametrize("below_min", ["flag", "merge"])
def test_classes_beyond_32_bits_keep_their_number(tmp_path, below_min):
    values = np.full((20, 20), 3_000_000_000, np.uint32)
    values[5:9, 5:9], values[0, 0] = 4_294_967_290, 7
    settings = VectorizeSettings(min_area_m2=300.0, below_min=below_min)
    vectorize(write(tmp_path / "a.tif", values), tmp_path / "a.gpkg", settings)
    frame = gpd.read_file(tmp_path / "a.gpkg")
    assert set(frame["class_id"]) == {3_000_000_000, 4_294_967_290} | ({7} if below_min == "flag" else set())
    assert {"3000000000", "4294967290"} <= set(frame["class"])


def test_same_bytes_twice(tmp_path):
    raster = write(tmp_path / "a.tif", blobs((30, 30)))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        vectorize(raster, tmp_path / name / "out.gpkg")
    assert (tmp_path / "one" / "out.gpkg").read_bytes() == (tmp_path / "two" / "out.gpkg").read_bytes()


def test_small_polygons_are_flagged_not_dropped(tmp_path):
    raster = write(tmp_path / "a.tif", blobs((30, 30)))
    plain = vectorize(raster, tmp_path / "a.gpkg")
    summary = vectorize(raster, tmp_path / "b.gpkg", VectorizeSettings(min_area_m2=150))
    frame = gpd.read_file(tmp_path / "b.gpkg")
    assert len(frame) == plain.polygons
    assert summary.below_min == frame["below_min"].sum() == (frame["area_m2"] < 150).sum() > 0


@pytest.mark.parametrize("suffix", ["gpkg", "fgb", "geojson"])
def test_simplified_neighbours_still_share_edges(tmp_path, suffix):
    values = np.maximum(blobs((60, 60)), 1)
    raster = write(tmp_path / "a.tif", values)
    chosen = VectorizeSettings(simplify_m=15, strip_pixels=300)
    summary = vectorize(raster, tmp_path / f"a.{suffix}", chosen)
    shapes = gpd.read_file(tmp_path / f"a.{suffix}").geometry.to_numpy()
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)
    assert shapely.union_all(shapes).area == pytest.approx(60 * 60 * 100, rel=1e-9)
    plain = vectorize(raster, tmp_path / "b.gpkg")
    pixels = gpd.read_file(tmp_path / "b.gpkg").geometry.to_numpy()
    assert len(shapes) == len(pixels) == plain.polygons == summary.polygons
    assert shapely.get_num_coordinates(shapes).sum() < shapely.get_num_coordinates(pixels).sum()
    drift = summary.generalized
    assert drift is not None
    assert 0 <= drift.largest_class_drift <= drift.largest_polygon_drift < 1e-4
    assert 0 < drift.stepped < summary.polygons
    assert drift.area_after_m2 == pytest.approx(summary.area_m2, rel=1e-6)
    assert drift.area_before_m2 == pytest.approx(plain.area_m2, rel=1e-6)


def test_merged_layer_has_no_gaps_and_says_what_moved(tmp_path):
    raster = write(tmp_path / "a.tif", blobs((60, 60)))
    plain = vectorize(raster, tmp_path / "a.gpkg")
    chosen = VectorizeSettings(mmu={"cropland": 300, "2": 700}, min_area_m2=500, below_min="merge", simplify_m=12)
    summary = vectorize(raster, tmp_path / "b.gpkg", chosen)
    frame = gpd.read_file(tmp_path / "b.gpkg")
    shapes = frame.geometry.to_numpy()
    assert shapely.coverage_is_valid(shapes)
    assert sum(summary.area_m2.values()) == pytest.approx(sum(plain.area_m2.values()), rel=1e-6)
    unit = frame["class_id"].map({1: 300, 2: 700}).fillna(500)
    assert np.array_equal(frame["below_min"], frame["area_m2"] < unit)
    alone = shapely.area(shapely.get_parts(shapely.union_all(shapes)))
    assert summary.below_min == frame["below_min"].sum() <= (alone < 700).sum()  # only what nodata surrounds is left
    for name, area in summary.area_m2.items():
        moved = sum(m["area_m2"] * ((m["to"] == name) - (m["from"] == name)) for m in summary.merged)
        assert plain.area_m2[name] + moved == pytest.approx(area, rel=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif", "a.gpkg", "b.gpkg"}
    vectorize(raster, tmp_path / "c.gpkg", chosen.model_copy(update={"strip_pixels": 130}))
    other = gpd.read_file(tmp_path / "c.gpkg").geometry.to_numpy()
    assert sorted(shapely.to_wkb(other)) == sorted(shapely.to_wkb(shapes))


def test_wrong_settings_name_the_remedy():
    with pytest.raises(ValueError, match="no class is called farm"):
        VectorizeSettings(mmu={"farm": 1})
    with pytest.raises(ValueError, match="give simplify_m"):
        VectorizeSettings(smooth=True)
    with pytest.raises(ValueError, match="noded=true"):
        VectorizeSettings(noded=False, simplify_m=5)


def test_errors_leave_nothing_behind(tmp_path):
    raster = write(tmp_path / "a.tif", blobs((10, 10)))
    fractions = write(tmp_path / "f.tif", blobs((10, 10)).astype(np.float32) + np.float32(0.5))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SceneError, match="fractions"):
        vectorize(fractions, tmp_path / "out.gpkg")
    with pytest.raises(UsageError, match="suffix"):
        vectorize(raster, tmp_path / "out.nonsense")
    with pytest.raises(OutputError, match="folder"):
        vectorize(raster, tmp_path / "absent" / "out.gpkg")
    with pytest.raises(SceneError, match="cannot read"):
        vectorize(tmp_path / "none.tif", tmp_path / "out.gpkg")
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_to_write_is_an_empty_layer(tmp_path):
    summary = vectorize(write(tmp_path / "a.tif", np.zeros((5, 5), np.uint8)), tmp_path / "out.gpkg")
    assert summary.polygons == len(gpd.read_file(tmp_path / "out.gpkg")) == 0


def test_shipped_config_is_the_default():
    assert settings_of("vectorize", VectorizeSettings) == VectorizeSettings()
    chosen = settings_of("vectorize", VectorizeSettings, ["mmu=cn", "mmu.road=50", "min_area_m2=600"])
    assert (chosen.unit_of(10), chosen.unit_of(9), chosen.unit_of(7)) == (50, 200, 600)
