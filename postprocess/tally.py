"""What the report says of a stream of findings or changes: sums, and the rows that matter most, in bounded memory."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import geopandas as gpd
    import shapely

OPEN_STATUSES = ("suspected", "inconclusive", "undetermined")
_STATUS_ORDER = {name: at for at, name in enumerate((*OPEN_STATUSES, "permitted", "compliant"))}


@dataclass(slots=True)
class Sum:
    """Rows counted, and their areas added up in m²."""

    count: int = 0
    area_m2: float = 0.0
    overlap_m2: float = 0.0

    def add(self, row: dict[str, Any]) -> None:
        """Count one row; an area that is not known adds nothing."""
        self.count += 1
        self.area_m2 += row.get("area_m2") or 0.0
        self.overlap_m2 += row.get("overlap_m2") or 0.0


@dataclass(slots=True)
class Tally:
    """Adds up a stream and keeps its `keep` most important rows.

    Attributes:
        keep: how many rows are kept; more are counted only.
        groups: sums by the columns of `keys`.
        total: rows seen.
    """

    keys: tuple[str, ...]
    keep: int
    groups: dict[tuple[str, ...], Sum] = field(default_factory=dict)
    total: int = 0
    _heap: list[tuple[tuple[Any, ...], dict[str, Any], shapely.Geometry]] = field(default_factory=list)

    def add(self, frame: gpd.GeoDataFrame) -> list[dict[str, Any]]:
        """Count every row of a frame and return the rows as dicts, with None where a value is unknown."""
        rows = [_plain(record) for record in frame.drop(columns=frame.geometry.name).to_dict("records")]
        for row, shape in zip(rows, frame.geometry, strict=True):
            self.groups.setdefault(tuple(str(row[key]) for key in self.keys), Sum()).add(row)
            self.total += 1
            # The running number keeps equal rows in their order and spares comparing dicts.
            entry = ((*_importance(row), -self.total), row, shape)
            if len(self._heap) < self.keep:
                heapq.heappush(self._heap, entry)
            elif self.keep and entry[0] > self._heap[0][0]:
                heapq.heapreplace(self._heap, entry)
        return rows

    def top(self) -> list[tuple[dict[str, Any], shapely.Geometry]]:
        """Return the kept rows, the most important first: open ones, then by severity, status and area."""
        return [(row, shape) for _, row, shape in sorted(self._heap, key=lambda entry: entry[0], reverse=True)]


def _importance(row: dict[str, Any]) -> tuple[Any, ...]:
    status = str(row.get("status", ""))
    return (
        status in OPEN_STATUSES,
        str(row.get("severity", "")),
        -_STATUS_ORDER.get(status, len(_STATUS_ORDER)),
        row.get("overlap_m2") or row.get("area_m2") or 0.0,
    )


def _plain(record: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(key): None if value is None or (isinstance(value, float) and math.isnan(value)) else value
        for key, value in record.items()
    }
