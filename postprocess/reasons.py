"""Why a finding has its status: one line in Chinese and English, and the same as data."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from tuban.postprocess.rule_parts import HISTORY
from tuban.postprocess.verdict import DECIMALS

if TYPE_CHECKING:
    from tuban.postprocess.check_context import CheckContext
    from tuban.postprocess.finding_rows import Verdict
    from tuban.postprocess.rule_evidence import Evidence
    from tuban.postprocess.rules import RulePack

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


Clauses = list[tuple[str, str]]


def _in_units(value: float, pack: RulePack, lang: str) -> str:
    """Return an area in square metres and in the jurisdiction's unit."""
    return f"{value:.2f} m2 ({value / pack.unit.m2:.2f} {pack.unit.name[lang]})"


def _features(evidence: Evidence) -> str:
    texts = []
    for feature, area in evidence.parcels[:_SHOWN]:
        code = f" {feature['code']}{' ' + feature['name'] if feature['name'] else ''}" if feature["code"] else ""
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


def _title(pack: RulePack, role: str, lang: str) -> str:
    if role == HISTORY:
        return {"zh": "以往图斑", "en": "earlier findings"}[lang]
    return pack.zones[role].title[lang] if role in pack.zones else role


def _area_clauses(pack: RulePack, evidence: Evidence) -> Clauses:
    if evidence.overlap is None or evidence.net is None or evidence.total:
        return []
    span = f"{evidence.overlap_min:.2f}~{evidence.overlap_max:.2f} m2"
    limit = f"{evidence.threshold:.2f} m2"
    zh = (
        f"重叠 {_in_units(evidence.overlap, pack, 'zh')}，位置误差 ±{evidence.tolerance:.2f} m 时 {span}，"
        f"扣除豁免与有效批准后 {_in_units(evidence.net, pack, 'zh')}，阈值 {limit}"
    )
    en = (
        f"overlap {_in_units(evidence.overlap, pack, 'en')}, {span} at ±{evidence.tolerance:.2f} m, "
        f"{_in_units(evidence.net, pack, 'en')} after exemptions and valid permits, threshold {limit}"
    )
    return [(zh, en), *_farmland_clauses(pack, evidence)]


def _farmland_clauses(pack: RulePack, evidence: Evidence) -> Clauses:
    if not evidence.farmland:
        return []
    gross, net, unknown = evidence.farmland, evidence.farmland_net, evidence.ridge_unknown or 0.0
    ridge = pack.farmland.ridge
    if net is None and not (ridge.share or ridge.area):
        return [(f"占耕地 {gross:.2f} m2", f"farmland {gross:.2f} m2")]
    if net is None:
        return [(f"占耕地 {gross:.2f} m2（现状图斑无田坎系数，净面积不详）",
                 f"farmland {gross:.2f} m2 (its parcels give no ridge share, so net is not known)")]  # fmt: skip
    zh, en = f"占耕地 {gross:.2f} m2，扣除田坎后 {net:.2f} m2", f"farmland {gross:.2f} m2, {net:.2f} m2 net of ridges"
    if unknown:
        zh, en = (
            f"{zh}（其中 {unknown:.2f} m2 无田坎系数，按全部计）",
            f"{en} ({unknown:.2f} m2 give no share and count in full)",
        )
    return [(zh, en)]


def _doubt_clauses(verdict: Verdict, context: CheckContext) -> Clauses:
    """Return each doubt by itself: a boundary that may lie elsewhere is not a model that may be wrong."""
    evidence = verdict.evidence
    said: Clauses = []
    if "sum" in verdict.doubts:
        said.append(("合计存疑：计入存疑图斑方达到起点", "doubt of the sum: it is reached only with findings in doubt"))
    if "position" in verdict.doubts:
        span = f"{evidence.net_min or 0:.2f}~{evidence.net_max or 0:.2f} m2"
        said.append(
            (f"位置存疑：净面积区间 {span} 跨过阈值", f"doubt of position: the net area, {span}, spans the threshold")
        )
    if "pair" in verdict.doubts:
        why = context.downgrade_reason or "registration or radiometry"
        said.append((f"影像存疑：影像对降级（{why}）", f"doubt of the images: the pair is downgraded ({why})"))
    if "confidence" in verdict.doubts:
        has, least = f"{verdict.confidence:.2f}", f"{verdict.least_confidence:.2f}"
        zh = f"模型存疑：置信度 {has} 低于 {least}"
        said.append((zh, f"doubt of the model: confidence {has} below {least}"))
    return said


def _evidence_clauses(pack: RulePack, evidence: Evidence) -> Clauses:
    said: Clauses = []
    if evidence.parcels:
        said.append((f"依据地块 {_features(evidence)}", f"features {_features(evidence)}"))
    if evidence.permits:
        said.append((f"批准文件 {_permits(evidence, 0)}", f"permits {_permits(evidence, 1)}"))
    if evidence.exemption:
        area = f"{evidence.exempt or 0:.2f} m2"
        said.append((f"豁免 {area}：{evidence.exemption['zh']}", f"exempt {area}: {evidence.exemption['en']}"))
    if evidence.uncovered is not None and evidence.uncovered > evidence.threshold:
        area = f"{evidence.uncovered:.2f} m2"
        said.append((f"{area} 无现状图斑或地类编码不可识别", f"{area} has no parcel with a known code"))
    if evidence.earlier:
        names = "; ".join(f"{f['code']} {f['valid_from'] or '?'} {f['plan_id']}" for f, _ in evidence.earlier[:_SHOWN])
        said.append((f"此处以往图斑 {names}", f"earlier findings here: {names}"))
    if evidence.cluster is not None:
        zh, en = (_in_units(evidence.cluster, pack, lang) for lang in ("zh", "en"))
        said.append((f"连片新增面积 {zh}", f"new changes around it, itself included: {en}"))
    if evidence.uplifts:
        names = ", ".join(evidence.uplifts)
        said.append((f"按 {names} 提高级别", f"severity raised by {names}"))
    return said


