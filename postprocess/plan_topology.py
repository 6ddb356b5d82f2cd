"""Features of plan layers that overlap or leave gaps, tile by tile, so that memory does not follow the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely

from tuban.data.geometry_repair import RepairCounts
from tuban.postprocess.overlay import collect, measured
from tuban.postprocess.set_algebra import OverlayCounts, polygonal, robust, tiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from tuban.data.crs_guess import Bounds
    from tuban.data.plan import PlanLayer

    Array = npt.NDArray[Any]

_MARGIN = 0.1  # of a tile: how far beyond it the neighbours of its features are looked for
_MOST = 4  # a tile with this many times the features asked for is cut
_DEEPEST = 12  # cuts; a heap of features on one spot cannot be parted


@dataclass(frozen=True, slots=True)
class Shared:
    """Ground that two features share, or that is missing between features (`other` is empty then).

    Attributes:
        feature, other: `plan_id` of the features.
        area_m2: ellipsoidal.
        geometry: in the CRS of the (first) layer.
    """

    feature: str
    other: str
    area_m2: float
    geometry: Any


def overlaps(
    layer: PlanLayer, *, least_m2: float, tile_features: int, within: Bounds | None = None
) -> Iterator[Shared]:
    """Yield the ground that two features of a layer share.

    Args:
        layer: the layer; looked at in its own CRS, in which its features' common edges are straight.
        least_m2: smaller overlaps are taken for rounding.
        tile_features: features looked at together.
        within: box in the CRS of the layer; None is all of it.
    """
    counts = OverlayCounts()
    for tile, frame in tiles(layer, tile_features, within):
        geometry, names = np.asarray(frame.geometry.values, dtype=object), frame["plan_id"].tolist()
        # What fits its neighbours edge by edge overlaps nothing, which is quickly told of a whole tile.
        suspect = ~shapely.is_empty(shapely.coverage_invalid_edges(geometry))
        if not suspect.any():
            continue
        # One that holds another whole is not told on, only the other is: so each is held against all.
        parts, owner = tiled(geometry)
        asked = np.flatnonzero(suspect[owner])
        one, other = shapely.STRtree(parts).query(parts[asked], predicate="intersects")
        one = asked[one]
        once = (owner[one] < owner[other]) | ((owner[one] != owner[other]) & ~suspect[owner[other]])
        one, other = one[once], other[once]
        common = robust(shapely.intersection, parts[one], parts[other], layer.crs, counts)
        solid = shapely.area(common) > 0
        pairs = np.sort(np.column_stack([owner[one], owner[other]])[solid], axis=1)
        for (first, second), geometry_, area in _joined(pairs, common[solid], layer):
            if area >= least_m2 and _owns(tile, geometry_):
                yield Shared(names[first], names[second], area, geometry_)


def gaps(
    layer: PlanLayer, *, least_m2: float, most_m2: float, tile_features: int, within: Bounds | None = None
) -> Iterator[Shared]:
    """Yield the holes between the features of a layer.

    A gap that opens to the outside, or reaches more than a tenth of a tile beyond its tile, is not found.

    Args:
        layer: the layer.
        least_m2: smaller holes are taken for rounding.
        most_m2: larger holes may be meant.
        tile_features: features looked at together.
        within: box in the CRS of the layer.
    """
    for tile, frame in tiles(layer, tile_features, within):
        geometry = np.asarray(frame.geometry.values, dtype=object)
        union = shapely.get_parts(shapely.union_all(geometry))
        rings, owner = shapely.get_rings(union, return_index=True)
        holes = shapely.polygons(rings[1:][owner[1:] == owner[:-1]])
        tree = None
        for hole in holes[measured(holes, layer.crs) >= least_m2]:
            if not _owns(tile, hole):
                continue
            tree = tree or shapely.STRtree(geometry)
            # What lies within a ring of the union may be an island; only what no feature covers is missing.
            near = geometry[tree.query(hole, predicate="intersects")]
            missing = np.array(polygonal(shapely.difference(hole, shapely.union_all(near))), dtype=object)
            for part, area in zip(missing, measured(missing, layer.crs).tolist(), strict=True):
                if least_m2 <= area <= most_m2:
                    beside = frame["plan_id"].iloc[np.sort(tree.query(part, predicate="touches"))]
                    yield Shared(", ".join(beside.iloc[:3]), "", area, part)


def conflicts(
    first: PlanLayer, second: PlanLayer, *, least_m2: float, tile_features: int, within: Bounds | None = None
) -> Iterator[Shared]:
    """Yield the ground that a feature of one layer shares with a feature of another.

    Args:
        first: its CRS is the working CRS.
        second: another layer.
        least_m2: smaller overlaps are not reported.
        tile_features: features looked at together.
        within: box in the CRS of `first`.
    """
    for tile, frame in tiles(first, tile_features, within):
        mine = frame[[_owns(tile, shape) for shape in frame.geometry]]
        if mine.empty:
            continue
        names = mine["plan_id"].tolist()
        parts, owner = tiled(np.asarray(mine.geometry.values, dtype=object))
        pieces = collect((second,), parts, first.crs, OverlayCounts())
        others = [row["plan_id"] for row in pieces.rows]
        known = {name: index for index, name in enumerate(dict.fromkeys(others))}
        pairs = np.column_stack([owner[pieces.patch], [known[name] for name in others]]).reshape(-1, 2)
        by_number = list(known)
        for (index, other), geometry, area in _joined(pairs, pieces.geometry, first):
            if area > least_m2:
                yield Shared(names[index], by_number[other], area, geometry)


def tiles(layer: PlanLayer, features: int, within: Bounds | None) -> Iterator[tuple[Bounds, gpd.GeoDataFrame]]:
    """Yield boxes that part the layer, and with each the features that meet it or its margin, in the layer's CRS.

    Args:
        layer: the layer.
        features: about how many a tile holds.
        within: box in the CRS of the layer; None is all of it.
    """
    west, south, east, north = layer.bounds if within is None else within
    if not all(math.isfinite(value) for value in (west, south, east, north)):
        west, south, east, north = _extent(layer)
        if west > east:
            return
    side = max(1, math.ceil(math.sqrt(layer.origin.features / features)))
    x, y = np.linspace(west, east, side + 1), np.linspace(south, north, side + 1)
    # The outermost tiles own what touches the edge of the layer, rounding included.
    x[0], x[-1], y[0], y[-1] = -math.inf, math.inf, -math.inf, math.inf
    stack = [((x[i], y[j], x[i + 1], y[j + 1]), 0) for j in reversed(range(side)) for i in reversed(range(side))]
    extent = (west, south, east, north)
    while stack:
        tile, depth = stack.pop()
        frames, held = [], 0
        for frame in layer.batches(_with_margin(tile, extent), layer.crs, columns=(), counts=RepairCounts()):
            frames.append(frame)
            held += len(frame)
            if held > _MOST * features and depth < _DEEPEST:
                break
        else:
            if held:
                yield tile, frames[0] if len(frames) == 1 else gpd.pd.concat(frames)
            continue
        stack.extend((half, depth + 1) for half in _halves(tile, extent))


def _extent(layer: PlanLayer) -> Bounds:
    """Return the extent of the usable features, where the layer's own is spoilt by coordinates that are not finite."""
    boxes = np.array([frame.total_bounds for frame in layer.batches(columns=(), counts=RepairCounts()) if len(frame)])
    if not len(boxes):
        return (math.inf, math.inf, -math.inf, -math.inf)
    (west, south), (east, north) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    return (west, south, east, north)


