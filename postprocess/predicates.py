"""One rule over one batch of changes: the areas it turns on, and the status they come to."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - dataclass annotation read at run time by doctest tools
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tuban.postprocess.overlay import OverlayCounts, Pieces, collect, measured, moved_outline, robust

if TYPE_CHECKING:
    import geopandas as gpd
    import numpy.typing as npt
    from pyproj import CRS

    from tuban.data.plan import Plan
    from tuban.postprocess.rules import Rule, RulePack

    Array = npt.NDArray[Any]

BASELINE, PERMIT, URBAN = "land_use_baseline", "permit", "urban_development_boundary"
_NOTHING_M2 = 0.005  # rounds to 0.00 m2: numerical noise of the overlay, not an overlap


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one rule found under one change; areas in square metres, None where a layer is missing."""

    row: int
    status: str
    overlap: float | None = None
    overlap_min: float | None = None
    overlap_max: float | None = None
    net: float | None = None
    net_min: float | None = None
    net_max: float | None = None
    farmland: float | None = None
    permitted: float | None = None
    undated: float | None = None
    exempt: float = 0.0
    uncovered: float = 0.0
    conform: float | None = None
    nonconform: float | None = None
    threshold: float = 0.0
    tolerance: float = 0.0
    missing: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    exemption: dict[str, str] | None = None
    severity: str = ""
    excess_rule: str | None = None
    parcels: tuple[tuple[dict[str, Any], float], ...] = ()
    permits: tuple[tuple[dict[str, Any], float, str], ...] = ()
    point: Any = field(default=None, compare=False)


@dataclass
class Overlay:
    """A batch of changes with the plan pieces under them; roles are read once each, on first use.

    Attributes:
        changes: the batch; its CRS is the working CRS.
        image_accuracy_m: positional accuracy of the change outlines, metres.
        date: day at which permits must be valid.
    """

    changes: gpd.GeoDataFrame
    plan: Plan
    pack: RulePack
    image_accuracy_m: float
    date: dt.date
    counts: OverlayCounts = field(default_factory=OverlayCounts)

    def __post_init__(self) -> None:
        self.crs: CRS = self.changes.crs
        self.patch: Array = np.asarray(self.changes.geometry.values, dtype=object)
        self.n = len(self.patch)
        self.to_class = self.changes["to_class"].to_numpy(dtype=object)
        self.from_class = self.changes["from_class"].to_numpy(dtype=object)
        worst = max((layer.accuracy_m for layer in self.plan.layers), default=0.0)
        self._moved: dict[float, Array] = {0.0: self.patch}
        self._grown_most = self.moved(math.hypot(worst, self.image_accuracy_m))
        self._pieces: dict[str, Pieces] = {}

    def moved(self, metres: float) -> Array:
        """Return the changes grown (or shrunk) by a distance."""
        if metres not in self._moved:
            self._moved[metres] = moved_outline(self.patch, self.crs, metres)
        return self._moved[metres]

    def pieces(self, role: str) -> Pieces:
        """Return the pieces of a role under the changes."""
        if role not in self._pieces:
            wanted = tuple(
                sorted({s.field for rule in self.pack.rules for s in rule.severity_if if s.zone == role and s.field})
            )
            self._pieces[role] = collect(
                self.plan.of(role), self._grown_most, self.crs, self.counts, fields=wanted
            )
        return self._pieces[role]

    def zone(self, role: str) -> Array:
        """Return the part of a role's zone under each grown change."""
        return self.pieces(role).union(self.n, "all")

    def parcels(self, groups: tuple[str, ...]) -> Array:
        """Return the part of each grown change on baseline parcels of some code groups."""
        return self.pieces(BASELINE).union(
            self.n, groups, lambda row: self.pack.in_group(row["code"], groups, row["system"] or self.pack.class_system)
        )

    def surveyed(self) -> Array:
        """Return the part of each grown change on parcels with a code that the class system knows."""
        known = {layer.class_system: layer.codes() for layer in self.plan.of(BASELINE)}
        return self.pieces(BASELINE).union(
            self.n, "known", lambda row: (table := known.get(row["system"])) is not None and table.knows(row["code"])
        )

    def permits(self, kinds: tuple[str, ...], state: str) -> Array:
        """Return the part of each grown change under permits of some kinds in some state."""
        return self.pieces(PERMIT).union(
            self.n, (kinds, state), lambda row: row["kind"] in kinds and permit_state(row, self.date, self.pack) == state
        )

    def expired(self, kinds: tuple[str, ...], years: int) -> Array:
        """Return the part of each grown change under permits that ended at least `years` ago."""

        def keep(row: dict[str, Any]) -> bool:
            end = permit_end(row, self.pack)
            return row["kind"] in kinds and end is not None and _later(end, years) <= self.date

        return self.pieces(PERMIT).union(self.n, (kinds, "expired", years), keep)


