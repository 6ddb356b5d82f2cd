"""One rule over one batch of changes: the areas it turns on, and the status they come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tuban.postprocess.overlay import measured, robust
from tuban.postprocess.permits import permit_state
from tuban.postprocess.ridges import net_share
from tuban.postprocess.rule_evidence import Evidence
from tuban.postprocess.rule_parts import BASELINE, HISTORY, PERMIT
from tuban.postprocess.underlay import Underlay
from tuban.postprocess.verdict import DECIMALS, NOTHING_M2, decide, rounded, severity

if TYPE_CHECKING:
    import numpy.typing as npt

    from tuban.postprocess.rule_evidence import Feature
    from tuban.postprocess.rules import Rule
    from tuban.postprocess.sheet import Sheet

    Array = npt.NDArray[Any]


def evaluate(rule: Rule, sheet: Sheet, in_force: frozenset[str], skip: frozenset[int] = frozenset()) -> list[Evidence]:
    """Return the evidence of one rule for each change of a batch that it applies to.

    Args:
        rule: the rule; one that judges areas.
        sheet: the batch and the plan.
        in_force: ids of the rules in force, so that `excess_rule` is handed on only to one that judges.
        skip: changes left to a rule that this one yields to.
    """
    absent = [role for role in rule.roles() if not sheet.plan.of(role)]
    if any(rule.if_missing.get(role) == "skip" for role in absent):
        return []
    without = tuple(r for r in absent if rule.if_missing.get(r) == "without")
    missing = tuple(r for r in absent if r not in without)
    rows = np.array([i for i in sheet.candidates(rule) if i not in skip], dtype=int)
    near = rule.when.near
    if near and near.role not in absent and rows.size:
        rows = rows[sheet.near(near, near.within_m, rows)]
    if not rows.size:
        return []
    without += tuple(role for role in rule.optional_roles() if not sheet.plan.of(role))
    return _Judge(rule, sheet, missing, without, in_force).run(rows)


class _Judge:
    """The steps of `evaluate`. The changes in hand are `rows`; geometries of a step are arrays along them."""

    def __init__(
        self, rule: Rule, sheet: Sheet, missing: tuple[str, ...], without: tuple[str, ...], in_force: frozenset[str]
    ) -> None:
        self.rule, self.sheet, self.in_force = rule, sheet, in_force
        self.missing, self.without, self.absent = missing, without, {*missing, *without}
        self.rows: Array = np.array([], dtype=int)
        self.underlay = Underlay(sheet, np.full(sheet.n, shapely.Polygon(), dtype=object))
        self._clusters: dict[int, dict[int, float]] = {}
        permits = (PERMIT,) if rule.permits or rule.when.permit_area else ()
        self.tolerance = sheet.tolerance_m((*rule.roles(), *permits))

    def op(self, operation: Any, a: Array, b: Array) -> Array:
        return robust(operation, a, b, self.sheet.crs, self.sheet.counts)

    def area(self, a: Array, b: Array) -> Array:
        return measured(self.op(shapely.intersection, a, b), self.sheet.crs)

    def within(self, parts: Array, windows: Array) -> Array:
        """Return what of some parts of the grown changes lies in their outlines as drawn, grown or shrunk.

        Without a tolerance these are one and the same: cutting again would only add vertices along the edges.
        """
        return self.op(shapely.intersection, parts, windows) if self.tolerance else parts

    def area_within(self, parts: Array, windows: Array) -> Array:
        return measured(self.within(parts, windows), self.sheet.crs)

    def run(self, rows: Array) -> list[Evidence]:
        sheet = self.sheet
        self.rows = rows
        place = self._place(sheet.moved(self.tolerance)[rows])
        basis, uncovered = place, np.zeros(len(rows))
        if self.rule.when.baseline and BASELINE not in self.absent:
            basis = self.op(shapely.intersection, place, sheet.parcels(self.rule.when.baseline)[rows])
            blank = self.op(shapely.difference, place, sheet.surveyed()[rows])
            uncovered = self.area_within(blank, sheet.patch[rows])
        here = self.within(basis, sheet.patch[rows])
        overlap = measured(here, sheet.crs)
        # What lies elsewhere is put aside before the dear steps.
        keep = np.flatnonzero((overlap > NOTHING_M2) | (uncovered > sheet.pack.threshold_m2(self.rule)))
        self.rows = rows[keep]
        if not keep.size:
            return []
        self.underlay.overlaps[self.rows] = here[keep]
        areas, reasons = self._measure(place[keep], basis[keep], overlap[keep], uncovered[keep])
        for index, entry in enumerate(self.rule.severity_if):
            if entry.cluster and not self.missing:
                sizes = sheet.cluster_m2(entry.cluster, self.rows)
                self._clusters[index] = dict(zip(self.rows.tolist(), sizes.tolist(), strict=True))
        found = []
        for k in range(len(keep)):
            values = rounded({name: column[k] for name, column in areas.items()})
            if self.rule.when.permit == "covering" and values["permitted"] <= sheet.pack.area_tolerance_m2:
                continue
            found.append(self._evidence(int(self.rows[k]), values, here[keep[k]], reasons[k]))
        return found

    def _place(self, grown: Array) -> Array:
        """Return where the rule looks: the grown changes within its zones and outside of those it leaves out."""
        when, sheet, rows = self.rule.when, self.sheet, self.rows
        zones = [
            sheet.strip(role, when.strip_m) if when.strip_m else sheet.zone(role)
            for role in when.zones if role not in self.absent
        ]  # fmt: skip
        chosen = [sheet.features(where) for where in when.at if where.role not in self.absent]
        place = grown
        for group in (zones, chosen):
            if group:
                inside = group[0][rows]
                for other in group[1:]:
                    inside = self.op(shapely.union, inside, other[rows])
                place = self.op(shapely.intersection, place, inside)
        for role in when.not_zones:
            if role not in self.absent:
                place = self.op(shapely.difference, place, sheet.zone(role)[rows])
        if when.permit_area:
            place = self.op(shapely.intersection, place, sheet.permit_area(when.permit_area)[rows])
        return place

    def _measure(
        self, place: Array, basis: Array, overlap: Array, uncovered: Array
    ) -> tuple[dict[str, Array], list[dict[str, str] | None]]:
        """Return the areas of all that may decide, and the first exemption of each change."""
        if self.missing:
            # What is under a layer that is not there cannot be stated, not even as 0.
            clear = self._again(self._minus_permits(basis, "valid"), basis, overlap, self.sheet.patch[self.rows])
            return {"permitted": overlap - clear}, [None] * len(overlap)
        sheet, rows = self.sheet, self.rows
        patch, grown = sheet.patch[rows], sheet.moved(self.tolerance)[rows]
        shrunk = sheet.moved(-self.tolerance)[rows]
        left, reasons = self._exempt(basis, patch)
        net = self._minus_permits(left, "valid")
        sure = self._minus_permits(net, "undated")
        # Each part is a difference of measured wholes, so overlap = exempt + permitted + net holds as measured.
        remaining = self._again(left, basis, overlap, patch)
        clear = self._again(net, left, remaining, patch)
        low, high = self.area_within(basis, shrunk), self.area_within(basis, grown)
        areas = {
            "overlap": overlap, "overlap_min": low, "overlap_max": high, "uncovered": uncovered,
            "exempt": overlap - remaining, "permitted": remaining - clear, "net": clear,
            "net_min": self._again(net, basis, low, shrunk), "net_max": self._again(net, basis, high, grown),
            "undated": clear - self._again(sure, net, clear, patch),
        }  # fmt: skip
        if sheet.plan.of(BASELINE):
            areas["farmland"] = overlap
            if self.rule.when.baseline != sheet.pack.farmland.groups:
                farm = sheet.parcels(sheet.pack.farmland.groups)[rows]
                areas["farmland"] = self.area(self.within(place, patch), farm)
        conformity = sheet.pack.conformity
        if conformity and sheet.plan.of(conformity):
            zone = sheet.zone(conformity)[rows]
            some = np.flatnonzero(~shapely.is_empty(zone))
            areas["conform"] = np.zeros(len(rows))
            inside = self.area(self.within(net[some], patch[some]), zone[some])
            areas["conform"][some] = np.minimum(inside, clear[some])
            areas["nonconform"] = clear - areas["conform"]
        return areas, reasons

    def _exempt(self, basis: Array, patch: Array) -> tuple[Array, list[dict[str, str] | None]]:
        """Return the basis less what is exempt, and the first reason that applied to each change."""
        sheet, left = self.sheet, basis
        reasons: list[dict[str, str] | None] = [None] * len(basis)
        for entry in self.rule.exempt:
            if entry.to:
                classes = sheet.pack.classes(entry.to)
                by_class = np.array([name in classes for name in sheet.to_class[self.rows]])
                if not by_class.any():
                    continue
                taken = np.where(by_class, left, shapely.Polygon())
            elif (entry.at.role if entry.at else BASELINE) in self.absent:
                continue
            else:
                chosen = sheet.features(entry.at) if entry.at else sheet.parcels(entry.baseline)
                taken = self.op(shapely.intersection, left, chosen[self.rows])
            some = np.flatnonzero(~shapely.is_empty(taken))
            part = self.area_within(taken[some], patch[some])
            left = self._less(left, taken)
            for k in some[part > NOTHING_M2]:
                reasons[k] = reasons[k] or entry.reason
        return left, reasons

    def _less(self, whole: Array, taken: Array) -> Array:
        """Return `whole` without `taken`; where nothing is taken, the very same geometries (`_again` relies on it)."""
        some = np.flatnonzero(~shapely.is_empty(taken))
        left = whole.copy()
        left[some] = self.op(shapely.difference, whole[some], taken[some])
        return left

    def _again(self, part: Array, whole: Array, known: Array, window: Array) -> Array:
        """Return the area of parts within windows, given that of their wholes; only what differs is measured again."""
        found = known.copy()
        some = np.flatnonzero([one is not other for one, other in zip(part, whole, strict=True)])
        if some.size:
            found[some] = np.minimum(self.area_within(part[some], window[some]), known[some])
        return found

    def _minus_permits(self, basis: Array, state: str) -> Array:
        if not self.rule.permits or not self.sheet.plan.of(PERMIT):
            return basis
        return self._less(basis, self.sheet.permits(self.rule.permits, state)[self.rows])

    def _evidence(self, row: int, values: dict[str, float], here: Any, reason: dict[str, str] | None) -> Evidence:
        rule, sheet = self.rule, self.sheet
        excess = None
        if not self.missing and values["permitted"] > sheet.pack.area_tolerance_m2:
            excess = rule.excess_rule if rule.excess_rule in self.in_force else None
        status = decide(rule, sheet.pack, values, missing=bool(self.missing), handed_on=excess is not None)
        parcels = self._parcels(row)
        raised, cluster = self._raised(row)
        shown: dict[str, Any] = {} if self.missing else {**values, **self._ridges(values, parcels)}
        return Evidence(
            row=row, status=status, threshold=sheet.pack.threshold_m2(rule), tolerance=self.tolerance,
            missing=self.missing, without=self.without, exemption=reason, raised=raised, cluster=cluster,
            severity=severity(rule.severity, (rule.severity_if[i].severity for i in raised)),
            excess_rule=excess if status == "permitted" and values["net"] > sheet.pack.threshold_m2(rule) else None,
            parcels=parcels, permits=self._permits(row),
            earlier=tuple(self.underlay.under(HISTORY, row)),
            point=here if not here.is_empty and not self.missing else sheet.patch[row], **shown,
        )  # fmt: skip

    def _ridges(self, values: dict[str, float], parcels: tuple[tuple[Feature, float], ...]) -> dict[str, float]:
        """Return farmland net of ridges and the part that no ridge share is given for; nothing without a baseline."""
        if "farmland" not in values:
            return {}
        pack = self.sheet.pack
        farm = [
            (feature, area) for feature, area in parcels
            if feature["layer"].startswith(BASELINE)
            and pack.in_group(feature["code"], pack.farmland.groups, feature["system"])
        ]  # fmt: skip
        share, unknown = net_share(farm, pack.farmland.ridge)
        found = {"ridge_unknown": values["farmland"] * unknown}
        return rounded(found | ({"farmland_net": values["farmland"] * share} if unknown < 1 else {}))

    def _raised(self, row: int) -> tuple[tuple[int, ...], float | None]:
        """Return which of the rule's `severity_if` hold, and the size of the cluster where one was asked for."""
        held, size = [], None
        for index, entry in enumerate(self.rule.severity_if):
            holds = False
            if entry.cluster and index in self._clusters:
                size = round(self._clusters[index][row], DECIMALS)
                holds = size >= entry.cluster.min_m2
            elif entry.at:
                keep = self.sheet.selected(entry.at)
                holds = any(keep(feature) for feature, _ in self.underlay.under(entry.at.role, row))
            if holds:
                held.append(index)
        return tuple(held), size

    def _parcels(self, row: int) -> tuple[tuple[Feature, float], ...]:
        chosen = tuple(where.role for where in self.rule.when.at if where.role != HISTORY)
        roles = dict.fromkeys((*self.rule.when.zones, *chosen, BASELINE))
        return tuple(hit for role in roles for hit in self.underlay.under(role, row))

    def _permits(self, row: int) -> tuple[tuple[Feature, float, str], ...]:
        pack, date = self.sheet.pack, self.sheet.date
        found = []
        for feature, area in self.underlay.under(PERMIT, row):
            state = permit_state(feature, date, pack)
            found.append((feature, area, state if feature["kind"] in self.rule.permits else "other_kind"))
        return tuple(found)
