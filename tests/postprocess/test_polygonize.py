from __future__ import annotations

import numpy as np
import pytest
import rasterio
import shapely
from rasterio import Affine, features

from tuban.errors import SceneError, UsageError
from tuban.postprocess.polygonize import iter_polygons, strips
from tuban.postprocess.vectorize_settings import VectorizeSettings

UTM = Affine(10, 0, 5e5, 0, -10, 4.4e6)


def write(path, values, *, nodata=None, **options):
    options = {"crs": "EPSG:32650", "transform": UTM} | options
    profile = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", **profile, **options) as sink:
        sink.write(values, 1)
    return path


def patches(shape, seed=0):
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 5, (shape[0] // 4 + 1, shape[1] // 4 + 1)), np.ones((4, 4), int))
    return np.where(rng.random(shape) < 0.1, rng.integers(0, 5, shape), coarse[: shape[0], : shape[1]]).astype(np.uint8)


def ordered(shapes, classes):
    wkb = shapely.to_wkb(shapely.normalize(np.asarray(list(shapes), object)))
    return sorted(zip(wkb, map(int, classes), strict=True))


def expected(values, keep, transform=UTM):
    found = list(features.shapes(values, mask=keep, connectivity=4, transform=transform))
    return ordered((shapely.geometry.shape(shape) for shape, _ in found), (value for _, value in found))


def polygons(path, **options):
    batches = list(iter_polygons(path, **options))
    assert all(len(batch.value) for batch in batches)
    return np.concatenate([b.geometry for b in batches]), np.concatenate([b.value for b in batches])


@pytest.mark.parametrize("pixels", [1, 100, 333, 10**6])
@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}])
def test_equals_gdal_for_any_strip_and_block(tmp_path, pixels, layout):
    values = patches((50, 41))
    path = write(tmp_path / "图 斑.tif", values, nodata=0, **layout)
    settings = VectorizeSettings(strip_pixels=pixels, noded=False)
    assert ordered(*polygons(path, settings=settings)) == expected(values, values != 0)


def test_nodata_mask_and_mask_values_form_no_polygon(tmp_path):
    values = patches((40, 30))
    path = write(tmp_path / "a.tif", values, nodata=0)
    with rasterio.open(path, "r+") as sink:
        sink.nodata = None
        inside = np.indices(values.shape)[1] > 3
        sink.write_mask(inside)
    settings = VectorizeSettings(noded=False, mask_values=(2,))
    keep = inside & ~np.isin(values, (1, 2))
    assert ordered(*polygons(path, settings=settings, mask_values=(1,))) == expected(values, keep)


def test_rotated_grid(tmp_path):
    transform = Affine(10, 3, 5e5, -2, -9, 4e6)
    values = patches((20, 20))
    path = write(tmp_path / "a.tif", values, transform=transform)
    shapes, classes = polygons(path, settings=VectorizeSettings(noded=False))
    assert ordered(shapes, classes) == expected(values, np.ones(values.shape, bool), transform)


def test_prepare_changes_what_is_traced_and_counts_it(tmp_path):
    values = patches((33, 30))
    path = write(tmp_path / "a.tif", values)
    seen = []

    def prepare(window, classes, keep):
        seen.append((window.row_off, window.height))
        assert np.array_equal(classes, values[window.row_off : window.row_off + window.height])
        return (
            classes // 2,
            keep & (classes != 4),
            lambda labels, n: np.bincount(labels[labels >= 0], minlength=n)[:, None],
        )

    batches = list(iter_polygons(path, settings=VectorizeSettings(strip_pixels=300, noded=False), prepare=prepare))
    assert seen == [(0, 10), (10, 10), (20, 10), (30, 3)]
    shapes, classes = (np.concatenate([batch[i] for batch in batches]) for i in (0, 1))
    assert ordered(shapes, classes) == expected(values // 2, values != 4)
    assert np.array_equal(np.concatenate([b.sums for b in batches])[:, 0] * 100, shapely.area(shapes))


def test_floats_that_are_classes_and_floats_that_are_not(tmp_path):
    values = patches((10, 10)).astype(np.float32)
    path = write(tmp_path / "a.tif", np.where(values == 0, np.float32(np.nan), values))
    shapes, classes = polygons(path, mask_values=(2,), settings=VectorizeSettings(noded=False))
    assert ordered(shapes, classes) == expected(values.astype(np.uint8), np.isin(values, (1, 3, 4)))
    with pytest.raises(SceneError, match="fractions"):
        list(iter_polygons(write(tmp_path / "b.tif", values + np.float32(0.5))))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("int64", -(2**63)), ("int64", 2**53 + 1), ("uint64", 2**63), ("float64", 1e300), ("float32", -1e30)],
)
def test_classes_too_large_are_refused(tmp_path, dtype, value):
    values = np.array([[1, 2], [2, value]], dtype)
    with pytest.raises(SceneError, match="beyond 9007199254740992"):
        list(iter_polygons(write(tmp_path / "a.tif", values)))
    if values.dtype.kind == "f":  # rasterio 1.4 shortens such a nodata value of integers
        _, classes = polygons(write(tmp_path / "b.tif", values, nodata=values[1, 1].item()))
        assert sorted(classes) == [1, 2, 2]


def test_nothing_but_nodata_yields_nothing(tmp_path):
    assert not list(iter_polygons(write(tmp_path / "a.tif", np.zeros((5, 7), np.uint8), nodata=0)))


def test_errors_name_the_file_and_the_remedy(tmp_path):
    path = write(tmp_path / "a.tif", patches((200, 200)))
    with pytest.raises(UsageError, match=r"band 2 of .*a\.tif: it has bands 1 to 1"):
        list(iter_polygons(path, band=2))
    with pytest.raises(SceneError, match=r"cannot read .*none\.tif"):
        list(iter_polygons(tmp_path / "none.tif"))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(SceneError, match=r"cannot read .*cut\.tif.*complete raster"):
        list(iter_polygons(cut))


@pytest.mark.parametrize(("block", "pixels", "rows"), [(16, 10**6, 96), (16, 3400, 32), (16, 500, 5), (64, 10, 1)])
def test_strips_cover_the_raster_in_whole_blocks_where_they_fit(tmp_path, block, pixels, rows):
    values = np.zeros((96, 100), np.uint8)
    path = write(tmp_path / "a.tif", values, tiled=True, blockxsize=block, blockysize=block)
    with rasterio.open(path) as source:
        windows = list(strips(source, pixels))
    assert windows[0].height == rows
    assert sum(window.height for window in windows) == 96
    assert [window.row_off for window in windows] == list(range(0, 96, rows))
    assert {window.width for window in windows} == {100}
