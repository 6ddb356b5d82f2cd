"""What a rule pack says, for people: its rules in a list, one rule in words, examples that it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuban.postprocess.rule_words import evidence_needed, mark_meaning, predicate, thresholds

if TYPE_CHECKING:
    import datetime as dt

    from tuban.postprocess.rules import Rule, RulePack


def rule_rows(pack: RulePack, date: dt.date | None = None, lang: str = "zh") -> list[dict[str, Any]]:
    """Return one row a rule: id, title, dates, severity, mark of its basis, route and number of examples.

    Args:
        pack: the rules.
        date: only those in force on that day; None lists all versions.
        lang: of the titles, `zh` or `en`.
    """
    rules = pack.rules if date is None else pack.in_force(date)
    return [
        {
            "id": rule.id, "title": rule.title[lang], "effective_from": str(rule.effective_from),
            "effective_to": str(rule.effective_to or ""), "severity": _severity(rule), "mark": rule.basis.mark,
            "route": rule.route, "examples": len(rule.examples),
        }
        for rule in rules
    ]  # fmt: skip


def explain(pack: RulePack, rule_id: str, date: dt.date | None = None, lang: str = "zh") -> dict[str, Any]:
    """Return one rule in words.

    Args:
        pack: the rules.
        rule_id: the rule.
        date: the version in force on that day; None takes the latest.
        lang: `zh` or `en`.

    Returns:
        JSON-ready: `predicate` and `thresholds` (sentences), `basis`, `mark`, dates, `versions`, `needs` (roles, permit
        kinds and fields), `examples`.

    Raises:
        RulePackError: no such rule, or none on that day.
    """
    rule = pack.rule(rule_id, date)
    versions = [r for r in pack.rules if r.id == rule_id]
    return {
        "id": rule.id, "pack": pack.name, "title": rule.title[lang],
        "effective_from": str(rule.effective_from), "effective_to": str(rule.effective_to or ""),
        "versions": [f"{r.effective_from} ~ {r.effective_to or ''}" for r in versions],
        "severity": _severity(rule), "route": rule.route,
        "predicate": predicate(rule, pack, lang), "thresholds": thresholds(rule, pack, lang),
        "basis": rule.basis.model_dump()[lang], "mark": rule.basis.mark,
        "mark_means": mark_meaning(rule.basis.mark, lang),
        "advice": rule.advice[lang] if rule.advice else "",
        "needs": evidence_needed(rule, pack, lang),
        "examples": [
            {"kind": e.kind, "name": e.name, "from": e.from_, "to": e.to, "date": str(e.date),
             "expect": e.expect.model_dump(exclude_none=True)}
            for e in rule.examples
        ],
    }  # fmt: skip


def lacking(pack: RulePack, kinds: tuple[str, ...] = ("hit", "miss", "permit", "edge")) -> list[str]:
    """Return which rules lack a kind of worked example, one line each."""
    found = []
    for rule in pack.rules:
        absent = [kind for kind in kinds if kind not in {e.kind for e in rule.examples}]
        if absent:
            found.append(f"{rule.id} (from {rule.effective_from}): no example of kind {', '.join(absent)}")
    return found


def _severity(rule: Rule) -> str:
    higher = sorted({entry.severity for entry in rule.severity_if if entry.severity > rule.severity})
    if rule.uplift:
        return f"+{rule.uplift.levels}"
    return "–".join([rule.severity, *higher[-1:]])
