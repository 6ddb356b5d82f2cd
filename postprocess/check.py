"""Change polygons judged against a plan by the rules of a pack."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
from pyproj import CRS

from tuban.errors import VectorError
from tuban.postprocess.area import geodesic_area, to_mu
from tuban.postprocess.check_context import CheckContext, CheckSettings, CheckStats
from tuban.postprocess.predicates import Evidence, evaluate
from tuban.postprocess.reasons import reason, trace
from tuban.postprocess.sheet import BASELINE, Sheet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tuban.data.plan import Plan
    from tuban.postprocess.rules import Rule, RulePack

logger = logging.getLogger(__name__)

__all__ = ["COLUMNS", "CheckContext", "CheckSettings", "CheckStats", "check_changes", "minimum_mapping_unit"]

COLUMNS = (
    "finding_id", "change_id", "rule_id", "severity", "status", "zone_role", "from_class", "to_class", "area_m2",
    "area_mu", "overlap_m2", "overlap_min_m2", "overlap_max_m2", "farmland_m2", "permitted_m2", "conform_m2",
    "nonconform_m2", "confidence", "date_before", "date_after", "lon", "lat", "reason", "basis", "model_id",
    "rule_pack",
    "net_m2", "undated_m2", "baseline_class", "zone_ids", "tolerance_m", "below_mmu", "route", "trace",
)  # fmt: skip
"""Columns of a findings frame: those of the contract, then further ones."""


def check_changes(
    changes: Iterable[gpd.GeoDataFrame], plan: Plan, pack: RulePack, *, context: CheckContext,
    settings: CheckSettings | None = None, stats: CheckStats | None = None,
) -> Iterator[gpd.GeoDataFrame]:  # fmt: skip
    """Judge batches of changes against a plan.

    Args:
        changes: frames with `change_id, from_class, to_class, area_m2, confidence` and polygons, each with a CRS.
        plan: the layers.
        pack: the rules; those in force on `context.judged_on` are applied.
        context: dates, accuracy and model of the pair.
        settings: defaults where None.
        stats: is filled while the result is drawn.

    Yields:
        Frames with `COLUMNS` and the change's outline as geometry, in the CRS of the changes; one row for each pair of
        change and rule that applies. Areas are square metres on the ellipsoid; NaN where a layer is missing.

    Raises:
        VectorError: a frame has no CRS or lacks a column, or a plan layer became unreadable.
    """
    settings, stats = settings or CheckSettings(), stats or CheckStats()
    rules = pack.in_force(context.judged_on)
    stats.rules_in_force = tuple(rule.id for rule in rules)
    stats.notes += _notes(rules, plan, pack, context)
    for frame in changes:
        _validate(frame)
        for start in range(0, len(frame), settings.batch_size):
            part = frame.iloc[start : start + settings.batch_size].reset_index(drop=True)
            stats.changes += len(part)
            found = _judge(part, plan, pack, rules, context, settings, stats)
            if len(found):
                stats.findings.update(f"{r}:{s}" for r, s in zip(found["rule_id"], found["status"], strict=True))
                yield found


def _validate(frame: gpd.GeoDataFrame) -> None:
    if frame.crs is None:
        raise VectorError("changes have no CRS; set it before the check")
    missing = [n for n in ("change_id", "from_class", "to_class", "area_m2", "confidence") if n not in frame.columns]
    if missing:
        raise VectorError(f"changes lack the column {', '.join(missing)}; read them with read_changes")


def _notes(rules: tuple[Rule, ...], plan: Plan, pack: RulePack, context: CheckContext) -> list[str]:
    """Return what holds for the whole run."""
    said = []
    day = context.judged_on
    if context.date_after is None:
        said.append(f"no date of the later scene: rules and permits of the day of the run, {day}")
    idle = [rule.id for rule in pack.rules if rule not in rules]
    if idle:
        said.append(f"rules of {pack.name} not in force on {day}, so not applied: {', '.join(idle)}")
    ended = [r.id for r in pack.rules if r not in rules and context.date_before and r.in_force(context.date_before)]
    if ended:
        said.append(
            f"rules that ended between {context.date_before} and {day}, check when work began: {', '.join(ended)}"
        )
    absent = sorted({role for rule in rules for role in rule.roles() if not plan.of(role)})
    if absent:
        said.append(f"the plan has no layer of role {', '.join(absent)}: rules that need it give undetermined")
    if plan.jurisdiction != pack.jurisdiction:
        said.append(f"the plan is of jurisdiction {plan.jurisdiction}, the rule pack of {pack.jurisdiction}")
    if context.downgraded:
        said.append(f"pair downgraded, suspected becomes inconclusive: {context.downgrade_reason}")
    return said


def _judge(
    part: gpd.GeoDataFrame, plan: Plan, pack: RulePack, rules: tuple[Rule, ...], context: CheckContext,
    settings: CheckSettings, stats: CheckStats,
) -> gpd.GeoDataFrame:  # fmt: skip
    sheet = Sheet(part, plan, pack, context.image_accuracy_m, context.judged_on, stats.overlay)
    ids = frozenset(rule.id for rule in rules)
    hits = [(evidence, rule) for rule in rules for evidence in evaluate(rule, sheet, ids)]
    order = {rule.id: index for index, rule in enumerate(rules)}
    hits.sort(key=lambda hit: (hit[0].row, order[hit[1].id]))
    if not hits:
        return gpd.GeoDataFrame({name: [] for name in COLUMNS}, geometry=[], crs=part.crs)
    area = geodesic_area(part.geometry.values, part.crs)
    points = gpd.GeoSeries([e.point.representative_point() for e, _ in hits], crs=part.crs).to_crs(CRS.from_epsg(4326))
    records = [
        _record(part.iloc[evidence.row], float(area[evidence.row]), evidence, rule, pack, context, settings, point)
        for (evidence, rule), point in zip(hits, points, strict=True)
    ]
    geometry = [part.geometry.iloc[evidence.row] for evidence, _ in hits]
    return gpd.GeoDataFrame(records, columns=list(COLUMNS), geometry=geometry, crs=part.crs)


def _final(
    evidence: Evidence, confidence: float, context: CheckContext, settings: CheckSettings
) -> tuple[str, list[tuple[str, str]]]:
    """Return the status once the image's own doubts are counted, and what to say about them."""
    status, notes = evidence.status, []
    if status == "suspected" and context.downgraded:
        status = "inconclusive"
        why = context.downgrade_reason or "registration or radiometry"
        notes.append((f"影像对降级：{why}", f"the image pair is downgraded: {why}"))
    if status == "suspected" and confidence < settings.min_confidence:
        status = "inconclusive"
        least = f"{settings.min_confidence:.2f}"
        notes.append((f"置信度 {confidence:.2f} 低于 {least}", f"confidence {confidence:.2f} below {least}"))
    return status, notes