def _later(date: dt.date, years: int) -> dt.date:
    try:
        return date.replace(year=date.year + years)
    except ValueError:  # 29 February
        return date.replace(year=date.year + years, month=3, day=1)


def permit_end(row: dict[str, Any], pack: RulePack) -> dt.date | None:
    """Return the last day of a permit: as stated, else the pack's usual length, else None (open end)."""
    if row["valid_to"] is not None:
        end: dt.date = row["valid_to"]
        return end
    permit = pack.permits.get(row["kind"])
    if permit is None or permit.default_years is None or row["valid_from"] is None:
        return None
    return _later(row["valid_from"], permit.default_years)


def permit_state(row: dict[str, Any], date: dt.date, pack: RulePack) -> str:
    """Return `valid`, `undated`, `not_yet` or `expired` for a permit on a day; its first and last day are valid."""
    if row["valid_from"] is None:
        return "undated" if row["valid_to"] is None or row["valid_to"] >= date else "expired"
    if row["valid_from"] > date:
        return "not_yet"
    end = permit_end(row, pack)
    return "expired" if end is not None and end < date else "valid"


def evaluate(rule: Rule, overlay: Overlay, in_force: frozenset[str]) -> list[Evidence]:
    """Return the evidence of one rule for each change of a batch that it applies to.

    Args:
        rule: the rule.
        overlay: the batch and the plan.
        in_force: ids of the rules in force, so that `excess_rule` is handed on only to one that judges.
    """
    pack, plan = overlay.pack, overlay.plan
    wanted, before = pack.classes(rule.when.to), pack.classes(rule.when.from_)
    rows = np.array(
        [i for i in range(overlay.n)
         if (not wanted or overlay.to_class[i] in wanted) and (not before or overlay.from_class[i] in before)],
        dtype=int,
    )  # fmt: skip
    if not rows.size:
        return []
    absent = [role for role in dict.fromkeys(rule.roles()) if not plan.of(role)]
    optional = () if rule.when.baseline else (BASELINE,)
    without = tuple(r for r in absent if rule.if_missing.get(r) == "without" or r in optional)
    missing = tuple(r for r in absent if r not in without)
    return _Judge(rule, overlay, rows, missing, without, in_force).run()


