"""Ellipsoidal areas in square metres and mu, and rounded parts that sum to their whole.

The area of a polygon is that of the geodesic polygon through its vertices on the ellipsoid of its own
datum, as GeographicLib computes it. `docs/areas.md` says why and how much that differs from a planar area.
"""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from pyproj.exceptions import CRSError, ProjError

from tuban.errors import UsageError, VectorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

M2_PER_MU = 2000 / 3
_POLYGON, _MULTIPOLYGON, _COLLECTION = 3, 6, 7  # type ids of shapely
_BLOCK = 4096  # geometries measured at a time
_SHORT_EDGE_DEG = 0.02  # about 2 km; longer edges are measured as geodesics, one by one
_NEAR_POLE_DEG = 88.0  # nearer to a pole the closed form loses digits, and a ring may go around it


def geodesic_area(geometries: Iterable[Any], crs: Any, *, max_segment: float | None = None) -> FloatArray:
    """Return the ellipsoidal area of each geometry in square metres.

    Vertices are taken to the geographic CRS of the same datum (no datum shift) and joined by geodesics.
    Holes are subtracted, the parts of a multipolygon or collection added. An edge between longitudes more
    than 180 degrees apart takes the shorter way, across the antimeridian. Points, lines, empty and missing
    geometries have area 0. The order and direction of rings do not matter.

    Args:
        geometries: shapely geometries, `(n,)`; a GeoSeries or one array of them.
        crs: CRS of the coordinates, anything pyproj or rasterio knows; x is easting or longitude.
        max_segment: longest edge in CRS units; longer ones get vertices on the straight line drawn in the
            CRS, so that the result is the area of the polygon as drawn. The default joins the vertices
            that are there, as pyproj's `Geod` does.

    Returns:
        float64 `(n,)`, square metres, never negative for a valid polygon.

    Raises:
        VectorError: the CRS is missing, unknown or not tied to the Earth; a vertex is outside of where the
            projection is defined.

    References:
        Karney (2013), Algorithms for geodesics, J. Geodesy 87, 43-55.

    Example:
        >>> box = shapely.box(116.0, 40.0, 116.001, 40.001)
        >>> round(float(geodesic_area([box], "EPSG:4490")[0]), 2)
        9481.61
    """
    return _measure(geometries, crs, max_segment, lengths=False)[0]