def minimum_mapping_unit(pack: RulePack, to_class: str) -> float:
    """Return the minimum mapping unit of a class in square metres: that of its group, else of `other`."""
    for group, size in pack.min_mapping_unit_m2.items():
        if to_class in pack.classes((group,)):
            return size
    return pack.min_mapping_unit_m2.get("other", 0.0)


def _record(
    change: Any, area: float, evidence: Evidence, rule: Rule, pack: RulePack, context: CheckContext,
    settings: CheckSettings, point: Any,
) -> dict[str, Any]:  # fmt: skip
    confidence = float(change["confidence"]) if change["confidence"] is not None else float("nan")
    status, notes = _final(evidence, confidence, context, settings)
    unit = minimum_mapping_unit(pack, change["to_class"])
    zones = sorted({f"{f['layer']}/{f['plan_id']}" for f, _ in evidence.parcels})
    key = "|".join([str(change["change_id"]), rule.id, pack.name, *zones])
    codes = [
        feature["code"] for feature, _ in evidence.parcels if feature["layer"].startswith(BASELINE) and feature["code"]
    ]

    def m2(value: float | None) -> float:
        return float("nan") if value is None else round(value, 2)

    net, conform = m2(evidence.net), m2(evidence.conform)
    return {
        "finding_id": hashlib.sha256(key.encode()).hexdigest()[:16],
        "change_id": str(change["change_id"]), "rule_id": rule.id, "severity": evidence.severity, "status": status,
        "zone_role": ",".join(rule.when.zones) or ",".join(f"not:{role}" for role in rule.when.not_zones) or BASELINE,
        "from_class": change["from_class"], "to_class": change["to_class"],
        "area_m2": round(area, 2), "area_mu": round(float(to_mu(area)), 4),
        "overlap_m2": m2(evidence.overlap), "overlap_min_m2": m2(evidence.overlap_min),
        "overlap_max_m2": m2(evidence.overlap_max), "farmland_m2": m2(evidence.farmland),
        "permitted_m2": m2(evidence.permitted), "conform_m2": conform,
        # Taken from the rounded sum, so that the two parts add up to net_m2 to the last decimal.
        "nonconform_m2": float(np.round(max(net - conform, 0.0), 2)) if conform == conform else conform,  # noqa: PLR0124
        "confidence": confidence,
        "date_before": str(context.date_before or ""), "date_after": str(context.date_after or ""),
        "lon": round(point.x, 7), "lat": round(point.y, 7),
        "reason": reason(
            rule, pack, evidence, status, context, from_class=change["from_class"], to_class=change["to_class"],
            notes=notes, small=unit if area < unit else 0.0,
        ),
        "basis": f"{rule.basis.zh} [{rule.basis.mark}]", "model_id": context.model_id, "rule_pack": pack.name,
        "net_m2": net, "undated_m2": m2(evidence.undated), "baseline_class": codes[0] if codes else "",
        "zone_ids": ";".join(zones), "tolerance_m": round(evidence.tolerance, 3), "below_mmu": bool(area < unit),
        "route": rule.route, "trace": trace(rule, evidence, status, context),
    }  # fmt: skip
