"""The schema of a rule and of a rule pack; `rule_parts.py` has their parts, `rules.py` reads packs."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic reads the annotation
import re
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from tuban.data.class_system import class_system
from tuban.data.classes import class_by_name
from tuban.errors import RulePackError
from tuban.postprocess.rule_cases import Example  # noqa: TC001 - pydantic reads the annotation
from tuban.postprocess.rule_parts import (
    BASELINE,
    HISTORY,
    Absence,
    Actor,
    Basis,
    Code,
    EdgeTolerance,
    Exemption,
    Farmland,
    Judgement,
    Number,
    Part,
    Pattern,
    Permit,
    Severity,
    SeverityIf,
    Share,
    Text,
    Total,
    Unit,
    Uplift,
    When,
    Where,
    Zone,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Rule(Part):
    """One dated rule: it judges areas, or raises the severity of others (`uplift`), or sums them (`total`).

    Attributes:
        permits: kinds that make it lawful where they are valid.
        min_area_m2: net areas up to this (and the pack's tolerance) are no finding.
        min_confidence: below it a suspicion is inconclusive; None takes the pack's.
        if_missing: what happens where the plan lacks a role: `undetermined` (a finding that says so; the default),
            `without` (judged by the other layers, and said) or `skip` (the rule is left out, and the run says so).
        excess_rule: the rule that judges what lies beyond a partial permit.
        yields_to: rules that judge a change instead of this one where they apply to it.
    """

    id: str
    title: Text
    effective_from: dt.date
    effective_to: dt.date | None = None
    when: When = When()
    permits: tuple[Code, ...] = ()
    area_basis: str = Field(default="net", pattern="^net$")
    min_area_m2: Number = 0.0
    min_confidence: Share | None = None
    severity: Severity
    severity_if: tuple[SeverityIf, ...] = ()
    exempt: tuple[Exemption, ...] = ()
    if_missing: dict[Code, Absence] = Field(default_factory=dict)
    excess_rule: str | None = None
    yields_to: tuple[str, ...] = ()
    uplift: Uplift | None = None
    total: Total | None = None
    advice: Text | None = None
    basis: Basis
    route: str
    examples: tuple[Example, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _example_base(cls, content: Any) -> Any:
        """Lay each example over `example_base`, which says what most of them share."""
        if not isinstance(content, dict) or "example_base" not in content:
            return content
        base, rest = content["example_base"], {k: v for k, v in content.items() if k != "example_base"}
        if not isinstance(base, dict) or not isinstance(rest.get("examples", []), list):
            raise ValueError("example_base is a mapping of what the list examples shares")  # noqa: TRY004 - pydantic's
        return rest | {"examples": [base | e if isinstance(e, dict) else e for e in rest.get("examples", [])]}

    @model_validator(mode="after")
    def _makes_sense(self) -> Rule:
        if self.effective_to is not None and self.effective_to < self.effective_from:
            raise ValueError(f"effective_to {self.effective_to} is before effective_from {self.effective_from}")
        if self.uplift and self.total:
            raise ValueError("a rule has uplift or total, not both")
        if self.uplift and not self.when.zones:
            raise ValueError("an uplift needs when.zones: where it holds")
        if self.when.strip_m and not self.when.zones:
            raise ValueError("strip_m widens zones: name them in when.zones")
        return self

    def in_force(self, date: dt.date) -> bool:
        """Say whether the rule is in force on a day; the last day counts."""
        return self.effective_from <= date and (self.effective_to is None or date <= self.effective_to)

    @property
    def judges(self) -> bool:
        """Whether it judges areas itself."""
        return self.uplift is None and self.total is None

    def features(self) -> tuple[Where, ...]:
        """Return every choice of features that the rule makes by field or code group."""
        near = (self.when.near,) if self.when.near else ()
        raising = (entry.at for entry in self.severity_if if entry.at)
        exempt = (entry.at for entry in self.exempt if entry.at)
        return (*self.when.at, *near, *raising, *exempt)

    def roles(self) -> tuple[str, ...]:
        """Return the plan roles that decide, permits apart; `optional_roles` are read where they are there."""
        baseline = (BASELINE,) if self.when.baseline else ()
        near = (self.when.near.role,) if self.when.near else ()
        names = (*self.when.zones, *self.when.not_zones, *(w.role for w in self.when.at), *near, *baseline)
        return tuple(dict.fromkeys(names))

    def optional_roles(self) -> tuple[str, ...]:
        """Return the roles that only exemptions ask for: without them the rule judges, and says so."""
        wanted = [e.at.role if e.at else BASELINE for e in self.exempt if e.at or e.baseline]
        return tuple(role for role in dict.fromkeys(wanted) if role not in self.roles())


class RulePack(Part):
    """Dated rules of one jurisdiction, with the groups of classes and codes they speak of."""

    id: str
    version: str
    jurisdiction: str
    title: Text
    effective_from: dt.date
    effective_to: dt.date | None = None
    class_system: str
    unit: Unit
    area_tolerance_m2: Number
    min_confidence: Share = 0.0
    class_groups: dict[str, tuple[str, ...]]
    code_groups: dict[str, dict[str, Pattern]]
    farmland: Farmland = Farmland()
    conformity: Code | None = None
    actor: Actor = Actor()
    edge_tolerance: EdgeTolerance = EdgeTolerance()
    zones: dict[Code, Zone]
    permits: dict[Code, Permit]
    judgements: dict[Code, Judgement] = Field(default_factory=dict)
    min_mapping_unit_m2: dict[str, Number]
    rules: tuple[Rule, ...] = Field(min_length=1)
    source: str = Field(default="", exclude=True)
    sha256: str = Field(default="", exclude=True)

    @property
    def name(self) -> str:
        """`id@version`, as findings carry it."""
        return f"{self.id}@{self.version}"

    def facts(self) -> dict[str, Any]:
        """Return what `run.json` records: enough to know the pack again and to say its rules' names."""
        titles = {rule.id: dict(rule.title) for rule in self.rules}
        return {"id": self.id, "version": self.version, "jurisdiction": self.jurisdiction, "sha256": self.sha256,
                "effective_from": str(self.effective_from), "titles": titles}  # fmt: skip

    def in_force(self, date: dt.date) -> tuple[Rule, ...]:
        """Return the rules in force on a day (the construction date, not the day of the run)."""
        if date < self.effective_from or (self.effective_to is not None and date > self.effective_to):
            return ()
        return tuple(rule for rule in self.rules if rule.in_force(date))

    def rule(self, rule_id: str, date: dt.date | None = None) -> Rule:
        """Return one rule: the version in force on a day, or the latest.

        Raises:
            RulePackError: the pack has no such rule, or none on that day.
        """
        versions = sorted((r for r in self.rules if r.id == rule_id), key=lambda r: r.effective_from)
        if not versions:
            known = ", ".join(dict.fromkeys(r.id for r in self.rules))
            raise RulePackError(f"rule pack {self.name}: no rule {rule_id!r}; it has {known}")
        held = versions if date is None else [r for r in versions if r.in_force(date)]
        if not held:
            spans = ", ".join(f"{r.effective_from} to {r.effective_to or 'today'}" for r in versions)
            raise RulePackError(f"rule {rule_id} of {self.name} is not in force on {date}; it is from {spans}")
        return held[-1]

    def classes(self, names: tuple[str, ...]) -> frozenset[str]:
        """Return the unified classes that `names` (classes or class groups) stand for."""
        return frozenset(name for entry in names for name in self.class_groups.get(entry, (entry,)))

    def in_group(self, code: str, groups: tuple[str, ...], system: str | None) -> bool:
        """Say whether a land-use code belongs to any of some code groups of a class system."""
        table = self.code_groups.get(system or self.class_system, {})
        return any(re.match(table[group], code) for group in groups if group in table)

    def threshold_m2(self, rule: Rule) -> float:
        """Return the net area up to which a rule finds nothing."""
        return max(rule.min_area_m2, self.area_tolerance_m2)

    @model_validator(mode="after")
    def _names_exist(self) -> RulePack:
        class_system(self.class_system)
        for name in [n for group in self.class_groups.values() for n in group]:
            class_by_name(name)
        groups = self.code_groups.get(self.class_system, {})
        _known("farmland", "code group", self.farmland.groups, groups)
        _known("conformity", "zone", (self.conformity,) if self.conformity else (), self.zones)
        for one, other in combinations(self.rules, 2):
            if one.id == other.id and _meet(one, other):
                raise ValueError(f"rule ids repeat: {one.id}: its versions are in force on the same days")
        for rule in self.rules:
            self._rule_names(rule, groups)
        return self

    def _rule_names(self, rule: Rule, groups: dict[str, str]) -> None:
        """Check that everything a rule names is there."""
        ids = {r.id: r for r in self.rules}
        clusters = [s.cluster for s in rule.severity_if if s.cluster]
        exempt = (name for entry in rule.exempt for name in entry.to)
        used = (*rule.when.to, *rule.when.from_, *exempt, *(name for cluster in clusters for name in cluster.to))
        for name in self.classes(used):
            class_by_name(name)
        features = rule.features()
        baseline = (*rule.when.baseline, *(g for e in rule.exempt for g in e.baseline))
        _known(rule.id, "code group", (*baseline, *(g for w in features for g in w.groups)), groups)
        roles = (*rule.roles(), *(w.role for w in features), *rule.if_missing)
        _known(rule.id, "zone", roles, (*self.zones, HISTORY))
        for where in features:
            if where.field and where.role in self.zones:
                _known(rule.id, f"field of {where.role}", (where.field,), self.zones[where.role].fields)
        kinds = rule.when.permit_area.kinds if rule.when.permit_area else ()
        _known(rule.id, "permit kind", (*rule.permits, *kinds), self.permits)
        others = (*rule.yields_to, *((rule.excess_rule,) if rule.excess_rule else ()))
        others += rule.uplift.of if rule.uplift else ()
        others += tuple(name for limit in rule.total.limits for name in limit.of) if rule.total else ()
        _known(rule.id, "rule", others, ids)
        for name in rule.yields_to:
            if ids[name].yields_to:
                raise ValueError(f"rule {rule.id}: {name!r} yields to another rule itself; name that one")


def _meet(one: Rule, other: Rule) -> bool:
    """Say whether two rules are ever in force on the same day."""
    first, second = sorted((one, other), key=lambda rule: rule.effective_from)
    return first.effective_to is None or first.effective_to >= second.effective_from


def _known(rule: str, what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"rule {rule}: no {what} {name!r}; known: {', '.join(known) or 'none'}")
