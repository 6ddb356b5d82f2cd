from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyproj
import pytest
import shapely
from geographiclib.geodesic import Geodesic
from hypothesis import given
from hypothesis import strategies as st

from tuban.errors import UsageError, VectorError
from tuban.postprocess.area import allot, geodesic_area, geodesic_area_perimeter, to_mu

GEOD = pyproj.Geod(a=6378137, rf=298.257222101)
KARNEY = Geodesic(6378137, 1 / 298.257222101)


def test_agrees_with_geod_on_a_polygon_with_a_hole():
    shape = shapely.Polygon(
        [(116, 40), (116.3, 40.1), (116.2, 40.4), (115.9, 40.2)], [[(116.05, 40.15), (116.1, 40.2), (116.1, 40.15)]]
    )
    area, perimeter = geodesic_area_perimeter([shape], "EPSG:4490")
    expected = GEOD.geometry_area_perimeter(shapely.geometry.polygon.orient(shape))
    assert area[0] == pytest.approx(abs(expected[0]), rel=1e-12)
    hole = GEOD.geometry_area_perimeter(shape.interiors[0])[1]  # Geod leaves out the edges of holes
    assert perimeter[0] == pytest.approx(expected[1] + hole, rel=1e-12)


def test_octant_is_an_eighth_of_the_ellipsoid():
    # Analytic: surface of an oblate ellipsoid.
    a, f = 6378137.0, 1 / 298.257222101
    e = np.sqrt(f * (2 - f))
    surface = 2 * np.pi * a**2 * (1 + (1 - e**2) / e * np.arctanh(e))
    octant = shapely.Polygon([(0, 0), (90, 0), (0, 90)])
    assert geodesic_area([octant], 4490)[0] == pytest.approx(surface / 8, rel=1e-12)


@pytest.mark.parametrize("epsg", [4526, 4549, 4502, 32650, 3857])
def test_projected_is_the_geographic_ring(epsg):
    shape = shapely.box(116.2, 39.0, 116.21, 39.02)
    crs = pyproj.CRS.from_epsg(epsg)
    forward = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    drawn = shapely.transform(shape, forward.transform, interleaved=False)
    expected = abs(crs.get_geod().geometry_area_perimeter(shape)[0])
    assert geodesic_area([drawn], crs)[0] == pytest.approx(expected, rel=1e-8)


def test_grads_and_paris_meridian():
    # NTF (Paris): its unit is the grad; one tenth of a grad square at 50 grads north, against the same in degrees.
    shape = shapely.box(0, 50, 0.1, 50.1)
    geod = pyproj.CRS("EPSG:4807").get_geod()
    expected = abs(geod.geometry_area_perimeter(shapely.box(0, 45, 0.09, 45.09))[0])
    assert geodesic_area([shape], "EPSG:4807")[0] == pytest.approx(expected, rel=1e-9)


def test_antimeridian_multipolygon_collection_and_nothing():
    plain = shapely.box(10, 10, 12, 12)
    across = shapely.Polygon([(179, 10), (-179, 10), (-179, 12), (179, 12)])
    multi = shapely.MultiPolygon([plain, shapely.box(20, 10, 22, 12)])
    nested = shapely.GeometryCollection([multi, shapely.Point(0, 0), shapely.GeometryCollection([plain])])
    area = geodesic_area([plain, across, multi, nested, None, shapely.Point(1, 1), shapely.Polygon()], 4326)
    assert area[1:] == pytest.approx(area[0] * np.array([1, 2, 3, 0, 0, 0]), rel=1e-9)


def test_ring_direction_does_not_matter():
    shape = shapely.box(116, 40, 116.01, 40.01)
    assert geodesic_area([shape], 4490)[0] == pytest.approx(geodesic_area([shapely.reverse(shape)], 4490)[0], rel=1e-12)


def test_long_edges_as_drawn():
    # 30 degrees of a parallel: drawn straight in longitude it encloses less of the north than the geodesic does.
    band = shapely.box(0, 50, 30, 60)
    a, e2 = 6378137.0, 2 / 298.257222101 - 1 / 298.257222101**2
    e = np.sqrt(e2)

    def zone(lat):
        s = np.sin(np.radians(lat))
        return a**2 * (1 - e2) * (s / (1 - e2 * s**2) + np.arctanh(e * s) / e) / 2

    exact = np.radians(30) * (zone(60) - zone(50))
    assert geodesic_area([band], 4490, max_segment=0.01)[0] == pytest.approx(exact, rel=1e-7)
    assert abs(geodesic_area([band], 4490)[0] / exact - 1) > 1e-3


def test_bad_crs_and_vertices_are_refused():
    box = shapely.box(0, 0, 1, 1)
    with pytest.raises(VectorError, match="no CRS"):
        geodesic_area([box], None)
    with pytest.raises(VectorError, match="unknown CRS"):
        geodesic_area([box], "EPSG:1")
    with pytest.raises(VectorError, match="outside"):
        geodesic_area([shapely.box(0, 0, 1, 91)], 4326)
    with pytest.raises(VectorError, match="not tied to the Earth"):
        geodesic_area([box], pyproj.CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]'))


