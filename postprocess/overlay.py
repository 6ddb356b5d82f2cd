"""Changes over plan layers: which pieces of which plan features lie under each change, batch by batch.

All set algebra is done in the CRS of the changes; areas are measured on the ellipsoid afterwards.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from pyproj import CRS

from tuban.postprocess.area import geodesic_area
from tuban.postprocess.set_algebra import OverlayCounts, general, polygonal, robust, subdivide, tiled, workers
from tuban.postprocess.two_crossings import intersect

if TYPE_CHECKING:
    from collections.abc import Callable

    import geopandas as gpd
    import numpy.typing as npt

    from tuban.data.plan import PlanLayer

    Array = npt.NDArray[Any]
    Hits = tuple[Array, Array, Array, OverlayCounts]

logger = logging.getLogger(__name__)

__all__ = [
    "OverlayCounts",
    "Pieces",
    "collect",
    "measured",
    "moved_outline",
    "polygonal",
    "robust",
    "subdivide",
]

_BLOCK = 1000  # features a thread takes at a time; more of them would not stay in the processor's cache


def moved_outline(geometries: Array, crs: CRS, metres: float) -> Array:
    """Return each polygon grown (or shrunk, below 0) by a distance in metres, whatever the CRS.

    The distance is laid off in an equal-area projection about the middle of each group of neighbours (cells of 2
    degrees), where a length is wrong by less than 1e-3.
    """
    if metres == 0 or not len(geometries):
        return geometries
    geographic = crs if crs.is_geographic else (crs.geodetic_crs or CRS.from_epsg(4326))
    out, back = (pyproj.Transformer.from_crs(a, b, always_xy=True) for a, b in ((crs, geographic), (geographic, crs)))
    degrees = shapely.transform(geometries, lambda xy: np.column_stack(out.transform(xy[:, 0], xy[:, 1])))
    lonlat = shapely.get_coordinates(shapely.centroid(degrees))
    cells = np.floor(lonlat / 2).astype(int)
    ellipsoid = geographic.ellipsoid
    axes = {} if ellipsoid is None else {"a": ellipsoid.semi_major_metre, "b": ellipsoid.semi_minor_metre}
    result = np.empty(len(geometries), dtype=object)
    for cell in np.unique(cells, axis=0):
        rows = np.flatnonzero((cells == cell).all(axis=1))
        lon, lat = lonlat[rows].mean(axis=0)
        # A bare projection on the layer's own ellipsoid: no datum shift can creep in.
        plane = pyproj.Proj(proj="laea", lat_0=lat, lon_0=lon, **axes)  # type: ignore[arg-type]
        local = shapely.transform(degrees[rows], lambda xy, p=plane: np.column_stack(p(xy[:, 0], xy[:, 1])))
        moved = shapely.transform(
            shapely.buffer(local, metres), lambda xy, p=plane: np.column_stack(p(xy[:, 0], xy[:, 1], inverse=True))
        )
        result[rows] = shapely.transform(moved, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))
    return result


@dataclass
class Pieces:
    """The pieces of a role's features under the changes of a batch; parallel arrays of length `m`.

    Attributes:
        patch: index of the change, `(m,)` int.
        geometry: feature clipped to the grown change.
        rows: what the feature says, one dict a piece (keys: plan_id, code, name, system, layer, kind, valid_from,
            valid_to, number, values); pieces of one feature share theirs, so it is not to be written to.
        accuracy_m: the worst positional accuracy among the layers.
    """

    patch: Array
    geometry: Array
    rows: list[dict[str, Any]]
    accuracy_m: float = 0.0
    _unions: dict[Any, Array] = field(default_factory=dict)
    _sorted: tuple[Array, Array] | None = None

    def under(self, patch: int) -> Array:
        """Return the indexes of the pieces under one change."""
        if self._sorted is None:
            order = np.argsort(self.patch, kind="stable")
            self._sorted = (order, self.patch[order])
        order, patches = self._sorted
        return order[np.searchsorted(patches, patch) : np.searchsorted(patches, patch, side="right")]

    def union(self, n: int, key: Any, keep: Callable[[dict[str, Any]], bool] | None = None) -> Array:
        """Return for each of `n` changes the union of its pieces that `keep` accepts; cached under `key`."""
        if key not in self._unions:
            result = np.full(n, shapely.Polygon(), dtype=object)
            chosen = np.array([keep is None or keep(row) for row in self.rows], dtype=bool)
            patches, geometries = self.patch[chosen], self.geometry[chosen]
            order = np.argsort(patches, kind="stable")
            owners, starts = np.unique(patches[order], return_index=True)
            groups = np.split(geometries[order], starts[1:]) if len(owners) else []
            for owner, group in zip(owners, groups, strict=True):
                result[owner] = group[0] if len(group) == 1 else shapely.union_all(group)
            self._unions[key] = result
        return self._unions[key]


def collect(
    layers: tuple[PlanLayer, ...], grown: Array, crs: CRS, counts: OverlayCounts, *, fields: tuple[str, ...] = ()
) -> Pieces:
    """Return the pieces of some layers' features under each change.

    Layers are streamed; only clipped pieces are kept, so memory follows the changes and not the plan. Every core clips;
    the result does not depend on their number.

    Args:
        layers: layers of one role.
        grown: the changes, grown by the largest tolerance in use, `(n,)`.
        crs: CRS of `grown`.
        counts: is added to.
        fields: further fields to keep.
    """
    if not len(grown) or not layers:
        return _nothing()
    bounds = shapely.total_bounds(grown)
    box = (float(bounds[0]), float(bounds[1]), float(bounds[2]), float(bounds[3]))
    tree = shapely.STRtree(grown)
    patches: list[Array] = []
    geometries: list[Array] = []
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(workers()) as pool:
        for layer in layers:
            for frame in layer.batches(box, crs, columns=fields):
                zones, owner = tiled(np.asarray(frame.geometry.values, dtype=object), box)
                counts.plan_features += len(frame)
                zone, patch, geometry = _clipped(zones, grown, crs, tree, pool, counts)
                order = np.lexsort((owner[zone], patch))
                patches.append(patch[order])
                geometries.append(geometry[order])
                rows += _describe(layer, frame, owner[zone[order]], fields)
    if not rows:
        return _nothing()
    counts.plan_pieces += len(rows)
    worst = max(layer.accuracy_m for layer in layers)
    return Pieces(np.concatenate(patches), np.concatenate(geometries), rows, worst)


def _nothing() -> Pieces:
    return Pieces(np.array([], dtype=int), np.array([], dtype=object), [])


def _clipped(
    zones: Array, grown: Array, crs: CRS, tree: shapely.STRtree, pool: ThreadPoolExecutor, counts: OverlayCounts
) -> tuple[Array, Array, Array]:
    """Return zone, change and common area of each pair that has one.

    The caller waits meanwhile: work of its own in Python would hold the interpreter's lock, and each of the threads'
    many short calls would wait for it.
    """
    # A prepared geometry is not safe in two threads at once, so each zone belongs to one block.
    starts = range(0, len(zones), _BLOCK)
    found = list(pool.map(lambda start: _clip(zones[start : start + _BLOCK], start, grown, crs, tree), starts))
    if not found:
        return np.array([], dtype=int), np.array([], dtype=int), np.array([], dtype=object)
    zone, patch, geometry, met = zip(*found, strict=True)
    counts.topology_fallbacks += sum(block.topology_fallbacks for block in met)
    return np.concatenate(zone), np.concatenate(patch), np.concatenate(geometry)


def _clip(zones: Array, start: int, grown: Array, crs: CRS, tree: shapely.STRtree) -> Hits:
    """Return feature (from `start`), change and common area of each pair that has one; only what crosses is cut."""
    counts = OverlayCounts()
    zone, patch = tree.query(zones)
    shapely.prepare(zones[np.unique(zone)])
    a, b = zones[zone], grown[patch]
    inside = shapely.contains_properly(a, b)
    # The boxes say cheaply which features may lie wholly within a change.
    outer, inner = shapely.bounds(b), shapely.bounds(a)
    covered = ~inside & (outer[:, :2] < inner[:, :2]).all(axis=1) & (outer[:, 2:] > inner[:, 2:]).all(axis=1)
    covered[covered] = shapely.contains_properly(b[covered], a[covered])
    result = np.where(inside, b, a)
    rest = np.flatnonzero(~(inside | covered))
    result[rest], done, free = intersect(a[rest], b[rest])
    # Outlines that do not cross, and neither within the other: apart, though their boxes meet.
    result[rest[free]] = shapely.Polygon()
    rest = rest[~(done | free)]
    meet = shapely.intersects(a[rest], b[rest])
    shapely.destroy_prepared(a)
    result[rest[~meet]] = shapely.Polygon()
    rest = rest[meet]
    result[rest] = general(shapely.intersection, a[rest], b[rest], crs, counts)
    solid = shapely.area(result) > 0
    return zone[solid] + start, patch[solid], result[solid], counts


def _describe(layer: PlanLayer, frame: gpd.GeoDataFrame, index: Array, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    kept = [name for name in fields if name in frame.columns]
    columns = {name: frame[name].tolist() for name in [*kept, "plan_id", "plan_class", "plan_name", "plan_number"]}
    start, end = frame["plan_from"].tolist(), frame["plan_to"].tolist()
    name, system, kind = layer.name, layer.class_system, layer.kind
    # One dict a feature, shared by its pieces: most features lie under several changes, or under none.
    said = {
        i: {
            "plan_id": columns["plan_id"][i], "code": columns["plan_class"][i], "name": columns["plan_name"][i],
            "system": system, "layer": name, "kind": kind, "number": columns["plan_number"][i],
            "valid_from": start[i], "valid_to": end[i], "values": {name: str(columns[name][i]) for name in kept},
        }
        for i in np.unique(index).tolist()
    }  # fmt: skip
    return [said[i] for i in index.tolist()]


def measured(geometries: Array, crs: CRS) -> Array:
    """Return ellipsoidal areas in square metres, `(n,)`; what has no area counts 0."""
    return np.asarray(geodesic_area(geometries, crs), dtype=float)
