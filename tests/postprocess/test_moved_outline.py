from __future__ import annotations

import numpy as np
import pyproj
import pytest
import shapely
from check_factory import ALL, EAST, GEOD, NORTH, PATCH, P, box, changes, geod_area, layer, run
from hypothesis import given, settings
from hypothesis import strategies as st

from tuban.postprocess import overlay as overlay_module
from tuban.postprocess.overlay import OverlayCounts, moved_outline, subdivide


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 40), st.sampled_from([(116.0, 40.0), (100.0, 3.0), (125.0, 53.0)]))
def test_moved_outline_moves_by_metres(metres, place):
    lon, lat = place
    corner = [GEOD.fwd(lon, lat, azimuth, 500)[:2] for azimuth in range(0, 360, 5)]
    circle = shapely.Polygon(corner)
    for sign in (1, -1):
        (got,) = moved_outline(np.array([circle], dtype=object), pyproj.CRS(4490), sign * metres)
        x, y = got.exterior.coords.xy
        distance = np.array(GEOD.inv(np.full(len(x), lon), np.full(len(x), lat), np.array(x), np.array(y))[2])
        assert distance.mean() == pytest.approx(500 + sign * metres, abs=0.6)


def test_memory_follows_the_changes_not_the_plan(monkeypatch):
    far = [box(2000 * i, 5000, 2000 * i + 10, 5010) for i in range(200)]
    counts = OverlayCounts()
    frame = changes(PATCH)
    pieces = overlay_module.collect((layer(P, ALL, *far),), np.asarray(frame.geometry.values), frame.crs, counts)
    assert len(pieces.rows) == 1
    assert counts.plan_features == 1


def test_huge_zone_polygon_is_cut_and_stays_exact():
    angles = np.linspace(0, 2 * np.pi, 20_001)[:-1]
    radius = 400 + 5 * np.sin(40 * angles)
    zone = shapely.Polygon(np.column_stack([EAST + radius * np.cos(angles), NORTH + radius * np.sin(angles)]))
    patch = box(300, -200, 500, 200)
    parts = subdivide(zone)
    assert max(shapely.get_num_coordinates(p) for p in parts) <= 512
    assert sum(p.area for p in parts) == pytest.approx(zone.area, rel=1e-12)
    row = run(changes(patch), layer(P, zone))["P1"]
    assert row["overlap_m2"] == pytest.approx(geod_area(patch & zone), rel=1e-6, abs=0.01)
