"""Findings as rows: the columns of the contract and those that follow them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuban.errors import UsageError
from tuban.postprocess.area import allot, to_mu
from tuban.postprocess.reasons import reason, trace
from tuban.postprocess.rule_parts import BASELINE

if TYPE_CHECKING:
    from tuban.postprocess.check_context import CheckContext
    from tuban.postprocess.rule_evidence import Evidence
    from tuban.postprocess.rules import Rule, RulePack

COLUMNS = (
    "finding_id", "change_id", "rule_id", "severity", "status", "zone_role", "from_class", "to_class", "area_m2",
    "area_mu", "overlap_m2", "overlap_min_m2", "overlap_max_m2", "farmland_m2", "permitted_m2", "conform_m2",
    "nonconform_m2", "confidence", "date_before", "date_after", "lon", "lat", "reason", "basis", "model_id",
    "rule_pack",
    "net_m2", "exempt_m2", "undated_m2", "farmland_net_m2", "baseline_class", "zone_ids", "tolerance_m", "doubt",
    "actor", "below_mmu", "route", "trace",
)  # fmt: skip
"""Columns of a findings frame: those of the contract, then further ones."""

SUMMABLE = ("exempt_m2", "permitted_m2", "net_m2", "conform_m2", "nonconform_m2")
"""Columns that are parts of others: exempt + permitted + net = overlap and conform + nonconform = net, to the last
decimal. They may be summed over the findings of one rule; other areas, and findings of several rules, may not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One finding: what a rule found, the status once the doubts are counted, and the doubts."""

    evidence: Evidence
    rule: Rule
    status: str
    doubts: tuple[str, ...]
    confidence: float
    least_confidence: float


def minimum_mapping_unit(pack: RulePack, to_class: str) -> float:
    """Return the minimum mapping unit of a class in square metres: that of its group, else of `other`."""
    for group, size in pack.min_mapping_unit_m2.items():
        if to_class in pack.classes((group,)):
            return size
    return pack.min_mapping_unit_m2.get("other", 0.0)


def basis_text(rule: Rule) -> str:
    """Return the basis in both languages, each with the mark of how well it is known."""
    return f"{rule.basis.zh} [{rule.basis.mark}] | {rule.basis.en} [{rule.basis.mark}]"


def _m2(value: float | None) -> float:
    return math.nan if value is None else round(value, 2)


def _parts(whole: float | None, *parts: float | None) -> list[float]:
    """Return parts with two decimals that sum to the rounded whole; NaN where one is not known."""
    if whole is None or any(part is None for part in parts):
        return [math.nan] * len(parts)
    if sum(map(bool, parts)) <= 1:  # as most are: the one part is the whole
        return [round(whole, 2) if part else 0.0 for part in parts]
    try:
        return [float(v) for v in allot([part or 0.0 for part in parts], whole)]
    except UsageError:  # pragma: no cover - parts are differences of measured wholes
        return [_m2(part) for part in parts]


def record(
    change: Any, area: float, verdict: Verdict, pack: RulePack, context: CheckContext, point: Any
) -> dict[str, Any]:
    """Return a finding as a row of `COLUMNS`.

    Args:
        change: the change's row.
        area: its ellipsoidal area, m2.
        verdict: the finding.
        pack: the rules.
        context: dates and model.
        point: a point inside the overlap, longitude and latitude.
    """
    evidence, rule = verdict.evidence, verdict.rule
    unit = minimum_mapping_unit(pack, change["to_class"])
    zones = sorted({f"{f['layer']}/{f['plan_id']}" for f, _ in evidence.parcels})
    key = "|".join([str(change["change_id"]), rule.id, pack.name, *zones])
    codes = [f["code"] for f, _ in evidence.parcels if f["layer"].startswith(BASELINE) and f["code"]]
    exempt, permitted, net = _parts(evidence.overlap, evidence.exempt, evidence.permitted, evidence.net)
    conform, nonconform = _parts(None if math.isnan(net) else net, evidence.conform, evidence.nonconform)
    places = (*rule.when.zones, *dict.fromkeys(where.role for where in rule.when.at))
    return {
        "finding_id": hashlib.sha256(key.encode()).hexdigest()[:16],
        "change_id": str(change["change_id"]), "rule_id": rule.id, "severity": evidence.severity,
        "status": verdict.status,
        "zone_role": ",".join(places) or ",".join(f"not:{role}" for role in rule.when.not_zones) or BASELINE,
        "from_class": change["from_class"], "to_class": change["to_class"],
        "area_m2": round(area, 2), "area_mu": round(float(to_mu(area)), 4),
        "overlap_m2": _m2(evidence.overlap), "overlap_min_m2": _m2(evidence.overlap_min),
        "overlap_max_m2": _m2(evidence.overlap_max), "farmland_m2": _m2(evidence.farmland),
        "permitted_m2": permitted, "conform_m2": conform, "nonconform_m2": nonconform,
        "confidence": verdict.confidence,
        "date_before": str(context.date_before or ""), "date_after": str(context.date_after or ""),
        "lon": round(point.x, 7), "lat": round(point.y, 7),
        "reason": reason(
            verdict, pack, context, from_class=change["from_class"], to_class=change["to_class"],
            small=unit if area < unit else 0.0,
        ),
        "basis": basis_text(rule), "model_id": context.model_id, "rule_pack": pack.name,
        "net_m2": net, "exempt_m2": exempt, "undated_m2": _m2(evidence.undated),
        "farmland_net_m2": _m2(evidence.farmland_net), "baseline_class": codes[0] if codes else "",
        "zone_ids": ";".join(zones), "tolerance_m": round(evidence.tolerance, 3),
        "doubt": ";".join(verdict.doubts), "actor": evidence.actor, "below_mmu": bool(area < unit),
        "route": rule.route, "trace": trace(verdict, pack, context),
    }  # fmt: skip
