"""Whether a plan lies where the changes are: a layer in the wrong zone of a projection would find nothing, silently."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyproj
from pyproj import CRS

from tuban.errors import PlanError

if TYPE_CHECKING:
    from tuban.data.plan import Plan, PlanLayer

Bounds = tuple[float, float, float, float]


def unreached(plan: Plan, bounds: Bounds, crs: Any = "EPSG:4326") -> list[str]:
    """Say which layers have nothing near a box.

    Args:
        plan: the layers; only their extents are compared, no feature is read.
        bounds: `(min_x, min_y, max_x, max_y)` of what will be judged, in `crs`.
        crs: of the box.

    Returns:
        One line for each layer whose extent does not meet the box.

    Raises:
        PlanError: not one layer meets it; the CRS of the plan or its place is wrong.
    """
    here = _lonlat(bounds, CRS.from_user_input(crs))
    extents = [(entry, _extent(entry)) for entry in plan.layers]
    away = [(layer, extent) for layer, extent in extents if not _meet(here, extent)]
    if plan.layers and len(away) == len(plan.layers):
        layer, extent = away[0]
        raise PlanError(
            f"{plan.path}: no layer reaches what is to be judged, {_said(here)}; {layer.name} in {layer.crs.name} "
            f"lies at {_said(extent)}; give the plan of this place, or define the right projection"
        )
    return [
        f"plan layer {layer.name} ({layer.crs.name}) lies at {_said(extent)}, away from what is judged: "
        "it decides nothing here"
        for layer, extent in away
    ]


def _extent(layer: PlanLayer) -> Bounds:
    return _lonlat(layer.bounds, layer.crs)


def _lonlat(bounds: Any, crs: CRS) -> Bounds:
    """Return a box in degrees; what has no place there is NaN."""
    transformer = pyproj.Transformer.from_crs(crs, CRS.from_epsg(4326), always_xy=True)
    left, bottom, right, top = bounds
    west, south, east, north = transformer.transform_bounds(left, bottom, right, top, densify_pts=21)
    return (west, south, east, north)


def _meet(one: Bounds, other: Bounds) -> bool:
    if not all(math.isfinite(value) for value in (*one, *other)):
        return True  # cannot be told; nothing is claimed
    # A box over the 180th meridian has its west edge east of its east edge: longitudes then say nothing.
    wraps = one[0] > one[2] or other[0] > other[2]
    across = wraps or (one[0] <= other[2] and other[0] <= one[2])
    return across and one[1] <= other[3] and other[1] <= one[3]


def _said(box: Bounds) -> str:
    return f"lon {box[0]:.4f}..{box[2]:.4f}, lat {box[1]:.4f}..{box[3]:.4f}"
