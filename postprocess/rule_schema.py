"""The schema of a rule pack; `rules.py` reads packs."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic reads the annotation
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tuban.data.class_system import class_system
from tuban.data.classes import class_by_name
from tuban.data.plan_schema import PermitKind  # noqa: TC001 - pydantic reads the annotation
from tuban.errors import RulePackError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Severity = Literal["S1", "S2", "S3", "S4"]
Status = Literal["suspected", "inconclusive", "permitted", "compliant", "undetermined"]
Number = Annotated[float, Field(ge=0)]


def _bilingual(value: dict[str, str]) -> dict[str, str]:
    if set(value) != {"zh", "en"}:
        raise ValueError("give both zh and en")
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


Text = Annotated[dict[str, str], AfterValidator(_bilingual)]
Pattern = Annotated[str, AfterValidator(_pattern)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Part):
    """What a rule looks at; every list is an "any of", an empty one asks nothing.

    Attributes:
        zones: roles that must cover it (the overlap is the part inside any of them).
        not_zones: roles that must not (what is inside is taken off).
        baseline: code groups of the land-use baseline (the overlap is the part on such parcels).
        to, from_: unified classes or class groups of the change.
        permit: `covering`: only where a valid permit covers part of it.
        expired_permit: kinds of permit expired at least `expired_years` ago; the overlap is the part inside those.
    """

    zones: tuple[str, ...] = ()
    not_zones: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    from_: tuple[str, ...] = Field(default=(), alias="from")
    permit: Literal["any", "covering"] = "any"
    expired_permit: tuple[PermitKind, ...] = ()
    expired_years: int = 0


class Exemption(_Part):
    """A reason why the rule is met after all: by class of the change, or for the part on some baseline parcels."""

    reason: Text
    to: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()


class SeverityIf(_Part):
    """Another severity where the overlap meets a zone, or a zone feature whose field matches."""

    severity: Severity
    zone: str
    field: str | None = None
    matches: Pattern | None = None


class Basis(_Part):
    """The text a rule stands on. mark: L read in full, R second-hand, K general knowledge."""

    zh: str
    en: str
    mark: Literal["L", "R", "K"]


class Shape(_Part):
    """A rectangle of a worked example in metres east and north of its origin, and what the feature says."""

    box: tuple[float, float, float, float]
    code: str = ""
    kind: PermitKind | None = None
    valid_from: dt.date | None = None
    valid_to: dt.date | None = None
    fields: dict[str, str] = Field(default_factory=dict)


class Expect(_Part):
    """What a worked example must come to; `status: none` means that there is no finding."""

    status: Status | Literal["none"]
    severity: Severity | None = None
    overlap_m2: Number | None = None
    permitted_m2: Number | None = None


class Example(_Part):
    """A worked case of a rule. Roles that are listed with no shapes are layers without features there."""

    name: str
    kind: Literal["hit", "miss", "permit", "edge"]
    to: str
    from_: str = Field(default="cropland", alias="from")
    box: tuple[float, float, float, float] = (0, 0, 100, 100)
    date: dt.date
    date_before: dt.date | None = None
    accuracy_m: Number = 0.0
    zones: dict[str, tuple[Shape, ...]] = Field(default_factory=dict)
    permits: tuple[Shape, ...] = ()
    expect: Expect


class Rule(_Part):
    """One dated rule."""

    id: str
    title: Text
    effective_from: dt.date
    effective_to: dt.date | None = None
    when: When
    permits: tuple[PermitKind, ...] = ()
    area_basis: Literal["net"] = "net"
    min_area_m2: Number = 0.0
    severity: Severity
    severity_if: tuple[SeverityIf, ...] = ()
    exempt: tuple[Exemption, ...] = ()
    if_missing: dict[str, Literal["undetermined", "without"]] = Field(default_factory=dict)
    excess_rule: str | None = None
    advice: Text | None = None
    basis: Basis
    route: str
    examples: tuple[Example, ...] = ()

    def in_force(self, date: dt.date) -> bool:
        """Say whether the rule is in force on a day; the last day counts."""
        return self.effective_from <= date and (self.effective_to is None or date <= self.effective_to)

    def roles(self) -> tuple[str, ...]:
        """Return the plan roles the rule reads, permits apart."""
        baseline = ("land_use_baseline",) if self.when.baseline or any(e.baseline for e in self.exempt) else ()
        return (*self.when.zones, *self.when.not_zones, *baseline)


class Permit(_Part):
    """How long a kind of permit lasts where it states no end; None: until it is revoked."""

    title: Text
    default_years: int | None = None


class Unit(_Part):
    """The unit of area of the jurisdiction."""

    name: Text
    m2: Annotated[float, Field(gt=0)]


class RulePack(_Part):
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
    class_groups: dict[str, tuple[str, ...]]
    code_groups: dict[str, dict[str, Pattern]]
    zones: dict[str, Text]
    permits: dict[PermitKind, Permit]
    min_mapping_unit_m2: dict[str, Number]
    rules: tuple[Rule, ...] = Field(min_length=1)
    source: str = Field(default="", exclude=True)

    @property
    def name(self) -> str:
        """`id@version`, as findings carry it."""
        return f"{self.id}@{self.version}"

    def in_force(self, date: dt.date) -> tuple[Rule, ...]:
        """Return the rules in force on a day (the construction date, not the day of the run)."""
        return tuple(rule for rule in self.rules if rule.in_force(date))

    def rule(self, rule_id: str) -> Rule:
        """Return one rule.

        Raises:
            RulePackError: the pack has no such rule.
        """
        for rule in self.rules:
            if rule.id == rule_id:
                return rule
        raise RulePackError(f"rule pack {self.name}: no rule {rule_id!r}; it has {', '.join(r.id for r in self.rules)}")

    def classes(self, names: tuple[str, ...]) -> frozenset[str]:
        """Return the unified classes that `names` (classes or class groups) stand for."""
        return frozenset(name for entry in names for name in self.class_groups.get(entry, (entry,)))

    def in_group(self, code: str, groups: tuple[str, ...], system: str) -> bool:
        """Say whether a land-use code belongs to any of some code groups of a class system."""
        table = self.code_groups.get(system, {})
        return any(re.match(table[group], code) for group in groups if group in table)

    @model_validator(mode="after")
    def _names_exist(self) -> RulePack:
        class_system(self.class_system)
        for name in [n for group in self.class_groups.values() for n in group]:
            class_by_name(name)
        ids = [rule.id for rule in self.rules]
        if len(set(ids)) != len(ids):
            raise ValueError(f"rule ids repeat: {', '.join(sorted({i for i in ids if ids.count(i) > 1}))}")
        groups = self.code_groups.get(self.class_system, {})
        for rule in self.rules:
            for name in self.classes((*rule.when.to, *rule.when.from_, *(n for e in rule.exempt for n in e.to))):
                class_by_name(name)
            baseline = (*rule.when.baseline, *(g for e in rule.exempt for g in e.baseline))
            zones = (*rule.when.zones, *rule.when.not_zones, *(s.zone for s in rule.severity_if))
            _known(rule.id, "code group", baseline, groups)
            _known(rule.id, "zone", (*zones, *rule.if_missing), self.zones)
            _known(rule.id, "permit kind", (*rule.permits, *rule.when.expired_permit), self.permits)
            _known(rule.id, "rule", (rule.excess_rule,) if rule.excess_rule else (), ids)
        return self


def _known(rule: str, what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"rule {rule}: no {what} {name!r}; known: {', '.join(known)}")