def test_mu():
    assert to_mu([2000 / 3, 1.0]) == pytest.approx([1.0, 0.0015])


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=40), st.integers(0, 4))
def test_allotted_parts_sum_exactly_and_stay_close(parts, decimals):
    total = float(np.sum(parts))
    result = allot(parts, total, decimals=decimals)
    exact = sum((Decimal(repr(float(part))) for part in result), Decimal(0))
    assert exact == Decimal(repr(round(total * 10**decimals) / 10**decimals))
    assert (np.abs(result - parts) <= 10.0**-decimals * (1 + 1e-6) + 1e-6).all()


def test_allot_spreads_noise_and_refuses_more():
    assert allot([1e6, 3e6], 4e6 + 2).sum() == 4e6 + 2
    assert allot([], 0.0).tolist() == []
    with pytest.raises(UsageError, match="not to"):
        allot([1.0, 2.0], 4.0)
    with pytest.raises(UsageError, match="not negative"):
        allot([-1.0, 2.0], 1.0)


LATITUDES = [-89.9, -65, -33, -1, 0, 0.5, 23.4, 40, 53.5, 71, 88.5]


def geodesic_star(lat, lon, size, seed):
    """A ring drawn by GeographicLib around a point, up to `size` metres away; longitudes within -180..180."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(4, 16))
    bearings, reaches = np.linspace(0, 360, count, endpoint=False), size * rng.uniform(0.4, 1.0, count)
    points = [KARNEY.Direct(lat, lon, bearing, reach) for bearing, reach in zip(bearings, reaches, strict=True)]
    return [(point["lon2"], point["lat2"]) for point in points]


def karney_area(ring):
    polygon = KARNEY.Polygon()
    for lon, lat in ring:
        polygon.AddPoint(lat, lon)
    return abs(polygon.Compute(False, True)[2])


@pytest.mark.parametrize("size", [10, 100, 1e3, 1e4, 1e5])
def test_within_a_millionth_of_geographiclib(size):
    rings = [geodesic_star(lat, lon, size, k) for k, lat in enumerate(LATITUDES) for lon in (116, 179.99999, -180, 0)]
    area = geodesic_area([shapely.Polygon(ring) for ring in rings], 4490)
    assert area == pytest.approx([karney_area(ring) for ring in rings], rel=1e-6)


@pytest.mark.parametrize("size", [100, 1e4])
def test_holes_within_a_millionth_of_geographiclib(size):
    shapes, expected = [], []
    for k, lat in enumerate(LATITUDES):
        outer, hole = geodesic_star(lat, 116, size, k), geodesic_star(lat, 116, size / 4, k + 50)
        shapes.append(shapely.Polygon(outer, [hole]))
        expected.append(karney_area(outer) - karney_area(hole))
    assert geodesic_area(shapes, 4490) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("lat", [-60.0, 0.0, 30.0, 55.0])
def test_small_areas_add_up_better_than_one_geodesic_after_another(lat):
    """GeographicLib's own areas are good to some hundredths of a square metre a ring, too rough for parts of fields."""
    whole = shapely.box(116, lat, 116.01, lat + 0.01)
    side = 40
    x, y = np.meshgrid(np.linspace(116, 116.01, side + 1), np.linspace(lat, lat + 0.01, side + 1), indexing="ij")
    cells = shapely.box(x[:-1, :-1], y[:-1, :-1], x[1:, 1:], y[1:, 1:]).ravel()
    # The cells' edges along parallels are geodesics as well, so the whole gets their vertices.
    outline = shapely.union_all(cells)
    assert shapely.get_num_coordinates(outline) >= 4 * side
    assert geodesic_area(cells, 4490).sum() == pytest.approx(geodesic_area([outline], 4490)[0], rel=1e-9)
    assert geodesic_area([outline], 4490)[0] == pytest.approx(geodesic_area([whole], 4490)[0], rel=1e-5)


def test_short_and_long_edges_meet_without_a_step():
    """Rings with short edges are measured in closed form, others edge by edge: both must agree where they meet."""
    for lat in (5.0, 35.0, 60.0, 80.0):
        ring = np.array(geodesic_star(lat, 100, 1000, 3))
        plain = shapely.Polygon(ring)
        # One far vertex on a sliver of no area makes it a ring with long edges.
        far = [[*ring[0]], [ring[0][0], ring[0][1] + 0.5], [*ring[0]]]
        with_long = shapely.Polygon(np.vstack([far, ring[1:]]))
        assert geodesic_area([with_long], 4490)[0] == pytest.approx(geodesic_area([plain], 4490)[0], rel=1e-7)


@pytest.mark.parametrize("epsg", [4490, *range(4491, 4555)])
def test_every_zone_of_cgcs2000_gives_the_same_area(epsg):
    crs = pyproj.CRS.from_epsg(epsg)
    west, _, east, _ = crs.area_of_use.bounds
    field = shapely.box((west + east) / 2 + 0.3, 38.0, (west + east) / 2 + 0.302, 38.002)
    forward = pyproj.Transformer.from_crs(4490, crs, always_xy=True)
    drawn = shapely.transform(field, forward.transform, interleaved=False)
    assert geodesic_area([drawn], crs)[0] == pytest.approx(geodesic_area([field], 4490)[0], rel=1e-8)


@pytest.mark.parametrize("total", [4060.075, 2.675, 1.005, 0.125, 1234567.895])
def test_allot_rounds_a_half_as_round_does(total):
    """`round(total * 100)` and `round(total, 2)` part ways where the product rounds to a half."""
    assert round(sum(allot([total / 3, total / 3, total / 3], total)), 2) == round(total, 2)
