"""Change polygons judged against a plan by the rules of a pack."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS

from tuban.errors import VectorError
from tuban.postprocess.actors import actor_of
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.check_context import CheckContext, CheckSettings, CheckStats
from tuban.postprocess.check_notes import run_notes
from tuban.postprocess.finding_rows import COLUMNS, Verdict, minimum_mapping_unit, record
from tuban.postprocess.history import open_history, with_layer
from tuban.postprocess.neighbours import classes_asked_for, with_neighbours
from tuban.postprocess.overlay import measured, robust
from tuban.postprocess.predicates import evaluate
from tuban.postprocess.sheet import Sheet
from tuban.postprocess.totals import ActorTotals
from tuban.postprocess.verdict import NOTHING_M2, doubts, final_status, least_confidence, severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tuban.data.plan import Plan
    from tuban.postprocess.rule_evidence import Evidence
    from tuban.postprocess.rules import Rule, RulePack

    Hit = tuple[Evidence, Rule]

logger = logging.getLogger(__name__)

__all__ = ["COLUMNS", "CheckContext", "CheckSettings", "CheckStats", "check_changes", "minimum_mapping_unit"]


def check_changes(
    changes: Iterable[gpd.GeoDataFrame], plan: Plan, pack: RulePack, *, context: CheckContext,
    settings: CheckSettings | None = None, stats: CheckStats | None = None,
) -> Iterator[gpd.GeoDataFrame]:  # fmt: skip
    """Judge batches of changes against a plan.

    Args:
        changes: frames with `change_id, from_class, to_class, area_m2, confidence` and polygons, each with a CRS.
        plan: the layers.
        pack: the rules; those in force on `context.judged_on` are applied.
        context: dates, accuracy and model of the pair, and earlier findings.
        settings: defaults where None.
        stats: is filled while the result is drawn.

    Yields:
        Frames with `COLUMNS` and the change's outline as geometry, in the CRS of the changes; one row for each pair of
        change and rule that applies. Areas are square metres on the ellipsoid; NaN where a layer is missing.

    Raises:
        VectorError: a frame has no CRS or lacks a column, or a plan layer or the earlier findings are unreadable.
    """
    settings, stats = settings or CheckSettings(), stats or CheckStats()
    rules = pack.in_force(context.judged_on)
    stats.rules_in_force, stats.judged_on = tuple(rule.id for rule in rules), str(context.judged_on)
    history = context.history or (open_history(settings.history) if settings.history else None)
    stats.notes += run_notes(rules, with_layer(plan, history), pack, context)
    asked = classes_asked_for(tuple(rule for rule in rules if all(plan.of(r) for r in rule.roles())), pack)
    totals = tuple(ActorTotals(rule, pack, history, context.judged_on) for rule in rules if rule.total)
    with with_neighbours(map(_validated, changes), asked) as (frames, neighbours):
        run = _Run(with_layer(with_layer(plan, history), neighbours), pack, rules, context, settings, stats, totals)
        for frame in frames:
            for start in range(0, len(frame), settings.batch_size):
                part = frame.iloc[start : start + settings.batch_size].reset_index(drop=True)
                stats.changes += len(part)
                found = run.judge(part)
                if len(found):
                    stats.findings.update(f"{r}:{s}" for r, s in zip(found["rule_id"], found["status"], strict=True))
                    yield found
    if stats.actors_unknown:
        names = ", ".join(rule.id for rule in rules if rule.total)
        stats.notes.append(
            f"{names}: the actor of {stats.actors_unknown} changes is not known (no column "
            f"{' or '.join(pack.actor.columns)}): each was summed by itself"
        )


def _validated(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    if frame.crs is None:
        raise VectorError("changes have no CRS; set it before the check")
    missing = [n for n in ("change_id", "from_class", "to_class", "area_m2", "confidence") if n not in frame.columns]
    if missing:
        raise VectorError(f"changes lack the column {', '.join(missing)}; read them with read_changes")
    return frame


@dataclass(frozen=True)
class _Run:
    """What stays the same from batch to batch."""

    plan: Plan
    pack: RulePack
    rules: tuple[Rule, ...]
    context: CheckContext
    settings: CheckSettings
    stats: CheckStats
    totals: tuple[ActorTotals, ...]

    def judge(self, part: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """Return the findings of a batch, ordered by change, then by rule."""
        context = self.context
        sheet = Sheet(part, self.plan, self.pack, self.rules, context.image_accuracy_m, context.judged_on,
                      self.stats.overlay, self.settings.map_scale)  # fmt: skip
        order = {rule.id: index for index, rule in enumerate(self.rules)}
        hits = _uplifted(_areas_judged(sheet), sheet)
        hits = [(replace(e, actor=actor_of(part, e, self.pack)), rule) for e, rule in hits]
        verdicts = [self._verdict(part, evidence, rule) for evidence, rule in hits]
        verdicts += self._summed(part, sheet, verdicts)
        verdicts.sort(key=lambda v: (v.evidence.row, order[v.rule.id]))
        if not verdicts:
            return gpd.GeoDataFrame({name: [] for name in COLUMNS}, geometry=[], crs=part.crs)
        self._count(verdicts)
        area = geodesic_area(part.geometry.values, part.crs)
        inside = shapely.point_on_surface(np.array([v.evidence.point for v in verdicts], dtype=object))
        points = gpd.GeoSeries(inside, crs=part.crs).to_crs(CRS.from_epsg(4326))
        changes = part.drop(columns=part.geometry.name).to_dict("records")
        rows = [v.evidence.row for v in verdicts]
        records = [
            record(changes[row], float(area[row]), verdict, self.pack, context, point)
            for row, verdict, point in zip(rows, verdicts, points, strict=True)
        ]
        return gpd.GeoDataFrame(records, columns=list(COLUMNS), geometry=sheet.patch[rows], crs=part.crs)

    def _verdict(self, part: gpd.GeoDataFrame, evidence: Evidence, rule: Rule) -> Verdict:
        """Count the image's and the model's own doubts."""
        given = part["confidence"].iloc[evidence.row]
        confidence = math.nan if given is None else float(given)
        least = least_confidence(rule, self.pack, self.settings.min_confidence)
        downgraded, of_sum = self.context.downgraded, evidence.total is not None
        found = doubts(evidence.status, confidence, least, downgraded=downgraded, of_sum=of_sum)
        return Verdict(evidence, rule, final_status(evidence.status, found), found, confidence, least)

    def _summed(self, part: gpd.GeoDataFrame, sheet: Sheet, verdicts: list[Verdict]) -> list[Verdict]:
        """Return the findings of the rules that sum, which look at those of the others, change by change."""
        if not self.totals:
            return []
        by_row: dict[int, list[tuple[Evidence, Rule, str]]] = defaultdict(list)
        for verdict in verdicts:
            by_row[verdict.evidence.row].append((verdict.evidence, verdict.rule, verdict.status))
        found = []
        for row in sorted(by_row):
            change_id = str(part["change_id"].iloc[row])
            for totals in self.totals:
                lead = totals.judge(sheet, row, change_id, by_row[row], self.stats)
                if lead:
                    found.append(self._verdict(part, lead, totals.rule))
        return found

    def _count(self, verdicts: list[Verdict]) -> None:
        stats = self.stats
        stats.doubts.update(f"{v.rule.id}:{doubt}" for v in verdicts for doubt in v.doubts)
        earlier = {(f["plan_id"], f["code"]) for v in verdicts for f, _ in v.evidence.earlier}
        stats.earlier.update(code for _, code in sorted(earlier))


def _areas_judged(sheet: Sheet) -> list[Hit]:
    """Return what the rules that judge areas found; those that others yield to come first."""
    ids = frozenset(rule.id for rule in sheet.rules)
    found: dict[str, list[Evidence]] = {}
    rules = [rule for rule in sheet.rules if rule.judges]
    for rule in sorted(rules, key=lambda rule: bool(rule.yields_to)):
        taken = frozenset(e.row for name in rule.yields_to for e in found.get(name, ()) if e.status != "undetermined")
        found[rule.id] = evaluate(rule, sheet, ids, taken)
    return [(evidence, rule) for rule in rules for evidence in found[rule.id]]


def _uplifted(hits: list[Hit], sheet: Sheet) -> list[Hit]:
    """Return the findings with the severity that uplifts give them."""
    for uplift in sheet.rules:
        roles = [role for role in uplift.when.zones if sheet.plan.of(role)]
        if not uplift.uplift or not roles:
            continue
        chosen = [i for i, (_, rule) in enumerate(hits) if rule.id in uplift.uplift.of]
        if not chosen:
            continue
        places = np.array([hits[i][0].point for i in chosen], dtype=object)
        rows = [hits[i][0].row for i in chosen]
        met = np.zeros(len(chosen), dtype=bool)
        for role in roles:
            inside = robust(shapely.intersection, places, sheet.zone(role)[rows], sheet.crs, sheet.counts)
            met |= measured(inside, sheet.crs) > NOTHING_M2
        for i in np.asarray(chosen)[met]:
            evidence, rule = hits[i]
            raised = severity(evidence.severity, (), uplift.uplift.levels)
            hits[i] = (replace(evidence, severity=raised, uplifts=(*evidence.uplifts, uplift.id)), rule)
    return hits
