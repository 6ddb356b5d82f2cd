"""A rule in words, Chinese or English, made from its data alone; the sentences are in `configs/rule_words.yaml`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import yaml

from tuban.data.classes import class_by_name
from tuban.postprocess.rule_parts import BASELINE, HISTORY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tuban.postprocess.rule_parts import Exemption, Where
    from tuban.postprocess.rules import Rule, RulePack


@cache
def _sentences() -> dict[str, tuple[str, str]]:
    text = files("tuban.configs").joinpath("rule_words.yaml").read_text(encoding="utf-8")
    return {key: (zh, en) for key, (zh, en) in yaml.safe_load(text).items()}


class Words:
    """Puts the names and numbers of a pack into one language."""

    def __init__(self, pack: RulePack, lang: str) -> None:
        """Take the pack whose names are used, and `zh` or `en`."""
        self.pack, self.lang = pack, lang

    def say(self, key: str, **values: object) -> str:
        """Return a sentence with its blanks filled."""
        return _sentences()[key][self.lang != "zh"].format(**values)

    def any_of(self, names: Iterable[str]) -> str:
        """Return names as an enumeration."""
        return ("、" if self.lang == "zh" else " or ").join(names)

    def role(self, role: str) -> str:
        """Return the name of a role of layers."""
        if role == HISTORY:
            return self.say("history")
        return self.pack.zones[role].title[self.lang] if role in self.pack.zones else role

    def roles(self, roles: Iterable[str]) -> str:
        """Return the names of roles as an enumeration."""
        return self.any_of(self.role(role) for role in roles)

    def classes(self, names: tuple[str, ...]) -> str:
        """Return the classes that some classes and class groups stand for."""
        found = sorted((class_by_name(name) for name in self.pack.classes(names)), key=lambda entry: entry.value)
        return self.any_of(entry.zh if self.lang == "zh" else entry.name for entry in found)

    def groups(self, names: tuple[str, ...]) -> str:
        """Return code groups with their patterns."""
        table = self.pack.code_groups[self.pack.class_system]
        return self.any_of(f"{name} ({table[name]})" for name in names)

    def permits(self, kinds: tuple[str, ...]) -> str:
        """Return kinds of permits with their names."""
        return self.any_of(f"{self.pack.permits[k].title[self.lang]} ({k})" for k in kinds)

    def area(self, m2: float) -> str:
        """Return an area in square metres and in the pack's unit."""
        unit = self.pack.unit
        return f"{m2:g} m2 ({m2 / unit.m2:.4g} {unit.name[self.lang]})"

    def where(self, where: Where) -> str:
        """Return a choice of features."""
        text = self.role(where.role)
        if where.groups:
            text = self.say("of_groups", what=text, groups=self.groups(where.groups))
        if where.field:
            text = self.say("of_field", what=text, field=where.field, pattern=where.matches)
        return text


def predicate(rule: Rule, pack: RulePack, lang: str) -> list[str]:
    """Return what a rule asks for and what decides it, one sentence a condition, in the order they are applied."""
    words = Words(pack, lang)
    if rule.uplift:
        names = ", ".join(rule.uplift.of)
        return [words.say("uplift", rules=names, what=words.roles(rule.when.zones), levels=rule.uplift.levels)]
    if rule.total:
        months = rule.total.months
        return [
            words.say("total", months=months, rules=", ".join(limit.of), what=limit.title[lang],
                      size=words.area(limit.min_m2))
            for limit in rule.total.limits
        ]  # fmt: skip
    return [*_change(rule, words), *_place(rule, words), *_net(rule, words), *_severities(rule, words)]


