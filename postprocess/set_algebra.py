"""Set algebra on arrays of polygons that does not fail, on every core: the ground under the overlay and the rules."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.errors import GEOSException

from tuban.postprocess.two_crossings import intersect

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from pyproj import CRS

    Array = npt.NDArray[Any]

# Above this many vertices a polygon is cut into tiles first: one clip of a million vertices per change is the
# difference between seconds and hours.
_MAX_VERTICES = 512
_MAX_CUTS = 40
_WORTH = 64  # pairs from which on the fast way for simple ones pays
_BLOCK = 512  # pairs a thread takes at a time; below that, starting threads costs more than they save
_EMPTY, _POLYGON, _MULTIPOLYGON, _COLLECTION = shapely.Polygon(), 3, 6, 7


@dataclass(slots=True)
class OverlayCounts:
    """What the overlay met; lands in `run.json`."""

    topology_fallbacks: int = 0
    plan_features: int = 0
    plan_pieces: int = 0


def workers() -> int:
    """Return how many threads set algebra may use: the cores this process may run on, 8 at most.

    GEOS works outside of Python's lock, so threads are enough; the result does not depend on their number.
    """
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def robust(operation: Callable[..., Any], a: Array, b: Array, crs: CRS, counts: OverlayCounts) -> Array:
    """Apply a binary shapely operation elementwise and keep the areas of the result, never failing on topology.

    Where GEOS fails, both sides are made valid and snapped to a 0.1 mm grid; `counts` says how often.

    Args:
        operation: `shapely.intersection`, `difference`, `union` or `symmetric_difference`.
        a: polygons, `(n,)`.
        b: polygons, `(n,)`.
        crs: of both; says what 0.1 mm is.
        counts: is added to.

    Returns:
        Polygons and MultiPolygons, `(n,)`; empty where nothing is left.
    """
    a, b = np.atleast_1d(np.asarray(a, dtype=object)), np.atleast_1d(np.asarray(b, dtype=object))
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(a), _BLOCK)]
    if len(blocks) < 2 or workers() < 2:
        return robust_block(operation, a, b, crs, counts)
    # Each thread counts for itself: adding to one number from several is not safe.
    found = [OverlayCounts() for _ in blocks]
    with ThreadPoolExecutor(workers()) as pool:
        parts = list(pool.map(lambda s, c: robust_block(operation, a[s], b[s], crs, c), blocks, found))
    counts.topology_fallbacks += sum(c.topology_fallbacks for c in found)
    return np.concatenate(parts)


def robust_block(operation: Callable[..., Any], a: Array, b: Array, crs: CRS, counts: OverlayCounts) -> Array:
    """Do what `robust` does, in the caller's thread."""
    if operation is shapely.intersection and len(a) >= _WORTH:
        result, done, _ = intersect(a, b)
        left = ~done
        result[left] = general(operation, a[left], b[left], crs, counts)
        return result
    return general(operation, a, b, crs, counts)


def general(operation: Callable[..., Any], a: Array, b: Array, crs: CRS, counts: OverlayCounts) -> Array:
    """Do what `robust` does, with GEOS alone and in the caller's thread."""
    try:
        return areal(np.asarray(operation(a, b), dtype=object))
    except GEOSException:
        grid = 1e-9 if crs.is_geographic else 1e-4
        result = np.empty(len(a), dtype=object)
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            try:
                result[index] = operation(left, right)
            except GEOSException:
                counts.topology_fallbacks += 1
                left_valid, right_valid = shapely.make_valid(np.array([left, right], dtype=object), method="structure")
                result[index] = operation(left_valid, right_valid, grid_size=grid)
        return areal(result)


def areal(geometries: Array) -> Array:
    """Drop, in place, the lines and points that cuts along shared edges leave; what has no area becomes empty."""
    kinds = shapely.get_type_id(geometries)
    geometries[(kinds != _POLYGON) & (kinds != _MULTIPOLYGON) & (kinds != _COLLECTION)] = _EMPTY
    for index in np.flatnonzero(kinds == _COLLECTION):
        geometries[index] = shapely.union_all(polygonal(geometries[index]))
    return geometries


def subdivide(
    polygon: Any, limit: int = _MAX_VERTICES, box: tuple[float, float, float, float] | None = None
) -> list[Any]:
    """Cut a polygon by halves into parts of at most `limit` vertices that together are the polygon.

    Args:
        polygon: Polygon or MultiPolygon.
        limit: vertices of a part.
        box: (min_x, min_y, max_x, max_y); parts that do not meet it are left out, so that little of a large polygon is
            cut for a small place. None keeps all.

    Example:
        >>> ring = shapely.Point(0, 0).buffer(1, quad_segs=1000)
        >>> parts = subdivide(ring)
        >>> bool(abs(sum(p.area for p in parts) - ring.area) < 1e-12)
        True
    """
    stack, done = [(part, 0) for part in polygonal(polygon)], []
    while stack:
        part, depth = stack.pop()
        x0, y0, x1, y1 = part.bounds
        if box is not None and (x0 > box[2] or x1 < box[0] or y0 > box[3] or y1 < box[1]):
            continue
        # The depth bounds the work where all vertices lie on one spot and no cut can part them.
        if shapely.get_num_coordinates(part) <= limit or depth > _MAX_CUTS:
            done.append(part)
            continue
        if x1 - x0 >= y1 - y0:
            halves = [shapely.box(x0, y0, (x0 + x1) / 2, y1), shapely.box((x0 + x1) / 2, y0, x1, y1)]
        else:
            halves = [shapely.box(x0, y0, x1, (y0 + y1) / 2), shapely.box(x0, (y0 + y1) / 2, x1, y1)]
        stack.extend((piece, depth + 1) for half in halves for piece in polygonal(shapely.intersection(part, half)))
    return done


def tiled(geometries: Array, box: tuple[float, float, float, float] | None = None) -> tuple[Array, Array]:
    """Return polygons with large ones cut to tiles, and the index of the polygon each tile belongs to.

    Args:
        geometries: polygons, `(n,)`.
        box: tiles of large polygons that do not meet it are left out.
    """
    large = np.flatnonzero(shapely.get_num_coordinates(geometries) > _MAX_VERTICES)
    if not large.size:
        return geometries, np.arange(len(geometries))
    small = np.setdiff1d(np.arange(len(geometries)), large)
    tiles = [(index, tile) for index in large for tile in subdivide(geometries[index], box=box)]
    cut = np.array([tile for _, tile in tiles], dtype=object)
    return np.concatenate([geometries[small], cut]), np.concatenate([small, np.array([i for i, _ in tiles], dtype=int)])


def polygonal(geometry: Any) -> list[Any]:
    """Return the polygons of any geometry; lines and points, which cuts along shared edges leave, are dropped."""
    return [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon" and not part.is_empty]