def geodesic_area_perimeter(
    geometries: Iterable[Any], crs: Any, *, max_segment: float | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return ellipsoidal areas in square metres and perimeters (holes included) in metres, each `(n,)`.

    Args and errors are those of `geodesic_area`.
    """
    return _measure(geometries, crs, max_segment, lengths=True)


def _measure(
    geometries: Iterable[Any], crs: Any, max_segment: float | None, *, lengths: bool
) -> tuple[FloatArray, FloatArray]:
    """Return areas and, where `lengths` asks for them, perimeters (else 0)."""
    shapes = shapely_array(geometries)
    area, perimeter = np.zeros(len(shapes)), np.zeros(len(shapes))
    geod, transformer, degrees = _geodesy(_crs_text(crs))
    if max_segment is not None and not max_segment > 0:
        raise UsageError(f"max_segment {max_segment}: give a length above 0 in CRS units, or None")
    # Block by block the vertices stay in the processor's cache: half the time, and bounded memory.
    for start in range(0, len(shapes), _BLOCK):
        block = slice(start, start + _BLOCK)
        parts, owner = _polygons(shapes[block])
        if not len(parts):
            continue
        if max_segment is not None:
            parts = shapely.segmentize(parts, max_segment)
        rings, part_of_ring = shapely.get_rings(parts, return_index=True)
        points, ring_of_point = shapely.get_coordinates(rings, return_index=True)
        lon, lat = _geographic(points, transformer, degrees)
        ends = np.searchsorted(ring_of_point, np.arange(len(rings) + 1))
        ring_area, ring_length = _measure_rings(geod, lon, lat, ends, lengths=lengths)
        ring_area[1:][part_of_ring[1:] == part_of_ring[:-1]] *= -1.0  # rings after a part's first are its holes
        np.add.at(area[block], owner[part_of_ring], ring_area)
        np.add.at(perimeter[block], owner[part_of_ring], ring_length)
    return area, perimeter


def _measure_rings(
    geod: pyproj.Geod, lon: FloatArray, lat: FloatArray, starts: npt.NDArray[np.intp], *, lengths: bool
) -> tuple[FloatArray, FloatArray]:
    """Return the area of each closed ring and, where `lengths` asks for it, its length (else 0)."""
    count = len(starts) - 1
    area, length = np.zeros(count), np.zeros(count)
    exact = np.ones(count, dtype=bool) if lengths else ~_authalic_rings(geod, lon, lat, starts, area)
    measure = geod.polygon_area_perimeter
    for ring in np.flatnonzero(exact):
        # The closing vertex would only add an edge of length 0.
        inner = slice(starts[ring], starts[ring + 1] - 1)
        area[ring], length[ring] = measure(lon[inner], lat[inner])
    return np.abs(area), length


def _authalic_rings(
    geod: pyproj.Geod, lon: FloatArray, lat: FloatArray, starts: npt.NDArray[np.intp], area: FloatArray
) -> npt.NDArray[np.bool_]:
    """Write the signed areas of rings with short edges into `area`, and say which rings those are, `(rings,)`.

    The vertices go to the sphere of the ellipsoid's area by the authalic latitude, and the strip between each edge and
    the equator is a spherical excess in closed form: twenty times as fast as a geodesic for each edge. The edge is then
    a great circle instead of a geodesic; below `_SHORT_EDGE_DEG` that differs by less than 1e-10 of the area.
    """
    e2 = geod.f * (2 - geod.f)
    if e2 <= 0:  # a sphere: the general way does it, and nobody maps land on one
        return np.zeros(len(area), dtype=bool)
    e = np.sqrt(e2)
    pole = 1 + (1 - e2) * np.arctanh(e) / e
    sine = np.sin(np.radians(lat))
    sine_authalic = (1 - e2) * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e) / pole
    half_tangent = sine_authalic / (1 + np.sqrt(np.maximum((1 - sine_authalic) * (1 + sine_authalic), 0.0)))
    # Each ring is unwrapped about its first vertex, the shorter way across the antimeridian. Wrapping the steps instead
    # would round each for itself, and a ring that does not close is wrong by that times its distance to the equator.
    turn = 360.0 * np.round((lon - np.repeat(lon[starts[:-1]], np.diff(starts))) / 360.0)
    step = np.diff(lon - turn, append=0.0)
    after = np.append(half_tangent[1:], half_tangent[-1:])
    excess = 2 * np.arctan(np.tan(np.radians(step) / 2) * (half_tangent + after) / (1 + half_tangent * after))
    # The step from one ring's last vertex to the next ring's first is no edge.
    seams = starts[1:] - 1
    excess[seams] = 0.0
    step[seams] = 0.0
    rise = np.diff(lat, append=lat[-1:])
    rise[seams] = 0.0
    long = (np.abs(rise) > _SHORT_EDGE_DEG) | (np.abs(step) * np.cos(np.radians(lat)) > _SHORT_EDGE_DEG)
    long |= np.abs(lat) > _NEAR_POLE_DEG
    short: npt.NDArray[np.bool_] = ~np.logical_or.reduceat(long, starts[:-1])
    area[short] = (np.add.reduceat(excess, starts[:-1]) * geod.a**2 * pole / 2)[short]
    return short


def to_mu(m2: Any) -> FloatArray:
    """Return areas in mu (亩): 1 mu is 2000/3 square metres.

    Example:
        >>> float(to_mu(2000.0))
        3.0
    """
    return np.asarray(m2, dtype=np.float64) * 3.0 / 2000.0


def allot(
    parts: Sequence[float] | FloatArray, total: float, *, decimals: int = 2, tolerance: float = 1e-6
) -> FloatArray:
    """Round parts so that they sum exactly to the rounded total (largest remainder).

    A part moves by less than one unit of the last decimal when the parts already sum to the total; what
    the parts miss within `tolerance` is shared in proportion to them.

    Args:
        parts: amounts, `(n,)`, none negative.
        total: what they must sum to, in the same unit.
        decimals: decimals kept, 0 to 9.
        tolerance: largest relative gap between `sum(parts)` and `total` that counts as numerical noise;
            half a unit of the last decimal for each part is always allowed.

    Returns:
        float64 `(n,)`; the decimal numbers printed for them sum exactly to `round(total, decimals)`.

    Raises:
        UsageError: a part or the total is negative or not finite; the parts do not sum to the total.

    Example:
        >>> allot([1 / 3, 1 / 3, 1 / 3], 1.0).tolist()
        [0.34, 0.33, 0.33]
    """
    amounts = np.asarray(parts, dtype=np.float64)
    if not 0 <= decimals <= 9:
        raise UsageError(f"decimals {decimals}: give 0 to 9")
    if not (isfinite(total) and total >= 0 and np.isfinite(amounts).all() and (amounts >= 0).all()):
        raise UsageError("allot: parts and total must be finite and not negative; repair the geometry they come from")
    unit = 10**decimals
    # Not round(total * unit): 4060.075 is a little less than it says, 406007.5 is not, and goes the other way.
    whole = round(round(total, decimals) * unit)
    if not len(amounts):
        if whole:
            raise UsageError(f"allot: no parts for a total of {total}; give at least one part, or a total of 0")
        return amounts
    have = float(amounts.sum())
    if abs(have - total) > max(tolerance * max(have, total), 0.5 * len(amounts) / unit):
        raise UsageError(f"allot: parts sum to {have}, not to {total}; clip first, then measure all parts alike")
    # All shares are equal where every part is 0 and the total is within rounding of it.
    share = amounts / have if have else np.full(len(amounts), 1 / len(amounts))
    quota = share * whole
    units = np.floor(quota).astype(np.int64)
    missing = whole - int(units.sum())
    if missing >= 0:
        units[np.argsort(units - quota, kind="stable")[:missing]] += 1
    else:  # The floats of `quota` may add up to a unit too many where amounts exceed 2**53 units.
        units[np.argsort(-units, kind="stable")[:-missing]] -= 1
    rounded: FloatArray = units / unit
    return rounded


def shapely_array(geometries: Iterable[Any]) -> npt.NDArray[np.object_]:
    """Return geometries as an object array of shapely geometries, `(n,)`, without copying where it is one."""
    values = getattr(geometries, "values", geometries)
    if not isinstance(values, np.ndarray):
        values = list(values)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _crs_text(crs: Any) -> str:
    """Return a hashable form of a CRS for the cache."""
    if crs is None or crs == "":
        raise VectorError("no CRS: areas need one; give the layer its CRS (for CGCS2000 degrees: EPSG:4490)")
    try:
        return str(pyproj.CRS.from_user_input(crs).to_wkt())
    except CRSError as error:
        raise VectorError(f"unknown CRS {crs!r}: give an EPSG code, WKT or PROJ string ({error})") from error


@lru_cache(maxsize=64)
def _geodesy(wkt: str) -> tuple[pyproj.Geod, pyproj.Transformer | None, float]:
    """Return the ellipsoid, the way to geographic coordinates (None: they are) and degrees per their unit."""
    crs = pyproj.CRS.from_wkt(wkt)
    if crs.is_bound and crs.source_crs is not None:
        crs = crs.source_crs
    base = crs.geodetic_crs
    geod = crs.get_geod()
    if base is None or geod is None:
        raise VectorError(f"CRS {crs.name!r} is not tied to the Earth: give a geographic or projected CRS")
    base = base.to_2d()
    degrees = float(np.degrees(base.axis_info[0].unit_conversion_factor))
    if crs.is_geographic:
        return geod, None, degrees
    return geod, pyproj.Transformer.from_crs(crs.to_2d(), base, always_xy=True), degrees


def _polygons(shapes: npt.NDArray[np.object_]) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.intp]]:
    """Return the single polygons in `shapes` and the index of the geometry each belongs to."""
    owner = np.arange(len(shapes))
    if (shapely.get_type_id(shapes) == _POLYGON).all() and not shapely.is_empty(shapes).any():
        return shapes, owner
    while True:
        parts, index = shapely.get_parts(shapes, return_index=True)
        owner = owner[index]
        kinds = shapely.get_type_id(parts)
        if not np.isin(kinds, (_MULTIPOLYGON, _COLLECTION)).any():
            keep = (kinds == _POLYGON) & ~shapely.is_empty(parts)
            return parts[keep], owner[keep]
        shapes = parts


def _geographic(
    points: FloatArray, transformer: pyproj.Transformer | None, degrees: float
) -> tuple[FloatArray, FloatArray]:
    """Return longitude and latitude in degrees of `(n, 2)` points."""
    x, y = points[:, 0], points[:, 1]
    if transformer is not None:
        try:
            x, y = transformer.transform(x, y)
        except ProjError as error:
            raise VectorError(f"cannot transform to longitude and latitude: {error}; check the layer's CRS") from error
    lon, lat = x * degrees, y * degrees
    bad = ~(np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90.0 + 1e-9))
    if bad.any():
        first = points[int(np.argmax(bad))].tolist()
        raise VectorError(f"vertex {first} is outside of where the CRS is defined; check the layer's CRS and units")
    return np.ascontiguousarray(lon), np.ascontiguousarray(lat)
