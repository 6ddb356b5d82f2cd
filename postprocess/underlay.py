"""Which plan features lie under the overlaps of a rule, and how much of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tuban.postprocess.overlay import measured, robust
from tuban.postprocess.verdict import NOTHING_M2

if TYPE_CHECKING:
    import numpy.typing as npt

    from tuban.postprocess.rule_evidence import Feature
    from tuban.postprocess.sheet import Sheet

    Array = npt.NDArray[Any]


class Underlay:
    """The features under the overlaps of one rule in a batch; areas of a role are measured in one go."""

    def __init__(self, sheet: Sheet, overlaps: Array) -> None:
        """Take the batch and the overlap of each of its changes, `(n,)`, empty where there is none."""
        self.sheet, self.overlaps = sheet, overlaps
        self._areas: dict[str, Array] = {}

    def under(self, role: str, row: int) -> list[tuple[Feature, float]]:
        """Return the features of a role under one overlap with the area of each, largest first."""
        if not self.sheet.plan.of(role) or self.overlaps[row].is_empty:
            return []
        pieces = self.sheet.pieces(role)
        under = pieces.under(row)
        if not under.size:
            return []
        areas = self._piece_areas(role)[under]
        sums: dict[tuple[str, str], tuple[Feature, float]] = {}
        for index, area in zip(under, areas, strict=True):
            feature = pieces.rows[index]
            key = (feature["layer"], feature["plan_id"])
            sums[key] = (feature, sums.get(key, (feature, 0.0))[1] + float(area))
        hits = [hit for hit in sums.values() if hit[1] > NOTHING_M2]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]["layer"], hit[0]["plan_id"]))

    def _piece_areas(self, role: str) -> Array:
        """Return the area of every piece of a role within the overlap of its change."""
        if role not in self._areas:
            sheet, pieces = self.sheet, self.sheet.pieces(role)
            areas = np.zeros(len(pieces.patch))
            used = np.flatnonzero(~shapely.is_empty(self.overlaps[pieces.patch]))
            inside = self.overlaps[pieces.patch[used]]
            cut = robust(shapely.intersection, pieces.geometry[used], inside, sheet.crs, sheet.counts)
            areas[used] = measured(cut, sheet.crs)
            self._areas[role] = areas
        return self._areas[role]
