"""Repair of polygon geometry on load, every repair counted."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import shapely

_MAX_PROBLEMS = 1000


@dataclass(slots=True)
class RepairCounts:
    """How many features were read, and how many needed which repair; lands in `run.json`.

    Attributes:
        read: features, whatever became of them.
        empty: left out: without geometry, or with coordinates that are not finite.
        not_polygonal: left out: points and lines.
        collapsed: left out: polygons whose vertices lie on one line.
        unclosed, invalid: rebuilt.
        dropped_z: Z or M dropped.
        curved: arcs replaced by chords.
        antimeridian: cut in two where they cross it.
        undecodable_text: texts with bytes that their encoding does not know.
        problems: the first of them: (feature id, what was wrong).
    """

    read: int = 0
    empty: int = 0
    unclosed: int = 0
    dropped_z: int = 0
    invalid: int = 0
    not_polygonal: int = 0
    undecodable_text: int = 0
    curved: int = 0
    collapsed: int = 0
    antimeridian: int = 0
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


def curved(wkb: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return the indexes of geometries with curved parts, which GEOS does not read and GDAL has to straighten."""
    # ISO and EWKB both keep the type in the low bits: 8 to 14 are curves, 1 to 7 and 15 to 17 are not, 1000s are Z, M.
    codes = np.zeros(len(wkb), dtype=np.int64)
    for index, blob in enumerate(wkb):
        if blob is not None and len(blob) >= 5:
            order: Literal["little", "big"] = "little" if blob[0] else "big"
            codes[index] = (int.from_bytes(blob[1:5], order) & 0xFFFF) % 1000
    return np.flatnonzero((codes >= 8) & (codes <= 14))


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

    Z and M are dropped, invalid polygons (bow-ties, spikes, duplicate rings, nested shells) are rebuilt by GEOS's
    `structure` method, which keeps shells and subtracts holes, and of collections the polygons are kept.

    Args:
        geometries: object array `(n,)` of shapely geometries or None.
        counts: is added to.
        ids: feature ids for `counts.problems`, `(n,)`; positions by default.
    """
    names = np.arange(len(geometries)) if ids is None else ids
    result = np.array(geometries, dtype=object)
    counts.read += len(result)
    with_z = shapely.has_z(result) | shapely.has_m(result)
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
        lost = invalid[shapely.is_empty(mended)]
        counts.collapsed += int(lost.size)
        result[lost] = None
    kinds = shapely.get_type_id(result)
    for index in np.flatnonzero((kinds >= 0) & (kinds != 3) & (kinds != 6)):
        kind = result[index].geom_type
        result[index] = polygons_only(result[index])
        if result[index] is None:
            counts.not_polygonal += 1
            counts.note(int(names[index]), f"holds no area: {kind}")
    result[shapely.is_empty(result)] = None
    return result


def split_at_antimeridian(
    geometries: np.ndarray[Any, Any], counts: RepairCounts, ids: Any = None
) -> np.ndarray[Any, Any]:
    """Return polygons in degrees, those with an edge of more than 180 degrees cut where they cross the antimeridian.

    On the plane such a ring runs once around the world the wrong way and would cover what it leaves out.

    Args:
        geometries: valid 2D polygons or None, `(n,)`.
        counts: is added to.
        ids: feature ids for `counts.problems`, `(n,)`.
    """
    bounds = shapely.bounds(geometries)
    result = geometries
    for index in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180):
        rings = shapely.get_rings(geometries[index])
        if not any((np.abs(np.diff(shapely.get_coordinates(ring)[:, 0])) > 180).any() for ring in rings):
            continue
        turned = shapely.transform(geometries[index], lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]]))
        halves = [
            shapely.intersection(shapely.make_valid(turned), shapely.box(west, -90, west + 180, 90))
            for west in (0, 180)
        ]
        west = shapely.transform(halves[1], lambda xy: np.column_stack([xy[:, 0] - 360, xy[:, 1]]))
        parted = polygons_only(shapely.union_all([halves[0], west]))
        if parted is None:  # a ring around the whole globe: nothing on the plane says what is inside
            continue
        result = result.copy() if result is geometries else result
        result[index] = parted
        counts.antimeridian += 1
        counts.note(int(index if ids is None else ids[index]), "crosses the antimeridian")
    return result