def _with_margin(tile: Bounds, extent: Bounds) -> Bounds:
    box = [max(tile[0], extent[0]), max(tile[1], extent[1]), min(tile[2], extent[2]), min(tile[3], extent[3])]
    across, along = _MARGIN * (box[2] - box[0]), _MARGIN * (box[3] - box[1])
    return (box[0] - across, box[1] - along, box[2] + across, box[3] + along)


def _halves(tile: Bounds, extent: Bounds) -> list[Bounds]:
    x0, y0, x1, y1 = _with_margin(tile, extent)
    if x1 - x0 >= y1 - y0:
        middle = (x0 + x1) / 2
        return [(middle, tile[1], tile[2], tile[3]), (tile[0], tile[1], middle, tile[3])]
    middle = (y0 + y1) / 2
    return [(tile[0], middle, tile[2], tile[3]), (tile[0], tile[1], tile[2], middle)]


def _owns(tile: Bounds, shape: Any) -> bool:
    """Say whether a shape belongs to a tile: each belongs to one, that of its lower left corner."""
    west, south, _, _ = shape.bounds
    return bool(tile[0] <= west < tile[2] and tile[1] <= south < tile[3])


def _joined(pairs: Array, geometries: Array, layer: PlanLayer) -> Iterator[tuple[tuple[int, int], Any, float]]:
    """Yield each pair once, with the union of its pieces and its area, in the order of the pairs."""
    if not len(pairs):
        return
    unique, place = np.unique(pairs, axis=0, return_inverse=True)
    place = place.ravel()
    order = np.argsort(place, kind="stable")
    groups = np.split(geometries[order], np.flatnonzero(np.diff(place[order])) + 1)
    whole = np.array([group[0] if len(group) == 1 else shapely.union_all(group) for group in groups], dtype=object)
    for (first, second), geometry, area in zip(unique.tolist(), whole, measured(whole, layer.crs), strict=True):
        yield (first, second), geometry, float(area)
