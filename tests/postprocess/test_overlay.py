from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from tuban.data.plan import PlanLayer
from tuban.postprocess import overlay, set_algebra
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.overlay import OverlayCounts, collect
from tuban.postprocess.set_algebra import robust, subdivide, tiled
from tuban.postprocess.two_crossings import intersect

EPSG = 4526
EAST, NORTH = 38_500_000.0, 3_400_000.0
WORK = CRS.from_epsg(EPSG)


def star(rng, x, y, radius, vertices=14):
    angle = np.sort(rng.uniform(0, 2 * np.pi, vertices))
    reach = radius * rng.uniform(0.3, 1, vertices)
    shape = shapely.Polygon(np.column_stack([EAST + x + reach * np.cos(angle), NORTH + y + reach * np.sin(angle)]))
    return shape if shape.is_valid else shape.convex_hull


def parcels(n=8, size=50.0):
    """A tessellation with bent common edges."""
    rng = np.random.default_rng(4)
    x, y = np.meshgrid(np.arange(n + 1) * size, np.arange(n + 1) * size, indexing="ij")
    nodes = np.stack([EAST + x, NORTH + y], axis=-1) + rng.uniform(-9, 9, (n + 1, n + 1, 2))
    rings = [
        [nodes[i, j], nodes[i + 1, j], nodes[i + 1, j + 1], nodes[i, j + 1]] for i in range(n) for j in range(n)
    ]  # fmt: skip
    return np.array([shapely.Polygon(ring) for ring in rings], dtype=object)


def patches(count=60, span=400.0, seed=5):
    rng = np.random.default_rng(seed)
    return np.array([star(rng, *rng.uniform(0, span, 2), rng.uniform(5, 60)) for _ in range(count)], dtype=object)


def plan_layer(shapes, **extra):
    frame = gpd.GeoDataFrame({"ID": [f"z{i}" for i in range(len(shapes))], **extra}, geometry=list(shapes), crs=EPSG)
    return PlanLayer(role="zone", source=frame, id_field="ID")


# --- two_crossings: GEOS is the oracle ---


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 90), st.floats(3, 60))
def test_pairs_that_are_done_equal_geos(seed, shift, radius):
    rng = np.random.default_rng(seed)
    a = np.array([star(rng, 0, 0, 50) for _ in range(8)], dtype=object)
    b = np.array([star(rng, shift, 0, radius) for _ in range(8)], dtype=object)
    a[::2] = shapely.reverse(a[::2])  # either direction will do
    common, done, free = intersect(a, b)
    truth = shapely.intersection(a[done], b[done])
    assert shapely.is_valid(common[done]).all()
    assert not (done & free).any()
    apart = shapely.disjoint(a, b) | shapely.contains(a, b) | shapely.contains(b, a)
    assert apart[free].all()
    assert np.allclose(shapely.area(common[done]), shapely.area(truth), rtol=1e-9, atol=1e-6)
    assert (shapely.area(shapely.symmetric_difference(common[done], truth)) < 1e-6).all()


def test_most_pairs_of_an_overlay_are_done_and_touching_ones_are_not():
    zones, shapes = parcels(), patches(300)
    zone, patch = shapely.STRtree(shapes).query(zones, predicate="intersects")
    cross = ~shapely.contains(zones[zone], shapes[patch]) & ~shapely.contains(shapes[patch], zones[zone])
    _, done, _ = intersect(zones[zone][cross], shapes[patch][cross])
    assert done.mean() > 0.6
    for one, other in (
        (shapely.box(0, 0, 1, 1), shapely.box(1, 0, 2, 1)),  # a common edge
        (shapely.box(0, 0, 2, 2), shapely.box(1, 0, 3, 2)),  # edges on one line
        (shapely.box(0, 0, 2, 2), shapely.box(5, 5, 6, 6)),
        (shapely.box(0, 0, 2, 2), shapely.box(0, 0, 2, 2)),
        (shapely.box(0, 0, 9, 9).difference(shapely.box(1, 1, 2, 2)), shapely.box(8, 8, 10, 10)),  # a hole
        (shapely.box(0, 0, 9, 1), shapely.box(4, -1, 5, 2)),  # four crossings
        (shapely.Polygon(), shapely.box(0, 0, 1, 1)),
    ):
        assert not intersect(np.array([one]), np.array([other]))[1][0]


# --- collect: geopandas.overlay is the oracle ---


@pytest.mark.parametrize("threads", [1, 3])
def test_collect_equals_geopandas_overlay(monkeypatch, threads):
    monkeypatch.setattr(overlay, "workers", lambda: threads)
    monkeypatch.setattr(set_algebra, "workers", lambda: threads)
    monkeypatch.setattr(overlay, "_BLOCK", 7)
    zones, shapes = parcels(), patches()
    pieces = collect((plan_layer(zones),), shapes, WORK, OverlayCounts())
    frames = [gpd.GeoDataFrame({k: range(len(v))}, geometry=v, crs=EPSG) for k, v in (("p", shapes), ("z", zones))]
    truth = gpd.overlay(*frames, how="intersection")
    expected = {(p, f"z{z}"): a for p, z, a in zip(truth["p"], truth["z"], truth.area, strict=True) if a > 0}
    got = {(int(p), row["plan_id"]): shapely.area(g) for p, row, g in
           zip(pieces.patch, pieces.rows, pieces.geometry, strict=True)}  # fmt: skip
    assert set(got) == set(expected)
    assert all(got[key] == pytest.approx(expected[key], rel=1e-9, abs=1e-6) for key in got)