def _total_clauses(pack: RulePack, evidence: Evidence) -> Clauses:
    total = evidence.total
    if not total:
        return []
    who = evidence.actor
    sure, limit = total["sure_m2"], total["min_m2"]
    more = total["possible_m2"] - sure
    title = total["title"]
    zh = (
        f"主体 {who or '不详'} 自 {total['since']} 起 {total['count']} 个图斑{title['zh']}合计 "
        f"{_in_units(sure, pack, 'zh')}，另存疑 {more:.2f} m2，起点 {_in_units(limit, pack, 'zh')}"
    )
    en = (
        f"{total['count']} changes of {who or 'an unknown actor'} since {total['since']}, {title['en']}: "
        f"{_in_units(sure, pack, 'en')} and {more:.2f} m2 in doubt; counts from {_in_units(limit, pack, 'en')}"
    )
    return [(zh, en)]


def _clauses(pack: RulePack, evidence: Evidence, small: float) -> Clauses:
    """Return what the plan says, as (Chinese, English) pairs in order."""
    said = [
        (
            f"缺少图层：{_title(pack, role, 'zh')}，不能视为无问题",
            f"missing layer: {_title(pack, role, 'en')}; not the same as clean",
        )
        for role in evidence.missing
    ]
    said += _total_clauses(pack, evidence) + _area_clauses(pack, evidence) + _evidence_clauses(pack, evidence)
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
    verdict: Verdict, pack: RulePack, context: CheckContext, *, from_class: str, to_class: str, small: float
) -> str:
    """Return the reason as `rule status: Chinese … | English …`.

    Args:
        verdict: the finding.
        pack: the rules.
        context: dates and their notes.
        from_class: the model's class before, supporting evidence only.
        to_class: the model's class after.
        small: the minimum mapping unit that the change falls short of, or 0.
    """
    rule, status = verdict.rule, verdict.status
    clauses = _clauses(pack, verdict.evidence, small) + _doubt_clauses(verdict, context) + context.date_notes(rule)
    if rule.advice and status in {"suspected", "inconclusive"}:
        clauses.append((rule.advice["zh"], rule.advice["en"]))
    zh, en = STATUS[status]
    change = f"{from_class}->{to_class}"
    chinese = "；".join([f"{rule.id} {rule.title['zh']}：{zh}", f"影像变化 {change}", *(c[0] for c in clauses)])
    english = "; ".join([f"{rule.id} {rule.title['en']}: {en}", f"image change {change}", *(c[1] for c in clauses)])
    return f"{chinese} | {english}"


AREAS = ("overlap", "overlap_min", "overlap_max", "net", "net_min", "net_max", "farmland", "farmland_net",
         "ridge_unknown", "permitted", "undated", "exempt", "uncovered", "conform", "nonconform", "threshold",
         "cluster")  # fmt: skip
"""Areas of the trace, m2, with the decimals that decided."""


def trace(verdict: Verdict, pack: RulePack, context: CheckContext) -> str:
    """Return the evidence as JSON: everything needed to judge the finding again (`replay.py` does)."""
    rule, evidence = verdict.rule, verdict.evidence

    def feature(item: dict[str, Any]) -> dict[str, Any]:
        return {key: str(value) if key.startswith("valid_") and value else value for key, value in item.items()}

    def area(name: str) -> float | None:
        value: float | None = getattr(evidence, name)
        return None if value is None else round(value, DECIMALS)

    content = {
        "rule": rule.id, "rule_from": str(rule.effective_from), "status": verdict.status, "pack": pack.name,
        "areas_m2": {name: area(name) for name in AREAS},
        "tolerance_m": round(evidence.tolerance, DECIMALS),
        "tolerance_parts_m": {"image": context.image_accuracy_m, "layer": _layer_part(evidence, context)},
        "missing": evidence.missing, "judged_without": evidence.without,
        "features": [{**feature(f), "area_m2": round(a, DECIMALS)} for f, a in evidence.parcels],
        "permits": [{**feature(f), "area_m2": round(a, DECIMALS), "state": s} for f, a, s in evidence.permits],
        "earlier": [{"finding_id": f["plan_id"], "rule": f["code"], "date": str(f["valid_from"] or ""),
                     "area_m2": round(a, DECIMALS)} for f, a in evidence.earlier],
        "exemption": evidence.exemption, "excess_rule": evidence.excess_rule, "route": rule.route,
        "severity": evidence.severity, "severity_if": evidence.raised, "uplifts": evidence.uplifts,
        "confidence": None if math.isnan(verdict.confidence) else verdict.confidence,
        "least_confidence": verdict.least_confidence, "doubts": verdict.doubts, "total": evidence.total,
        "actor": evidence.actor, "basis_mark": rule.basis.mark, "judged_on": str(context.judged_on),
        "downgraded": context.downgraded,
    }  # fmt: skip
    return json.dumps(content, ensure_ascii=False, sort_keys=True)


def _layer_part(evidence: Evidence, context: CheckContext) -> float:
    """Return what the least accurate layer adds to the tolerance, metres."""
    return round(math.sqrt(max(evidence.tolerance**2 - context.image_accuracy_m**2, 0.0)), DECIMALS)