class _Judge:
    """The steps of `evaluate`, over the changes `rows` of a batch."""

    def __init__(
        self, rule: Rule, overlay: Overlay, rows: Array, missing: tuple[str, ...], without: tuple[str, ...],
        in_force: frozenset[str],
    ) -> None:  # fmt: skip
        self.rule, self.overlay, self.rows = rule, overlay, rows
        self.missing, self.without, self.in_force = missing, without, in_force
        self.absent = {*missing, *without}
        layers = [layer for role in rule.roles() for layer in overlay.plan.of(role)]
        worst = max((layer.accuracy_m for layer in layers), default=0.0)
        self.tolerance = math.hypot(worst, overlay.image_accuracy_m)

    def op(self, operation: Any, a: Array, b: Array) -> Array:
        return robust(operation, a, b, self.overlay.crs, self.overlay.counts)

    def area(self, a: Array, b: Array) -> Array:
        return measured(self.op(shapely.intersection, a, b), self.overlay.crs)

    def run(self) -> list[Evidence]:
        when, overlay, rows = self.rule.when, self.overlay, self.rows
        patch, grown = overlay.patch[rows], overlay.moved(self.tolerance)[rows]
        shrunk = overlay.moved(-self.tolerance)[rows]
        place = self._place(grown)
        basis, uncovered = place, np.zeros(len(rows))
        baseline = bool(when.baseline) and BASELINE not in self.absent
        if baseline:
            basis = self.op(shapely.intersection, place, overlay.parcels(when.baseline)[rows])
            blank = self.op(shapely.difference, place, overlay.surveyed()[rows])
            uncovered = self.area(blank, patch)
        here = self.op(shapely.intersection, basis, patch)
        overlap = measured(here, overlay.crs)
        threshold = max(self.rule.min_area_m2, overlay.pack.area_tolerance_m2)
        keep = (overlap > _NOTHING_M2) | (uncovered > threshold)
        left, exempt, reasons = self._exempt(basis, patch)
        net = self._minus_permits(left, "valid")
        sure = self._minus_permits(net, "undated")
        areas = {
            "overlap": overlap, "overlap_min": self.area(basis, shrunk), "overlap_max": self.area(basis, grown),
            "net": self.area(net, patch), "net_min": self.area(net, shrunk), "net_max": self.area(net, grown),
        }  # fmt: skip
        areas["permitted"] = np.maximum(self.area(left, patch) - areas["net"], 0.0)
        areas["undated"] = np.maximum(areas["net"] - self.area(sure, patch), 0.0)
        if overlay.plan.of(BASELINE):
            areas["farmland"] = self.area(self.op(shapely.intersection, place, patch), overlay.parcels(("farmland",))[rows])
        if overlay.plan.of(URBAN):
            areas["conform"] = self.area(self.op(shapely.intersection, net, patch), overlay.zone(URBAN)[rows])
            areas["nonconform"] = np.maximum(areas["net"] - areas["conform"], 0.0)
        found = []
        for k in np.flatnonzero(keep):
            values = {name: float(column[k]) for name, column in areas.items()}
            if self.rule.when.permit == "covering" and values["permitted"] <= overlay.pack.area_tolerance_m2:
                continue
            found.append(self._evidence(k, values, here[k], threshold, float(uncovered[k]), float(exempt[k]), reasons[k]))
        return found

    def _place(self, grown: Array) -> Array:
        """Return where the rule looks: the grown changes within its zones and outside of those it leaves out."""
        when, overlay, rows = self.rule.when, self.overlay, self.rows
        place = grown
        present = [role for role in when.zones if role not in self.absent]
        if present:
            inside = overlay.zone(present[0])[rows]
            for role in present[1:]:
                inside = self.op(shapely.union, inside, overlay.zone(role)[rows])
            place = self.op(shapely.intersection, place, inside)
        for role in when.not_zones:
            if role not in self.absent:
                place = self.op(shapely.difference, place, overlay.zone(role)[rows])
        if when.expired_permit:
            place = self.op(shapely.intersection, place, overlay.expired(when.expired_permit, when.expired_years)[rows])
        return place

    def _exempt(self, basis: Array, patch: Array) -> tuple[Array, Array, list[dict[str, str] | None]]:
        """Return the basis less what is exempt, the exempt area, and the first reason that applied."""
        left = basis
        exempt = np.zeros(len(basis))
        reasons: list[dict[str, str] | None] = [None] * len(basis)
        for entry in self.rule.exempt:
            by_class = np.array([c in self.overlay.pack.classes(entry.to) for c in self.overlay.to_class[self.rows]])
            taken = np.full(len(basis), shapely.Polygon(), dtype=object)
            if entry.to:
                taken[by_class] = left[by_class]
            elif entry.baseline and BASELINE not in self.absent:
                taken = self.op(shapely.intersection, left, self.overlay.parcels(entry.baseline)[self.rows])
            part = self.area(taken, patch)
            left = self.op(shapely.difference, left, taken)
            exempt += part
            for k in np.flatnonzero(part > _NOTHING_M2):
                reasons[k] = reasons[k] or entry.reason
        return left, exempt, reasons

    def _minus_permits(self, basis: Array, state: str) -> Array:
        if not self.rule.permits or not self.overlay.plan.of(PERMIT):
            return basis
        return self.op(shapely.difference, basis, self.overlay.permits(self.rule.permits, state)[self.rows])

    def _evidence(
        self, k: int, values: dict[str, float], here: Any, threshold: float, uncovered: float, exempt: float,
        reason: dict[str, str] | None,
    ) -> Evidence:  # fmt: skip
        row = int(self.rows[k])
        status = self._status(values, threshold, uncovered, exempt)
        excess = None
        if status in {"suspected", "inconclusive"} and values["permitted"] > self.overlay.pack.area_tolerance_m2:
            excess = self.rule.excess_rule if self.rule.excess_rule in self.in_force else None
            status = "permitted" if excess else status
        shown: dict[str, float | None] = {**values}
        if self.missing:
            # What is under a layer that is not there cannot be stated, not even as 0.
            shown = dict.fromkeys(values)
        return Evidence(
            row=row, status=status, threshold=threshold, tolerance=self.tolerance, uncovered=uncovered, exempt=exempt,
            missing=self.missing, without=self.without, exemption=reason, severity=self._severity(row, here),
            excess_rule=excess, parcels=self._parcels(row, here), permits=self._permits(row, here),
            point=here if not here.is_empty and not self.missing else self.overlay.patch[row], **shown,
        )  # fmt: skip

    def _status(self, values: dict[str, float], threshold: float, uncovered: float, exempt: float) -> str:
        if self.missing:
            return "undetermined"
        if values["net"] <= threshold:
            if uncovered > threshold:
                return "undetermined"
            if values["permitted"] > _NOTHING_M2:
                return "compliant" if self.rule.when.permit == "covering" else "permitted"
            if values["net_max"] > threshold and exempt <= _NOTHING_M2:
                return "inconclusive"
            return "compliant"
        if values["net"] - values["undated"] <= threshold:
            return "undetermined"
        return "inconclusive" if values["net_min"] <= threshold else "suspected"

    def _severity(self, row: int, here: Any) -> str:
        severity: str = self.rule.severity
        for entry in self.rule.severity_if:
            for feature, _ in self._under(entry.zone, row, here):
                text = feature["values"].get(entry.field or "", "")
                if entry.matches is None or _matches(entry.matches, text):
                    severity = max(severity, entry.severity)
        return severity

    def _parcels(self, row: int, here: Any) -> tuple[tuple[dict[str, Any], float], ...]:
        roles = (*self.rule.when.zones, *((BASELINE,) if self.overlay.plan.of(BASELINE) else ()))
        return tuple(hit for role in roles for hit in self._under(role, row, here))

    def _permits(self, row: int, here: Any) -> tuple[tuple[dict[str, Any], float, str], ...]:
        pack, date = self.overlay.pack, self.overlay.date
        found = []
        for feature, area in self._under(PERMIT, row, here):
            state = permit_state(feature, date, pack)
            found.append((feature, area, state if feature["kind"] in self.rule.permits else "other_kind"))
        return tuple(found)

    def _under(self, role: str, row: int, here: Any) -> list[tuple[dict[str, Any], float]]:
        """Return the features of a role under one overlap with the area of each, largest first."""
        if not self.overlay.plan.of(role) or here.is_empty:
            return []
        pieces = self.overlay.pieces(role)
        under = pieces.under(row)
        if not under.size:
            return []
        areas = self.area(pieces.geometry[under], np.full(len(under), here, dtype=object))
        sums: dict[tuple[str, str], tuple[dict[str, Any], float]] = {}
        for index, area in zip(under, areas, strict=True):
            feature = pieces.rows[index]
            key = (feature["layer"], feature["plan_id"])
            sums[key] = (feature, sums.get(key, (feature, 0.0))[1] + float(area))
        hits = [hit for hit in sums.values() if hit[1] > _NOTHING_M2]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]["layer"], hit[0]["plan_id"]))


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None
