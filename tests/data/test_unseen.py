"""Counting what is hidden."""

from __future__ import annotations

import numpy as np
import pytest
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window

from tuban.data.grid import Grid
from tuban.data.unseen import UnseenCounts, count_unseen, in_words


@pytest.fixture
def hidden():
    rng = np.random.default_rng(3)
    causes = rng.choice([0, 0, 0, 1, 3, 7], size=(2, 60, 40)).astype(np.uint8)
    return ~causes.any(axis=0), causes


def test_area_is_the_sum_of_geodesic_pixels(hidden):
    valid, causes = hidden
    # Pixels of a hundredth of a degree: the first row and the last differ by 1.3 per cent in area.
    grid = Grid(CRS.from_epsg(4326), Affine(0.01, 0, 110, 0, -0.01, 52), 60, 40)
    counts = count_unseen(valid, causes, grid)
    geod, total = Geod(ellps="WGS84"), 0.0
    for row, col in zip(*np.nonzero(causes.any(axis=0)), strict=True):
        west, north = 110 + 0.01 * col, 52 - 0.01 * row
        east, south = west + 0.01, north - 0.01
        total += abs(geod.polygon_area_perimeter([west, east, east, west], [north, north, south, south])[0])
    assert counts.unseen_m2 == pytest.approx(total, rel=2e-6)
    small = Grid(grid.crs, Affine(1e-4, 0, 110, 0, -1e-4, 52), 60, 40)
    assert count_unseen(valid, causes, small).unseen_m2 == pytest.approx(
        counts.unseen_px * small.pixel_area_m2(30, 20), rel=1e-5
    )


def test_windows_add_up(hidden):
    valid, causes = hidden
    grid = Grid(CRS.from_epsg(32650), Affine(10, 0, 500000, 0, -10, 4000000), 60, 40)
    whole = count_unseen(valid, causes, grid)
    parts = UnseenCounts()
    for row in range(0, 60, 25):
        for col in range(0, 40, 17):
            window = Window(col, row, min(17, 40 - col), min(25, 60 - row))
            area = (slice(row, row + window.height), slice(col, col + window.width))
            parts += count_unseen(valid[area], causes[(slice(None), *area)], grid.window(window))
    assert parts.summary()["by_cause"] == whole.summary()["by_cause"]
    assert (parts.seen_px, parts.unseen_px) == (whole.seen_px, whole.unseen_px)
    assert parts.unseen_m2 == pytest.approx(whole.unseen_m2, rel=1e-9)
    assert whole.unseen_m2 == pytest.approx(100 * whole.unseen_px, rel=2e-3)  # UTM's scale is 0.9996 at its meridian
    assert whole.summary()["by_cause"]["after"]["cloud"] == int((causes[1] == 1).sum())


def test_words_name_the_most_first():
    counts = UnseenCounts(90, 10, 1000.0, (0, 2, 0, 8, 0, 0, 0, 0), (0, 1, 0, 0, 0, 0, 0, 0))
    assert in_words(counts) == "before shadow 8.0%, cloud 2.0%; after cloud 1.0%"
    assert counts.share == 0.1
    assert UnseenCounts().share == 0
