"""One rule over one batch of changes: the areas it turns on, and the status they come to."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tuban.postprocess.overlay import measured, robust
from tuban.postprocess.permits import permit_state
from tuban.postprocess.sheet import BASELINE, PERMIT, URBAN

if TYPE_CHECKING:
    import numpy.typing as npt

    from tuban.postprocess.rules import Rule
    from tuban.postprocess.sheet import Sheet

    Array = npt.NDArray[Any]

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


def evaluate(rule: Rule, sheet: Sheet, in_force: frozenset[str]) -> list[Evidence]:
    """Return the evidence of one rule for each change of a batch that it applies to.

    Args:
        rule: the rule.
        sheet: the batch and the plan.
        in_force: ids of the rules in force, so that `excess_rule` is handed on only to one that judges.
    """
    pack, plan = sheet.pack, sheet.plan
    wanted, before = pack.classes(rule.when.to), pack.classes(rule.when.from_)
    rows = np.array(
        [i for i in range(sheet.n)
         if (not wanted or sheet.to_class[i] in wanted) and (not before or sheet.from_class[i] in before)],
        dtype=int,
    )  # fmt: skip
    if not rows.size:
        return []
    absent = [role for role in dict.fromkeys(rule.roles()) if not plan.of(role)]
    optional = () if rule.when.baseline else (BASELINE,)
    without = tuple(r for r in absent if rule.if_missing.get(r) == "without" or r in optional)
    missing = tuple(r for r in absent if r not in without)
    return _Judge(rule, sheet, rows, missing, without, in_force).run()


class _Judge:
    """The steps of `evaluate`, over the changes `rows` of a batch."""

    def __init__(
        self, rule: Rule, sheet: Sheet, rows: Array, missing: tuple[str, ...], without: tuple[str, ...],
        in_force: frozenset[str],
    ) -> None:  # fmt: skip
        self.rule, self.sheet, self.rows = rule, sheet, rows
        self.missing, self.without, self.in_force = missing, without, in_force
        self.absent = {*missing, *without}
        self._overlaps: Array = np.full(sheet.n, shapely.Polygon(), dtype=object)
        self._areas: dict[str, Array] = {}
        layers = [layer for role in rule.roles() for layer in sheet.plan.of(role)]
        worst = max((layer.accuracy_m for layer in layers), default=0.0)
        self.tolerance = math.hypot(worst, sheet.image_accuracy_m)

    def op(self, operation: Any, a: Array, b: Array) -> Array:
        return robust(operation, a, b, self.sheet.crs, self.sheet.counts)

    def area(self, a: Array, b: Array) -> Array:
        return measured(self.op(shapely.intersection, a, b), self.sheet.crs)

    def run(self) -> list[Evidence]:
        when, sheet, rows = self.rule.when, self.sheet, self.rows
        patch, grown = sheet.patch[rows], sheet.moved(self.tolerance)[rows]
        shrunk = sheet.moved(-self.tolerance)[rows]
        place = self._place(grown)
        basis, uncovered = place, np.zeros(len(rows))
        baseline = bool(when.baseline) and BASELINE not in self.absent
        if baseline:
            basis = self.op(shapely.intersection, place, sheet.parcels(when.baseline)[rows])
            blank = self.op(shapely.difference, place, sheet.surveyed()[rows])
            uncovered = self.area(blank, patch)
        here = self.op(shapely.intersection, basis, patch)
        overlap = measured(here, sheet.crs)
        self._overlaps[rows] = here
        threshold = max(self.rule.min_area_m2, sheet.pack.area_tolerance_m2)
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
        if sheet.plan.of(BASELINE):
            areas["farmland"] = self.area(
                self.op(shapely.intersection, place, patch), sheet.parcels(("farmland",))[rows]
            )
        if sheet.plan.of(URBAN):
            areas["conform"] = self.area(self.op(shapely.intersection, net, patch), sheet.zone(URBAN)[rows])
            areas["nonconform"] = np.maximum(areas["net"] - areas["conform"], 0.0)
        found = []
        for k in np.flatnonzero(keep):
            values = {name: float(column[k]) for name, column in areas.items()}
            if self.rule.when.permit == "covering" and values["permitted"] <= sheet.pack.area_tolerance_m2:
                continue
            found.append(
                self._evidence(int(k), values, here[k], threshold, float(uncovered[k]), float(exempt[k]), reasons[k])
            )
        return found

    def _place(self, grown: Array) -> Array:
        """Return where the rule looks: the grown changes within its zones and outside of those it leaves out."""
        when, sheet, rows = self.rule.when, self.sheet, self.rows
        place = grown
        present = [role for role in when.zones if role not in self.absent]
        if present:
            inside = sheet.zone(present[0])[rows]
            for role in present[1:]:
                inside = self.op(shapely.union, inside, sheet.zone(role)[rows])
            place = self.op(shapely.intersection, place, inside)
        for role in when.not_zones:
            if role not in self.absent:
                place = self.op(shapely.difference, place, sheet.zone(role)[rows])
        if when.expired_permit:
            place = self.op(shapely.intersection, place, sheet.expired(when.expired_permit, when.expired_years)[rows])
        return place

    def _exempt(self, basis: Array, patch: Array) -> tuple[Array, Array, list[dict[str, str] | None]]:
        """Return the basis less what is exempt, the exempt area, and the first reason that applied."""
        left = basis
        exempt = np.zeros(len(basis))
        reasons: list[dict[str, str] | None] = [None] * len(basis)
        for entry in self.rule.exempt:
            by_class = np.array([c in self.sheet.pack.classes(entry.to) for c in self.sheet.to_class[self.rows]])
            taken = np.full(len(basis), shapely.Polygon(), dtype=object)
            if entry.to:
                taken[by_class] = left[by_class]
            elif entry.baseline and BASELINE not in self.absent:
                taken = self.op(shapely.intersection, left, self.sheet.parcels(entry.baseline)[self.rows])
            part = self.area(taken, patch)
            left = self.op(shapely.difference, left, taken)
            exempt += part
            for k in np.flatnonzero(part > _NOTHING_M2):
                reasons[k] = reasons[k] or entry.reason
        return left, exempt, reasons

    def _minus_permits(self, basis: Array, state: str) -> Array:
        if not self.rule.permits or not self.sheet.plan.of(PERMIT):
            return basis
        return self.op(shapely.difference, basis, self.sheet.permits(self.rule.permits, state)[self.rows])

    def _evidence(
        self, k: int, values: dict[str, float], here: Any, threshold: float, uncovered: float, exempt: float,
        reason: dict[str, str] | None,
    ) -> Evidence:  # fmt: skip
        row = int(self.rows[k])
        status = self._status(values, threshold, uncovered, exempt)
        excess = None
        if status in {"suspected", "inconclusive"} and values["permitted"] > self.sheet.pack.area_tolerance_m2:
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
            point=here if not here.is_empty and not self.missing else self.sheet.patch[row], **shown,
        )  # fmt: skip

    def _status(self, values: dict[str, float], threshold: float, uncovered: float, exempt: float) -> str:
        # The order matters: what cannot be known comes before what is measured, and a permit before a doubt.
        if self.missing:
            return "undetermined"
        if values["net"] > threshold:
            if values["net"] - values["undated"] <= threshold:
                return "undetermined"
            return "inconclusive" if values["net_min"] <= threshold else "suspected"
        return self._status_of_little(values, threshold, uncovered, exempt)

    def _status_of_little(self, values: dict[str, float], threshold: float, uncovered: float, exempt: float) -> str:
        """Return the status where nothing of note is left after permits and exemptions."""
        if uncovered > threshold:
            return "undetermined"
        if values["permitted"] > _NOTHING_M2:
            return "compliant" if self.rule.when.permit == "covering" else "permitted"
        return "inconclusive" if values["net_max"] > threshold and exempt <= _NOTHING_M2 else "compliant"

    def _severity(self, row: int, here: Any) -> str:
        severity: str = self.rule.severity
        for entry in self.rule.severity_if:
            for feature, _ in self._under(entry.zone, row, here):
                text = feature["values"].get(entry.field or "", "")
                if entry.matches is None or _matches(entry.matches, text):
                    severity = max(severity, entry.severity)
        return severity

    def _parcels(self, row: int, here: Any) -> tuple[tuple[dict[str, Any], float], ...]:
        roles = (*self.rule.when.zones, *((BASELINE,) if self.sheet.plan.of(BASELINE) else ()))
        return tuple(hit for role in roles for hit in self._under(role, row, here))

    def _permits(self, row: int, here: Any) -> tuple[tuple[dict[str, Any], float, str], ...]:
        pack, date = self.sheet.pack, self.sheet.date
        found = []
        for feature, area in self._under(PERMIT, row, here):
            state = permit_state(feature, date, pack)
            found.append((feature, area, state if feature["kind"] in self.rule.permits else "other_kind"))
        return tuple(found)

    def _piece_areas(self, role: str) -> Array:
        """Return the area of every piece of a role within the overlap of its change, measured in one go."""
        if role not in self._areas:
            pieces = self.sheet.pieces(role)
            areas = np.zeros(len(pieces.patch))
            used = np.flatnonzero(~shapely.is_empty(self._overlaps[pieces.patch]))
            areas[used] = self.area(pieces.geometry[used], self._overlaps[pieces.patch[used]])
            self._areas[role] = areas
        return self._areas[role]

    def _under(self, role: str, row: int, here: Any) -> list[tuple[dict[str, Any], float]]:
        """Return the features of a role under one overlap with the area of each, largest first."""
        if not self.sheet.plan.of(role) or here.is_empty:
            return []
        pieces = self.sheet.pieces(role)
        under = pieces.under(row)
        if not under.size:
            return []
        areas = self._piece_areas(role)[under]
        sums: dict[tuple[str, str], tuple[dict[str, Any], float]] = {}
        for index, area in zip(under, areas, strict=True):
            feature = pieces.rows[index]
            key = (feature["layer"], feature["plan_id"])
            sums[key] = (feature, sums.get(key, (feature, 0.0))[1] + float(area))
        hits = [hit for hit in sums.values() if hit[1] > _NOTHING_M2]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]["layer"], hit[0]["plan_id"]))


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None
