"""How much of a pair's overlap is hidden by clouds and their shadows: pixels, square metres, causes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tuban.data.mask_kinds import mask_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tuban.data.grid import Grid

_CODES = 8  # 0 seen, then the causes of configs/cloud_masks.yaml


@dataclass(frozen=True, slots=True)
class UnseenCounts:
    """Counts of pixels that have data at both dates; windows add up with `+`.

    Attributes:
        seen_px: seen at both dates.
        unseen_px: hidden at either.
        unseen_m2: their area on the ellipsoid.
        before: pixels hidden at the first date by code of the cause; position 0 is unused.
        after: the same at the second date. A pixel hidden at both dates counts at both.
    """

    seen_px: int = 0
    unseen_px: int = 0
    unseen_m2: float = 0.0
    before: tuple[int, ...] = (0,) * _CODES
    after: tuple[int, ...] = (0,) * _CODES

    def __add__(self, other: UnseenCounts) -> UnseenCounts:
        """Return the counts of both."""
        return UnseenCounts(
            self.seen_px + other.seen_px,
            self.unseen_px + other.unseen_px,
            self.unseen_m2 + other.unseen_m2,
            tuple(a + b for a, b in zip(self.before, other.before, strict=True)),
            tuple(a + b for a, b in zip(self.after, other.after, strict=True)),
        )

    @property
    def share(self) -> float:
        """Hidden share of the pixels that have data at both dates, 0 where there are none."""
        total = self.seen_px + self.unseen_px
        return self.unseen_px / total if total else 0.0

    def summary(self) -> dict[str, object]:
        """Return the JSON-ready record for run.json; causes without a pixel are left away."""
        return {
            "unseen_px": self.unseen_px,
            "unseen_m2": round(self.unseen_m2, 2),
            "share": round(self.share, 6),
            "by_cause": {"before": _named(self.before), "after": _named(self.after)},
        }


def count_unseen(valid: NDArray[np.bool_], causes: NDArray[np.uint8], grid: Grid) -> UnseenCounts:
    """Count what one window of a pair hides.

    Args:
        valid: `(height, width)`, pixels seen at both dates.
        causes: `(2, height, width)`, codes of what hides a pixel before and after; 0 where nothing does or where a date
            has no data.
        grid: the grid of exactly this window, `pair.grid.window(window)`.

    Returns:
        Counts; areas are those of the pixels in the window's middle column, row by row.
    """
    hidden = causes.any(axis=0)
    by_row = hidden.sum(axis=1)
    area = 0.0
    if by_row.any():
        # The size of a pixel changes so slowly from row to row that lines between a few rows describe it.
        rows = np.linspace(0, grid.height - 1, min(grid.height, 9))
        sizes = [grid.pixel_area_m2(row, (grid.width - 1) / 2) for row in rows]
        area = float(np.interp(np.arange(grid.height), rows, sizes) @ by_row)
    before, after = (tuple(np.bincount(layer[hidden], minlength=_CODES).tolist()) for layer in causes)
    return UnseenCounts(int(valid.sum()), int(hidden.sum()), area, (0, *before[1:]), (0, *after[1:]))


def in_words(counts: UnseenCounts) -> str:
    """Return what hides the land at each date, the most first: `before cloud 12.0%; after cirrus 0.2%`."""
    total = max(counts.seen_px + counts.unseen_px, 1)
    dates = []
    for date, layer in (("before", counts.before), ("after", counts.after)):
        named = sorted(_named(layer).items(), key=lambda item: -item[1])
        if named:
            dates.append(f"{date} " + ", ".join(f"{cause} {pixels / total:.1%}" for cause, pixels in named))
    return "; ".join(dates)


def _named(layer: tuple[int, ...]) -> dict[str, int]:
    return {name: layer[code] for name, code in mask_table().causes.items() if layer[code]}