def test_number_of_threads_changes_no_byte(monkeypatch):
    def run(threads):
        monkeypatch.setattr(overlay, "workers", lambda: threads)
        monkeypatch.setattr(set_algebra, "workers", lambda: threads)
        pieces = collect((plan_layer(parcels()),), patches(200), WORK, OverlayCounts())
        return pieces.patch.tolist(), shapely.to_wkb(pieces.geometry).tolist(), pieces.rows

    monkeypatch.setattr(overlay, "_BLOCK", 5)
    assert run(1) == run(4)


def test_what_lies_within_is_not_cut():
    inside, around = star(np.random.default_rng(1), 50, 50, 5), shapely.box(EAST, NORTH, EAST + 100, NORTH + 100)
    pieces = collect((plan_layer([around]),), np.array([inside]), WORK, OverlayCounts())
    assert pieces.geometry[0] is inside
    pieces = collect((plan_layer([inside]),), np.array([around]), WORK, OverlayCounts())
    assert pieces.geometry[0].equals(inside)
    assert not len(collect((plan_layer([inside]),), np.array([], dtype=object), WORK, OverlayCounts()).rows)


# --- conservation ---


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_parts_and_remainder_are_the_whole(seed, layers):
    """Over any stack of layers: each change = what lies under the layers + what does not, and so on below."""
    rng = np.random.default_rng(seed)
    changed = patches(12, seed=seed)
    whole = geodesic_area(changed, WORK)
    left, parts = changed.copy(), np.zeros(len(changed))
    counts = OverlayCounts()
    for _ in range(layers):
        shapes = [star(rng, *rng.uniform(0, 400, 2), rng.uniform(20, 200)) for _ in range(4)]
        zone = collect((plan_layer(shapes),), changed, WORK, counts).union(len(changed), "all")
        parts += geodesic_area(robust(shapely.intersection, left, zone, WORK, counts), WORK)
        left = robust(shapely.difference, left, zone, WORK, counts)
    assert np.abs(parts + geodesic_area(left, WORK) - whole).max() <= 1e-6 * whole.max()
    assert (np.abs(parts + geodesic_area(left, WORK) - whole) <= 1e-6 * whole).all()


def test_a_tessellation_shares_out_the_whole_change():
    zones, shapes = parcels(), patches(60, 250)
    within = shapely.contains(shapely.union_all(zones), shapes)
    pieces = collect((plan_layer(zones),), shapes, WORK, OverlayCounts())
    sums = np.bincount(pieces.patch, weights=geodesic_area(pieces.geometry, WORK), minlength=len(shapes))
    whole = geodesic_area(shapes, WORK)
    assert within.sum() > 10
    assert sums[within] == pytest.approx(whole[within], rel=1e-6)


# --- large polygons ---


def test_a_million_vertices():
    angle = np.linspace(0, 2 * np.pi, 1_000_000, endpoint=False)
    reach = 3000 + 20 * np.sin(angle * 300) + 0.2 * np.sin(angle * 40_000)
    large = shapely.Polygon(np.column_stack([EAST + reach * np.cos(angle), NORTH + reach * np.sin(angle)]))
    edge = np.array([shapely.box(EAST + 2900, NORTH, EAST + 3300, NORTH + 60), shapely.Point(EAST, NORTH).buffer(50)])
    pieces = collect((plan_layer([large]),), edge, WORK, OverlayCounts())
    truth = shapely.area(shapely.intersection(large, edge))
    got = np.bincount(pieces.patch, weights=shapely.area(pieces.geometry), minlength=2)
    assert got == pytest.approx(truth, rel=1e-9)


def test_only_the_tiles_of_a_box_are_kept():
    ring = shapely.Point(0, 0).buffer(100, quad_segs=2000)
    box = (-10.0, 90.0, 10.0, 110.0)
    some = subdivide(ring, box=box)
    assert 0 < len(some) < len(subdivide(ring)) / 3
    assert shapely.union_all(some).intersection(shapely.box(*box)).area == pytest.approx(
        ring.intersection(shapely.box(*box)).area
    )
    tiles, owner = tiled(np.array([shapely.box(0, 0, 1, 1), ring], dtype=object))
    assert set(owner) == {0, 1}
    assert shapely.area(tiles[owner == 1]).sum() == pytest.approx(ring.area)


def test_topology_failures_are_mended_and_counted(monkeypatch):
    real = shapely.difference

    def fragile(a, b, grid_size=None):
        if grid_size is None:
            raise shapely.errors.GEOSException("TopologyException")
        return real(a, b, grid_size=grid_size)

    counts = OverlayCounts()
    squares = np.array([shapely.box(0, 0, 2, 2)] * 3, dtype=object)
    got = robust(fragile, squares, np.array([shapely.box(1, 0, 2, 2)] * 3, dtype=object), WORK, counts)
    assert shapely.area(got).tolist() == [2, 2, 2]
    assert counts.topology_fallbacks == 3
