"""Changes over plan layers: which pieces of which plan features lie under each change, batch by batch.

All set algebra is done in the CRS of the changes; areas are measured on the ellipsoid afterwards.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from pyproj import CRS
from shapely.errors import GEOSException

from tuban.postprocess.area import geodesic_area

if TYPE_CHECKING:
    from collections.abc import Callable

    import geopandas as gpd
    import numpy.typing as npt

    from tuban.data.plan import PlanLayer

    Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

# Above this many vertices a polygon is cut into tiles first: one clip of a million vertices per change is the
# difference between seconds and hours.
_MAX_VERTICES = 512
_MAX_CUTS = 40


@dataclass(slots=True)
class OverlayCounts:
    """What the overlay met; lands in `run.json`."""

    topology_fallbacks: int = 0
    plan_features: int = 0
    plan_pieces: int = 0


def robust(operation: Callable[..., Any], a: Array, b: Array, crs: CRS, counts: OverlayCounts) -> Array:
    """Apply a binary shapely operation elementwise; where GEOS fails, snap to a 0.1 mm grid and try again."""
    try:
        return _areal(np.atleast_1d(np.asarray(operation(a, b), dtype=object)))
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
        return _areal(result)


def subdivide(polygon: Any, limit: int = _MAX_VERTICES) -> list[Any]:
    """Cut a polygon by halves into parts of at most `limit` vertices that together are the polygon.

    Example:
        >>> ring = shapely.Point(0, 0).buffer(1, quad_segs=1000)
        >>> parts = subdivide(ring)
        >>> bool(abs(sum(p.area for p in parts) - ring.area) < 1e-12)
        True
    """
    stack, done = [(polygon, 0)], []
    while stack:
        part, depth = stack.pop()
        # The depth bounds the work where all vertices lie on one spot and no cut can part them.
        if shapely.get_num_coordinates(part) <= limit or depth > _MAX_CUTS:
            done.append(part)
            continue
        x0, y0, x1, y1 = part.bounds
        if x1 - x0 >= y1 - y0:
            halves = [shapely.box(x0, y0, (x0 + x1) / 2, y1), shapely.box((x0 + x1) / 2, y0, x1, y1)]
        else:
            halves = [shapely.box(x0, y0, x1, (y0 + y1) / 2), shapely.box(x0, (y0 + y1) / 2, x1, y1)]
        stack.extend((piece, depth + 1) for half in halves for piece in polygonal(shapely.intersection(part, half)))
    return done


def polygonal(geometry: Any) -> list[Any]:
    """Return the polygons of any geometry; lines and points, which cuts along shared edges leave, are dropped."""
    return [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon" and not part.is_empty]


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
            valid_to, number, values).
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

    Layers are streamed; only clipped pieces are kept, so memory follows the changes and not the plan.

    Args:
        layers: layers of one role.
        grown: the changes, grown by the largest tolerance in use, `(n,)`.
        crs: CRS of `grown`.
        counts: is added to.
        fields: further fields to keep.
    """
    tree = shapely.STRtree(grown)
    bounds = shapely.total_bounds(grown)
    box = (float(bounds[0]), float(bounds[1]), float(bounds[2]), float(bounds[3]))
    patches: list[Array] = []
    geometries: list[Array] = []
    rows: list[dict[str, Any]] = []
    for layer in layers:
        for frame in layer.batches(box, crs):
            counts.plan_features += len(frame)
            zones, owner = _parts(np.asarray(frame.geometry.values, dtype=object))
            zone, patch = tree.query(zones, predicate="intersects")
            order = np.lexsort((owner[zone], patch))
            zone, patch = zone[order], patch[order]
            clipped = robust(shapely.intersection, zones[zone], grown[patch], crs, counts)
            solid = shapely.area(clipped) > 0
            patches.append(patch[solid])
            geometries.append(clipped[solid])
            rows += _describe(layer, frame, owner[zone[solid]], fields)
    if not patches:
        return Pieces(np.array([], dtype=int), np.array([], dtype=object), [])
    counts.plan_pieces += len(rows)
    worst = max(layer.accuracy_m for layer in layers)
    return Pieces(np.concatenate(patches), np.concatenate(geometries), rows, worst)


def _parts(geometries: Array) -> tuple[Array, Array]:
    """Return the features with large ones cut to tiles, and the feature each tile belongs to."""
    large = np.flatnonzero(shapely.get_num_coordinates(geometries) > _MAX_VERTICES)
    if not large.size:
        return geometries, np.arange(len(geometries))
    small = np.setdiff1d(np.arange(len(geometries)), large)
    tiles = [(index, tile) for index in large for tile in subdivide(geometries[index])]
    cut = np.array([tile for _, tile in tiles], dtype=object)
    return np.concatenate([geometries[small], cut]), np.concatenate([small, np.array([i for i, _ in tiles], dtype=int)])


def _areal(geometries: Array) -> Array:
    """Return geometries with lines and points dropped, which cuts along shared edges leave."""
    kinds = shapely.get_type_id(geometries)
    for index in np.flatnonzero((kinds != 3) & (kinds != 6)):
        geometries[index] = shapely.union_all(polygonal(geometries[index]))
    return geometries


def _describe(layer: PlanLayer, frame: gpd.GeoDataFrame, index: Array, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    kept = [name for name in fields if name in frame.columns]
    columns = {name: frame[name].tolist() for name in [*kept, "plan_id", "plan_class", "plan_name", "plan_number"]}
    start, end = frame["plan_from"].tolist(), frame["plan_to"].tolist()
    return [
        {
            "plan_id": columns["plan_id"][i], "code": columns["plan_class"][i], "name": columns["plan_name"][i],
            "system": layer.class_system, "layer": layer.name, "kind": layer.kind, "number": columns["plan_number"][i],
            "valid_from": start[i], "valid_to": end[i], "values": {name: str(columns[name][i]) for name in kept},
        }
        for i in index
    ]  # fmt: skip


def measured(geometries: Array, crs: CRS) -> Array:
    """Return ellipsoidal areas in square metres, `(n,)`; what has no area counts 0."""
    return np.asarray(geodesic_area(geometries, crs), dtype=float)
