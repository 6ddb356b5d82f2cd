from __future__ import annotations

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine, features
from scipy import ndimage

from tuban.postprocess import generalize
from tuban.postprocess.class_raster import raster_grid
from tuban.postprocess.curves import _root
from tuban.postprocess.generalize import Generalizer
from tuban.postprocess.polygonize import iter_polygons
from tuban.postprocess.squares import squared
from tuban.postprocess.vectorize_settings import VectorizeSettings

TRANSFORM = Affine(10, 0, 5e5, 0, -10, 4.4e6)


def patches(seed, height, width, blur):
    """Classes 0 (nodata) to 3 in patches, from single pixels to wide shapes with holes, islands, diagonal touches."""
    noise = np.random.default_rng(seed).random((4, height, width))
    return ndimage.gaussian_filter(noise, (0, blur, blur)).argmax(axis=0).astype(np.uint8)


def store(path, values):
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype="uint8",
        crs="EPSG:32650", transform=TRANSFORM, nodata=0,
    ) as sink:  # fmt: skip
        sink.write(values, 1)
    return path


def simplified(path, values, tolerance, strip=10**6, **options):
    def pixels(top, bottom, left, right):
        part = values[top:bottom, left:right]
        return part, part != 0

    generalizer = Generalizer(raster_grid(path)[1], pixels, tolerance, **options)
    batches = list(generalizer.run(iter_polygons(path, settings=VectorizeSettings(strip_pixels=strip))))
    return np.concatenate([batch.geometry for batch in batches]), generalizer.drift


def traced(path, strip=10**6):
    batches = iter_polygons(path, settings=VectorizeSettings(strip_pixels=strip))
    return np.concatenate([batch.geometry for batch in batches])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(2, 45), st.integers(2, 45), st.sampled_from([0.0, 1.0, 2.0, 4.0]),
    st.sampled_from([5.0, 12.0, 30.0, 80.0]), st.booleans(), st.booleans(), st.sampled_from([8, 1024]),
)  # fmt: skip
def test_every_raster_stays_a_coverage_of_the_same_areas(
    tmp_path_factory, seed, height, width, blur, tolerance, smooth, square, tile
):
    values = patches(seed, height, width, blur)
    if not values.any():
        return
    path = store(tmp_path_factory.mktemp("raster") / "a.tif", values)
    options = {"smooth": smooth, "squares": (lambda value: value == 1) if square else None}
    before = traced(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generalize, "_TILE", tile)
        after, drift = simplified(path, values, tolerance, **options)
        parts, _ = simplified(path, values, tolerance, strip=3 * width, **options)
    assert shapely.is_valid(after).all()
    assert shapely.coverage_is_valid(after)
    assert shapely.area(after) == pytest.approx(shapely.area(before), rel=1e-7)
    assert drift.largest < 1e-7
    assert np.array_equal(shapely.get_num_interior_rings(after), shapely.get_num_interior_rings(before))
    # Independent of strips and of what else is in a batch, to the byte.
    assert sorted(shapely.to_wkb(after)) == sorted(shapely.to_wkb(parts))
    bound = tolerance * (1 + max(smooth / 2, square)) + 0.01
    assert (shapely.hausdorff_distance(shapely.boundary(after), shapely.boundary(before)) <= bound).all()
    # No gaps: the union is what the simplified outer borders enclose.
    assert shapely.area(shapely.union_all(after)) == pytest.approx(shapely.area(after).sum(), rel=1e-9)


def test_slanted_border_becomes_one_line(tmp_path):
    row, col = np.mgrid[:40, :90]
    values = np.where(row < 5 + col * 0.3, 1, 2).astype(np.uint8)
    after, drift = simplified(store(tmp_path / "a.tif", values), values, 10.0)
    assert shapely.get_num_coordinates(after).sum() < 16
    assert drift.stepped == 0


def test_parallel_borders_one_pixel_apart(tmp_path):
    row, col = np.mgrid[:60, :60]
    values = np.where(row == col, 3, np.where(row == col + 1, 3, np.where(row < col, 1, 2))).astype(np.uint8)
    after, drift = simplified(store(tmp_path / "a.tif", values), values, 12.0)
    assert shapely.coverage_is_valid(after)
    assert shapely.get_num_coordinates(after).sum() < 40
    assert drift.largest < 1e-9


def test_tilted_building_gets_right_angles(tmp_path):
    outline = shapely.affinity.rotate(shapely.box(20, 20, 70, 45), 25)
    values = np.maximum(features.rasterize([(outline, 2)], out_shape=(90, 90), dtype="uint8"), 1)
    path = store(tmp_path / "a.tif", values)
    plain, _ = simplified(path, values, 15.0)
    after, drift = simplified(path, values, 15.0, squares=lambda value: value == 2)
    building = after[np.argmin(shapely.area(after))]
    corners = shapely.get_coordinates(building)
    assert len(corners) == 5
    edges = np.diff(corners, axis=0)
    assert np.abs((edges * np.roll(edges, 1, axis=0)).sum(axis=1)).max() < 1e-3
    assert building.area == pytest.approx((values == 2).sum() * 100)
    assert shapely.coverage_is_valid(after)
    assert drift.largest < 1e-9
    assert shapely.get_num_coordinates(plain).sum() >= shapely.get_num_coordinates(after).sum()


def test_squared_refuses_what_is_no_building():
    angle = np.linspace(0, 2 * np.pi, 40)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 100
    circle[-1] = circle[0]
    assert squared(circle, 5.0) is None
    box = np.array([[0, 0], [30, 1], [30, 20], [0, 20], [0, 0]], dtype=float)
    made = squared(box, 2.0)
    assert made is not None
    assert shapely.Polygon(made).area == pytest.approx(shapely.Polygon(box).area)
    assert squared(box, 0.01) is None


def test_smoothing_turns_less_at_each_vertex(tmp_path):
    row, col = np.mgrid[:80, :80]
    values = np.where(np.hypot(row - 40, col - 40) < 25, 1, 2).astype(np.uint8)
    path = store(tmp_path / "a.tif", values)

    def sharpest(shapes):
        ring = shapely.get_coordinates(shapes[np.argmin(shapely.area(shapes))])
        heading = np.unwrap(np.arctan2(*np.diff(ring, axis=0).T[::-1]))
        return np.abs(np.diff(heading)).max()

    plain, smooth = simplified(path, values, 15.0)[0], simplified(path, values, 15.0, smooth=True)[0]
    assert sharpest(smooth) < sharpest(plain) < sharpest(traced(path))
    assert shapely.coverage_is_valid(smooth)


def test_corners_without_a_lever_stay(tmp_path):
    """Pushing opposite corners of a ring changes no area: there is nothing to balance with, and the ring stays."""
    assert _root(0.0, 0.0, 1.0) == np.inf
    assert _root(0.0, 2.0, 1.0) == -0.5
    assert _root(1.0, -3.0, 2.0) == pytest.approx(1.0)
    assert _root(1.0, 0.0, 1.0) == np.inf
    row, col = np.mgrid[:40, :40]
    values = np.where(abs(row - 20) + abs(col - 20) < 12, 1, 2).astype(np.uint8)
    path = store(tmp_path / "a.tif", values)
    after, drift = simplified(path, values, 8.0, smooth=True)
    assert shapely.coverage_is_valid(after)
    assert drift.largest < 1e-9
