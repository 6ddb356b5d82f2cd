"""Why a finding has its status: one line in Chinese and English, and the same as data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tuban.postprocess.area import to_mu

if TYPE_CHECKING:
    from tuban.postprocess.check_context import CheckContext
    from tuban.postprocess.predicates import Evidence
    from tuban.postprocess.rules import Rule, RulePack

_SHOWN = 3
STATUS = {
    "suspected": ("疑似", "suspected"),
    "inconclusive": ("存疑", "inconclusive"),
    "permitted": ("已批准", "permitted"),
    "compliant": ("符合", "compliant"),
    "undetermined": ("无法判定", "undetermined"),
}
_STATE = {
    "valid": ("有效", "valid"),
    "undated": ("无批准日期，不作有效凭证", "no approval date, so not taken as valid"),
    "not_yet": ("批准日期晚于后时相", "approved after the later date"),
    "expired": ("已过期", "expired"),
    "other_kind": ("种类不适用本规则", "of a kind that this rule does not accept"),
}


def _m2(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f} m2 ({float(to_mu(value)):.2f} 亩)"


def _features(evidence: Evidence) -> str:
    texts = []
    for feature, area in evidence.parcels[:_SHOWN]:
        code = f" DLBM={feature['code']}{' ' + feature['name'] if feature['name'] else ''}" if feature["code"] else ""
        extra = "".join(f" {k}={v}" for k, v in feature["values"].items())
        texts.append(f"{feature['layer'].split(':')[-1]} {feature['plan_id']}{code}{extra} {area:.2f} m2")
    more = len(evidence.parcels) - _SHOWN
    return "; ".join(texts) + (f"; +{more}" if more > 0 else "")


def _permits(evidence: Evidence, lang: int) -> str:
    texts = []
    for feature, area, state in evidence.permits[:_SHOWN]:
        period = f"{feature['valid_from'] or '?'}~{feature['valid_to'] or '…'}"
        number = feature["number"] or feature["plan_id"]
        texts.append(f"{feature['kind']} {number} {period} {area:.2f} m2 {_STATE[state][lang]}")
    more = len(evidence.permits) - _SHOWN
    return "; ".join(texts) + (f"; +{more}" if more > 0 else "")


Clauses = list[tuple[str, str]]


def _title(pack: RulePack, role: str, lang: str) -> str:
    return pack.zones[role][lang] if role in pack.zones else role


def _area_clause(evidence: Evidence) -> Clauses:
    if evidence.overlap is None:
        return []
    low, high, limit = evidence.overlap_min, evidence.overlap_max, evidence.threshold
    span = f"{low:.2f}~{high:.2f} m2"
    zh = (
        f"重叠 {_m2(evidence.overlap)}，位置误差 ±{evidence.tolerance:.2f} m 时 {span}，"
        f"扣除有效批准后 {_m2(evidence.net)}，阈值 {limit:.2f} m2"
    )
    en = (
        f"overlap {evidence.overlap:.2f} m2 ({span} at ±{evidence.tolerance:.2f} m), {evidence.net:.2f} m2 after valid "
        f"permits, threshold {limit:.2f} m2"
    )
    return [(zh, en)]


def _evidence_clauses(evidence: Evidence) -> Clauses:
    said: Clauses = []
    if evidence.parcels:
        said.append((f"依据地块 {_features(evidence)}", f"features {_features(evidence)}"))
    if evidence.permits:
        said.append((f"批准文件 {_permits(evidence, 0)}", f"permits {_permits(evidence, 1)}"))
    if evidence.exemption:
        area = f"{evidence.exempt:.2f} m2"
        said.append((f"豁免 {area}：{evidence.exemption['zh']}", f"exempt {area}: {evidence.exemption['en']}"))
    if evidence.uncovered > evidence.threshold:
        area = f"{evidence.uncovered:.2f} m2"
        said.append((f"{area} 无现状图斑或地类编码不可识别", f"{area} has no parcel with a known code"))
    return said


def _clauses(pack: RulePack, evidence: Evidence, small: float) -> Clauses:
    """Return what the plan says, as (Chinese, English) pairs in order."""
    said = [
        (
            f"缺少图层：{_title(pack, role, 'zh')}，不能视为无问题",
            f"missing layer: {_title(pack, role, 'en')}; not the same as clean",
        )
        for role in evidence.missing
    ]
    said += _area_clause(evidence) + _evidence_clauses(evidence)
    if evidence.excess_rule:
        rule = evidence.excess_rule
        said.append((f"批准范围以外部分由 {rule} 判定", f"the part beyond the permit is judged by {rule}"))
    said += [
        (
            f"未提供{_title(pack, role, 'zh')}，按其余图层判定",
            f"no layer {_title(pack, role, 'en')}; judged by the others",
        )
        for role in evidence.without
    ]
    if small:
        said.append((f"小于最小上图面积 {small:g} m2", f"below the minimum mapping unit of {small:g} m2"))
    return said


def reason(
    rule: Rule, pack: RulePack, evidence: Evidence, status: str, context: CheckContext, *,
    from_class: str, to_class: str, notes: list[tuple[str, str]], small: float,
) -> str:  # fmt: skip
    """Return the reason as `rule status: Chinese … | English …`.

    Args:
        rule: the rule.
        pack: its pack.
        evidence: what the rule found.
        status: the final status.
        context: dates and their notes.
        from_class: the model's class before, supporting evidence only.
        to_class: the model's class after.
        notes: further (Chinese, English) clauses.
        small: the minimum mapping unit that the change falls short of, or 0.
    """
    clauses = _clauses(pack, evidence, small) + notes + context.date_notes(rule)
    if rule.advice and status in {"suspected", "inconclusive"}:
        clauses.append((rule.advice["zh"], rule.advice["en"]))
    zh, en = STATUS[status]
    change = f"{from_class}->{to_class}"
    chinese = "；".join([f"{rule.id} {rule.title['zh']}：{zh}", f"影像变化 {change}", *(c[0] for c in clauses)])
    english = "; ".join([f"{rule.id} {rule.title['en']}: {en}", f"image change {change}", *(c[1] for c in clauses)])
    return f"{chinese} | {english}"


def trace(rule: Rule, evidence: Evidence, status: str, context: CheckContext) -> str:
    """Return the evidence as JSON: everything needed to judge the finding again."""

    def feature(item: dict[str, Any]) -> dict[str, Any]:
        return {key: str(value) if key.startswith("valid_") and value else value for key, value in item.items()}

    names = ("overlap", "overlap_min", "overlap_max", "net", "net_min", "net_max", "farmland", "permitted", "undated",
             "exempt", "uncovered", "conform", "nonconform", "threshold")  # fmt: skip
    areas = {name: None if (value := getattr(evidence, name)) is None else round(value, 4) for name in names}
    content = {
        "rule": rule.id, "rule_from": str(rule.effective_from), "status": status, "areas_m2": areas,
        "tolerance_m": round(evidence.tolerance, 4), "missing": evidence.missing, "judged_without": evidence.without,
        "features": [{**feature(f), "area_m2": round(a, 4)} for f, a in evidence.parcels],
        "permits": [{**feature(f), "area_m2": round(a, 4), "state": s} for f, a, s in evidence.permits],
        "exemption": evidence.exemption, "excess_rule": evidence.excess_rule, "route": rule.route,
        "basis_mark": rule.basis.mark, "judged_on": str(context.judged_on), "downgraded": context.downgraded,
    }  # fmt: skip
    return json.dumps(content, ensure_ascii=False, sort_keys=True)
