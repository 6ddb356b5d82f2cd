"""The overlay figure (套合示意图): a finding's outline over the plan's zones, parcels and permits, as vectors.

It needs no imagery. Colours and names come from `configs/legend.yaml`; equal inputs give equal drawings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import shapely

from tuban.postprocess.legend import is_parcels, role_colors
from tuban.postprocess.sources import role_of
from tuban.postprocess.view import WIDTH, svg_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.postprocess.sources import ZoneSource
    from tuban.postprocess.view import View

_MOST_PARCELS = 400
_MOST_LABELS = 40
_LABEL_SIDE = 60.0  # drawing units; in a smaller parcel a code could not be read


@dataclass(frozen=True, slots=True)
class Layer:
    """One role of the plan as drawn: `path` is an SVG path; parcels are outlined only, others filled."""

    role: str
    color: str
    path: str
    filled: bool


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay figure, in drawing units of `tuban.postprocess.view`.

    Attributes:
        height: of the drawing; its width is 1000.
        layers: the plan, what is filled first.
        labels: x, y and class code of parcels.
        outline: of the finding.
        scale_units: length of the scale bar.
        scale_m: the same in metres.
        north_deg: direction of true north, clockwise from the top.
        partial: whether the finding reaches beyond the figure.
        hidden: parcels in view that are not drawn.
    """

    height: float
    layers: tuple[Layer, ...]
    labels: tuple[tuple[float, float, str], ...]
    outline: str
    scale_units: float
    scale_m: float
    north_deg: float
    partial: bool
    hidden: int


def make_overlay(view: View, geometry: shapely.Geometry, zones: Sequence[ZoneSource]) -> Overlay:
    """Draw a finding over the plan.

    Args:
        view: what is shown.
        geometry: the finding, in the CRS of the view's grid.
        zones: layers of the plan.

    Raises:
        VectorError: a layer cannot be read.
    """
    colors = role_colors(map(role_of, zones))
    shapes: dict[str, list[shapely.Geometry]] = {}
    labels: list[tuple[float, float, str]] = []
    hidden = 0
    for zone in zones:
        parcels = is_parcels(zone.role)
        found = shapes.setdefault(role_of(zone), [])
        for frame in zone.batches(view.bounds, view.grid.crs):
            room = _MOST_PARCELS - len(found) if parcels else len(frame)
            hidden += max(0, len(frame) - room)
            near = frame.iloc[: max(0, room)]
            drawn = view.cut(view.drawn(near.geometry.to_numpy()))
            found.extend(shape for shape in drawn if shape is not None and shapely.area(shape) > 0)
            if parcels and "plan_class" in near.columns:
                labels += _labels(drawn, near["plan_class"], view)
    layers = []
    for role, drawn in shapes.items():
        if drawn:
            filled = not is_parcels(role)
            # Parcels keep their shared edges; parts of a zone read as one.
            path = svg_path(shapely.union_all(drawn)) if filled else "".join(map(svg_path, drawn))
            layers.append(Layer(role, colors[role], path, filled))
    return Overlay(
        height=round(view.height, 1),
        layers=tuple(sorted(layers, key=lambda layer: (not layer.filled, layer.role))),
        labels=tuple(labels[:_MOST_LABELS]),
        outline=svg_path(view.drawn(geometry)),
        scale_units=view.scale_units,
        scale_m=view.scale_m,
        north_deg=view.north_deg,
        partial=view.partial,
        hidden=hidden,
    )


def _labels(drawn: Sequence[shapely.Geometry], codes: Sequence[object], view: View) -> list[tuple[float, float, str]]:
    """Return where the codes of parcels that are large enough stand, clear of the corners of bar and arrow."""
    frame = shapely.box(20, 130, WIDTH - 20, view.height - 90)
    found = []
    for shape, code in zip(drawn, codes, strict=True):
        inside = shapely.intersection(shape, frame)
        west, top, east, bottom = shapely.bounds(inside)
        if str(code) and min(east - west, bottom - top) > _LABEL_SIDE and shapely.area(inside) > 2 * _LABEL_SIDE**2:
            point = shapely.point_on_surface(inside)
            found.append((round(point.x, 1), round(point.y, 1), str(code)))
    return found
