"""Repair of polygon geometry on load, every repair counted."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import shapely

_MAX_PROBLEMS = 1000


@dataclass(slots=True)
class RepairCounts:
    """How many features were read, and how many needed which repair; lands in `run.json`.

    `problems` names the first of them: (feature id, what was wrong).
    """

    read: int = 0
    empty: int = 0
    unclosed: int = 0
    dropped_z: int = 0
    invalid: int = 0
    not_polygonal: int = 0
    undecodable_text: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)

    def note(self, feature: int, text: str) -> None:
        """Remember a feature that was mended, up to a bound."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append((feature, text))

    def as_dict(self) -> dict[str, int]:
        """Return the counts, JSON-ready."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "problems"}

    def nonzero(self) -> str:
        """Return the repairs that happened as one line, empty when there were none.

        Example:
            >>> RepairCounts(read=3, invalid=1).nonzero()
            '1 invalid'
        """
        return ", ".join(f"{n} {name}" for name, n in self.as_dict().items() if n and name != "read")


def decode_wkb(wkb: np.ndarray[Any, Any], counts: RepairCounts, ids: Any = None) -> np.ndarray[Any, Any]:
    """Return geometries from WKB; rings that are not closed are closed and counted, what cannot be read is None."""
    with np.errstate(invalid="ignore"):  # NaN coordinates are sorted out in `repair`
        geometries = shapely.from_wkb(wkb, on_invalid="ignore")
    broken = np.flatnonzero(shapely.is_missing(geometries) & np.array([blob is not None for blob in wkb], dtype=bool))
    if broken.size:
        with np.errstate(invalid="ignore"):
            geometries[broken] = shapely.from_wkb(wkb[broken], on_invalid="fix")
        counts.unclosed += int(broken.size)
        for index in broken:
            counts.note(int(index if ids is None else ids[index]), "ring not closed")
    return np.asarray(geometries, dtype=object)


def polygons_only(geometry: Any) -> Any:
    """Return the polygonal part of a geometry (Polygon or MultiPolygon), or None where it has none."""
    if geometry is None:
        return None
    if geometry.geom_type in {"Polygon", "MultiPolygon"}:
        return geometry
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in {"Polygon", "MultiPolygon"}]
    if not parts or geometry.geom_type != "GeometryCollection":
        return None
    return shapely.union_all(parts)


def repair(geometries: np.ndarray[Any, Any], counts: RepairCounts, ids: Any = None) -> np.ndarray[Any, Any]:
    """Return valid 2D polygons; an entry that holds no area becomes None.

    Z is dropped, invalid polygons (bow-ties, spikes, duplicate rings, nested shells) are rebuilt by GEOS's `structure`
    method, which keeps shells and subtracts holes, and of collections the polygons are kept.

    Args:
        geometries: object array `(n,)` of shapely geometries or None.
        counts: is added to.
        ids: feature ids for `counts.problems`, `(n,)`; positions by default.
    """
    names = np.arange(len(geometries)) if ids is None else ids
    result = np.array(geometries, dtype=object)
    counts.read += len(result)
    with_z = shapely.has_z(result)
    counts.dropped_z += int(with_z.sum())
    result[with_z] = shapely.force_2d(result[with_z])
    empty = shapely.is_missing(result) | shapely.is_empty(result)
    # NaN or infinite coordinates have no area, and GEOS refuses to rebuild them.
    points, owner = shapely.get_coordinates(result, return_index=True)
    empty[np.unique(owner[~np.isfinite(points).all(axis=1)])] = True
    counts.empty += int(empty.sum())
    result[empty] = None
    for index in np.flatnonzero(empty):
        counts.note(int(names[index]), "empty or not finite")
    invalid = np.flatnonzero(~empty & ~shapely.is_valid(result))
    if invalid.size:
        counts.invalid += int(invalid.size)
        for index, why in zip(invalid, shapely.is_valid_reason(result[invalid]), strict=True):
            counts.note(int(names[index]), str(why))
        mended = shapely.make_valid(result[invalid], method="structure", keep_collapsed=False)
        # GEOS 3.14 can leave parts that share an edge, which is not a valid MultiPolygon: dissolve them.
        for index in np.flatnonzero(~shapely.is_valid(mended)):
            mended[index] = shapely.union_all(shapely.get_parts(mended[index]))
        result[invalid] = mended
    kinds = shapely.get_type_id(result)
    for index in np.flatnonzero((kinds >= 0) & (kinds != 3) & (kinds != 6)):
        result[index] = polygons_only(result[index])
        counts.not_polygonal += int(result[index] is None)
    result[shapely.is_empty(result)] = None
    return result
