from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio import Affine
from scipy import ndimage

from tuban.errors import OutputError
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.class_raster import PixelAreas, raster_grid
from tuban.postprocess.merge import Merger, merge_small
from tuban.postprocess.vectorize_settings import VectorizeSettings

UNITS = {1: 3, 2: 5, 3: 2, 4: 4}
SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
RASTERS = hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 4))


def one_at_a_time(values, keep):
    """Merge the smallest polygon of all that is too small, look at the whole raster anew, and so on."""
    values, moves = values.copy(), Counter()
    while True:
        candidates = []
        for value in np.unique(values[keep]).tolist():
            labels, count = ndimage.label((values == value) & keep)
            for number in range(1, count + 1):
                inside = labels == number
                padded = np.pad(inside, 1)
                around = Counter()
                for down, right in SIDES:
                    beside = np.roll(padded, (down, right), (0, 1))[1:-1, 1:-1] & ~inside & keep
                    around.update(values[beside].tolist())
                if around and inside.sum() < UNITS[value]:
                    candidates.append((inside.sum(), np.flatnonzero(inside)[0], value, around, inside))
        if not candidates:
            return values, moves
        _, _, value, around, inside = min(candidates, key=lambda item: item[:2])
        into = min(around, key=lambda other: (-around[other], other))
        values[inside] = into
        moves[value, into] += 1


def merged(values, keep, rows):
    merger = Merger(values.shape[1], UNITS.__getitem__, (1, 1))
    weight = np.ones(values.shape)
    done = [
        merger.push(values[a : a + rows], keep[a : a + rows], weight[a : a + rows], last=a + rows >= len(values))
        for a in range(0, len(values), rows)
    ]
    return np.concatenate([part[0] for part in done]), np.concatenate([part[1] for part in done]), merger


@settings(max_examples=80, deadline=None)
@given(RASTERS, st.integers(1, 9))
def test_as_one_at_a_time_for_any_strip(values, rows):
    keep = values != 0
    result, kept, merger = merged(values, keep, rows)
    expected, moves = one_at_a_time(values, keep)
    assert np.array_equal(result, expected)
    assert np.array_equal(kept, keep)
    assert merger.polygons == moves
    # Nothing is lost: what a class has afterwards is what it had, less what went, more what came.
    for value in UNITS:
        gone = sum(area for (a, _), area in merger.area.items() if a == value)
        came = sum(area for (_, b), area in merger.area.items() if b == value)
        assert (result[keep] == value).sum() == (values[keep] == value).sum() - gone + came
    again, _, _ = merged(result, keep, rows)
    assert np.array_equal(again, result)


def test_longest_border_and_ties():
    values = np.array([[1, 1, 1, 1], [2, 4, 4, 3], [2, 2, 3, 3], [2, 2, 3, 3]])
    result, _, _ = merged(values, np.ones_like(values, bool), 4)
    assert result[1].tolist() == [2, 1, 1, 3]  # above it 2 edges, 2 beside and below
    values[0, 1] = 2
    result, _, _ = merged(values, np.ones_like(values, bool), 4)
    assert result[1].tolist() == [2, 2, 2, 3]


def test_nodata_neither_absorbs_nor_is_absorbed():
    values = np.array([[0, 0, 0], [0, 2, 0], [0, 0, 0], [1, 1, 1]])
    result, keep, merger = merged(values, values != 0, 1)
    assert np.array_equal(result[keep], values[keep])
    assert not merger.polygons


def test_rows_are_given_back_while_reading():
    rng = np.random.default_rng(0)
    merger = Merger(60, UNITS.__getitem__, (1, 1))
    held = []
    for _ in range(40):
        values = rng.integers(1, 5, (10, 60))
        merger.push(values, np.ones(values.shape, bool), np.ones(values.shape))
        held.append(len(merger._values))
    assert max(held) < 40


@pytest.mark.parametrize(
    ("crs", "transform"),
    [("EPSG:4490", Affine(1e-4, 0, 116, 0, -1e-4, 40)), ("EPSG:32650", Affine(10, 0, 2e5, 0, -10, 4.4e6))],
)
def test_raster_to_raster(tmp_path, crs, transform):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 4, (110, 90)).astype(np.uint8)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=110, width=90, count=1, dtype="uint8", crs=crs,
        transform=transform, nodata=0,
    ) as sink:  # fmt: skip
        sink.write(values, 1)
    wkt, grid = raster_grid(tmp_path / "a.tif")
    row, col = np.array([0, 60, 109]), np.array([3, 89, 40])
    measured = geodesic_area(grid.boxes(row, col), crs)
    areas = PixelAreas(grid, wkt)
    assert [areas.read(r, 1)[0, c] / 1e6 for r, c in zip(row, col, strict=True)] == pytest.approx(measured, rel=1e-7)
    assert np.prod(grid.pixel_m) == pytest.approx(measured.mean(), rel=1e-3)
    results = []
    for strip in (270, 3000, 10**6):
        chosen = VectorizeSettings(min_area_m2=500, mmu={"cropland": 250}, below_min="merge", strip_pixels=strip)
        moves = merge_small(tmp_path / "a.tif", tmp_path / "b.tif", grid, wkt, chosen)
        with rasterio.open(tmp_path / "b.tif") as source:
            assert np.array_equal(source.read_masks(1) != 0, values != 0)
            results.append((source.read(1), moves))
    assert all(np.array_equal(results[0][0], other) and moves == results[0][1] for other, moves in results)
    assert sum(move.polygons for move in results[0][1]) > 100
    with pytest.raises(OutputError, match="cannot write"):
        merge_small(tmp_path / "a.tif", tmp_path / "none" / "b.tif", grid, wkt, chosen)
