from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio import Affine, features

from tuban.errors import OutputError, SceneError, UsageError
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.cycles import rank_cycles
from tuban.postprocess.trace import Tracer
from tuban.postprocess.vectorize import VectorizeSettings, iter_polygons, vectorize

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


def trace(values, keep, rows, *, noded):
    """All polygons of an array in lattice coordinates, with their classes."""
    tracer = Tracer(values.shape[1], noded=noded)
    done = [tracer.push(values[row : row + rows], keep[row : row + rows]) for row in range(0, len(values), rows)]
    done.append(tracer.finish())
    assert tracer.open_vertices == 0
    shapes = [
        shapely.from_ragged_array(
            shapely.GeometryType.POLYGON,
            np.stack([r.col, r.row], axis=1).astype(float),
            (r.ring_starts, r.polygon_starts),
        )
        for r in done
    ]
    return np.concatenate(shapes), np.concatenate([r.values for r in done])


def expected(values, keep):
    """What GDAL makes of the whole array."""
    shapes = features.shapes(values, mask=keep, connectivity=4)
    return sorted((shapely.normalize(shapely.geometry.shape(shape)).wkb, int(value)) for shape, value in shapes)


RASTERS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))


@settings(max_examples=150, deadline=None)
@given(RASTERS, st.integers(1, 12), st.booleans())
def test_equals_gdal_on_the_whole_array(values, rows, mask_zero):
    keep = values != 0 if mask_zero else np.ones(values.shape, bool)
    shapes, classes = trace(values, keep, rows, noded=False)
    assert sorted((shapely.normalize(s).wkb, int(v)) for s, v in zip(shapes, classes, strict=True)) == expected(
        values, keep
    )
    assert shapely.is_valid(shapes).all()


@settings(max_examples=100, deadline=None)
@given(RASTERS, st.integers(1, 12))
def test_shared_edges_and_the_same_bytes_for_any_strip(values, rows):
    keep = values != 0
    shapes, classes = trace(values, keep, rows, noded=True)
    assert shapely.is_valid(shapes).all()
    assert len(shapes) == 0 or shapely.coverage_is_valid(shapes)
    assert shapely.area(shapes).sum() == keep.sum()
    whole, _ = trace(values, keep, len(values), noded=True)
    assert sorted(s.wkb for s in shapes) == sorted(s.wkb for s in whole)
    if len(shapes):  # burns back to the same raster
        burnt = features.rasterize(
            zip(shapes, classes, strict=True), out_shape=values.shape, transform=Affine.identity(), dtype="uint8"
        )
        assert np.array_equal(burnt, np.where(keep, values, 0))


def test_ring_in_ring_and_diagonal_touch():
    values = np.ones((7, 7), np.uint8)
    values[1:6, 1:6] = 2
    values[2:5, 2:5] = 1
    values[0, 0] = 3  # touches class 2 diagonally at (1, 1)
    shapes, classes = trace(values, np.ones((7, 7), bool), 2, noded=False)
    found = {(int(v), s.area, len(s.interiors)) for s, v in zip(shapes, classes, strict=True)}
    assert found == {(1, 23, 1), (2, 16, 1), (1, 9, 0), (3, 1, 0)}


@given(st.permutations(range(40)))
def test_cycles_against_walking(order):
    following = np.array(order)
    cycle, position, length = rank_cycles(following)
    for member in range(40):
        after = following[member]
        assert cycle[member] == cycle[after]
        assert position[after] == (position[member] + 1) % length[cycle[member]]
    assert np.array_equal(np.bincount(cycle), length)


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


@pytest.mark.parametrize("vertices", [10**6, 300])
def test_simplified_neighbours_still_share_edges(tmp_path, vertices):
    values = np.maximum(blobs((60, 60)), 1)
    raster = write(tmp_path / "a.tif", values)
    summary = vectorize(
        raster, tmp_path / "a.gpkg", VectorizeSettings(simplify_m=15, simplify_vertices=vertices, strip_pixels=300)
    )
    frame = gpd.read_file(tmp_path / "a.gpkg")
    shapes = frame.geometry.to_numpy()
    assert (summary.simplify_groups == 1) == (vertices == 10**6)
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)
    whole = shapely.union_all(shapes)
    assert shapely.area(shapes).sum() == pytest.approx(whole.area, rel=1e-9)
    assert not whole.interiors
    assert whole.area == pytest.approx(60 * 60 * 100, rel=0.01)
    assert len(shapes) == len(expected(values, values != 0))
    plain = vectorize(raster, tmp_path / "b.gpkg")
    assert (
        shapely.get_num_coordinates(shapes).sum()
        < shapely.get_num_coordinates(gpd.read_file(tmp_path / "b.gpkg").geometry.to_numpy()).sum()
    )
    assert plain.simplify_drift == 0 < summary.simplify_drift < 0.1


def test_memory_is_bounded_by_the_open_components():
    # Two-row blobs over a tall raster: what is held never grows with the height.
    tracer = Tracer(300)
    held = []
    for seed in range(30):
        values = blobs((16, 300), seed)
        values[-1] = 0
        tracer.push(values, values != 0)
        held.append(tracer.open_vertices)
    assert max(held) == 0
    rng = np.random.default_rng(0)
    peaks = []
    for _ in range(60):
        values = rng.integers(1, 7, (8, 300)).astype(np.uint8)
        tracer.push(values, values != 0)
        peaks.append(tracer.open_vertices)
    assert max(peaks[30:]) < 2 * max(peaks[:30])


def test_floats_that_are_classes_and_floats_that_are_not(tmp_path):
    values = blobs((10, 10)).astype(np.float32)
    raster = write(tmp_path / "a.tif", values)
    count = sum(len(batch.value) for batch in iter_polygons(raster, mask_values=(2,)))
    kept = np.isin(values, (1, 3, 4))
    assert count == len(expected(values.astype(np.uint8), kept))
    with pytest.raises(SceneError, match="fractions"):
        list(iter_polygons(write(tmp_path / "b.tif", values + np.float32(0.5))))


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
    with pytest.raises(UsageError, match="band 2"):
        list(iter_polygons(raster, band=2))
    with pytest.raises(UsageError, match="noded"):
        vectorize(raster, tmp_path / "out.gpkg", VectorizeSettings(noded=False, simplify_m=5))
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_to_write_is_an_empty_layer(tmp_path):
    summary = vectorize(write(tmp_path / "a.tif", np.zeros((5, 5), np.uint8)), tmp_path / "out.gpkg")
    assert summary.polygons == len(gpd.read_file(tmp_path / "out.gpkg")) == 0


def test_shipped_config_is_the_default():
    from importlib.resources import files

    shipped = yaml.safe_load(files("tuban.configs").joinpath("vectorize.yaml").read_text(encoding="utf-8"))
    assert VectorizeSettings(**shipped) == VectorizeSettings()