def _change(rule: Rule, words: Words) -> list[str]:
    when, said = rule.when, []
    if when.from_:
        said.append(words.say("from", what=words.classes(when.from_)))
    if when.to:
        said.append(words.say("to", what=words.classes(when.to)))
    if when.min_patch_m2:
        said.append(words.say("min_patch", size=words.area(when.min_patch_m2)))
    if when.max_patch_m2 is not None:
        said.append(words.say("max_patch", size=words.area(when.max_patch_m2)))
    if when.near:
        said.append(words.say("near", far=f"{when.near.within_m:g} m", what=words.where(when.near)))
    if rule.yields_to:
        said.append(words.say("yields", rules=", ".join(rule.yields_to)))
    return said


def _place(rule: Rule, words: Words) -> list[str]:
    when, said = rule.when, []
    if when.zones:
        key = "strip" if when.strip_m else "zones"
        said.append(words.say(key, what=words.roles(when.zones), far=f"{when.strip_m:g} m"))
    if when.at:
        said.append(words.say("at", what=words.any_of(map(words.where, when.at))))
    if when.not_zones:
        said.append(words.say("not_zones", what=words.roles(when.not_zones)))
    if when.baseline:
        said.append(words.say("baseline", what=words.groups(when.baseline)))
    if when.permit_area:
        kinds = words.permits(when.permit_area.kinds)
        said.append(words.say(f"permit_{when.permit_area.state}", what=kinds, years=when.permit_area.years))
    return said


def _exempt(entry: Exemption, words: Words) -> str:
    if entry.at:
        return words.where(entry.at)
    return words.classes(entry.to) if entry.to else f"{words.role(BASELINE)} {words.groups(entry.baseline)}"


def _net(rule: Rule, words: Words) -> list[str]:
    said = [words.say("exempt", what=_exempt(entry, words), why=entry.reason[words.lang]) for entry in rule.exempt]
    if rule.permits:
        said.append(words.say("permits", what=words.permits(rule.permits)))
    if rule.when.permit == "covering":
        said.append(words.say("covering"))
    if rule.excess_rule:
        said.append(words.say("excess", rules=rule.excess_rule))
    return said


def _severities(rule: Rule, words: Words) -> list[str]:
    said = []
    for entry in rule.severity_if:
        if entry.cluster:
            cluster = entry.cluster
            said.append(
                words.say("cluster", far=f"{cluster.within_m:g} m", what=words.classes(cluster.to),
                          size=words.area(cluster.min_m2), severity=entry.severity)
            )  # fmt: skip
        elif entry.at:
            said.append(words.say("severity_at", what=words.where(entry.at), severity=entry.severity))
    return said


def thresholds(rule: Rule, pack: RulePack, lang: str) -> list[str]:
    """Return the numbers that a rule turns on."""
    words = Words(pack, lang)
    if not rule.judges:
        return []
    least = pack.min_confidence if rule.min_confidence is None else rule.min_confidence
    said = [words.say("threshold", size=words.area(pack.threshold_m2(rule)))]
    return [*said, words.say("confidence", least=f"{least:g}")] if least else said


def evidence_needed(rule: Rule, pack: RulePack, lang: str) -> list[str]:
    """Return which layers, fields and permits a rule reads, and what happens without them."""
    words, said = Words(pack, lang), []
    for role in rule.roles():
        effect = "no_uplift" if rule.uplift else rule.if_missing.get(role, "undetermined")
        said.append(f"{role} {words.role(role)}: {words.say(effect)}")
    said += [f"{role} {words.role(role)}: {words.say('without')}" for role in rule.optional_roles()]
    fields = sorted({f"{where.role}.{where.field}" for where in rule.features() if where.field})
    said += [words.say("field", what=name) for name in fields]
    kinds = dict.fromkeys((*rule.permits, *(rule.when.permit_area.kinds if rule.when.permit_area else ())))
    if kinds:
        said.append(words.say("permit_layers", what=", ".join(kinds)))
    if rule.total:
        said.append(words.say("actor", what=", ".join(pack.actor.columns)))
    return said


def mark_meaning(mark: str, lang: str) -> str:
    """Return what the mark of a basis (L, R, K) means."""
    return _sentences()[f"mark_{mark}"][lang != "zh"]
