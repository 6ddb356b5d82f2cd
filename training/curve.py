"""Small line plots as SVG, drawn by a template so that a report needs no plotting library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _HEIGHT = 360, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 28, 44
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@dataclass(frozen=True, slots=True)
class Series:
    """A line: name for the legend, points `(x, y)` in data units, and whether it is only a reference."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def plot(
    series: Sequence[Series],
    *,
    title: str,
    x: str,
    y: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[float] = (),
) -> Markup:
    """Return an SVG of 360 x 260.

    Args:
        series: at least one with a point.
        title: stands above.
        x: what is to the right.
        y: what is upward.
        x_range: data range; None takes that of the points.
        y_range: the same.
        marks: places on x where something was refused.
    """
    points = [point for line in series for point in line.points]
    left, right = x_range or _padded([p[0] for p in points])
    low, high = y_range or _padded([p[1] for p in points])
    across = (_WIDTH - _LEFT - _RIGHT) / (right - left)
    up = (_HEIGHT - _TOP - _BOTTOM) / (high - low)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return round(_LEFT + (point[0] - left) * across, 1), round(_HEIGHT - _BOTTOM - (point[1] - low) * up, 1)

    colours = iter(_COLOURS)
    drawn = [
        {
            "name": line.name,
            "dashed": line.dashed,
            "colour": "#888888" if line.dashed else next(colours),
            "points": [place(point) for point in line.points],
        }
        for line in series
        if line.points
    ]
    environment = Environment(loader=PackageLoader("tuban.training", "templates"), autoescape=True)
    text = environment.get_template("curve.svg.j2").render(
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        top=_TOP,
        right=_WIDTH - _RIGHT,
        bottom=_HEIGHT - _BOTTOM,
        title=title,
        x=x,
        y=y,
        lines=drawn,
        x_ticks=[(place((t, low))[0], f"{t:g}") for t in _ticks(left, right)],
        y_ticks=[(place((left, t))[1], f"{t:g}") for t in _ticks(low, high)],
        marks=[place((m, low))[0] for m in marks],
    )
    return Markup(text)  # noqa: S704  # made by an escaping template


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers from `low` to `high`, at most six."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
