"""Rule packs: dated rules of one jurisdiction, as data."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic reads the annotation
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tuban.data.class_system import class_system
from tuban.data.classes import class_by_name
from tuban.data.plan_schema import PermitKind
from tuban.errors import RulePackError

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
            for group in (*rule.when.baseline, *(g for e in rule.exempt for g in e.baseline)):
                if group not in groups:
                    raise ValueError(f"rule {rule.id}: no code group {group!r}; known: {', '.join(groups)}")
            for role in (*rule.when.zones, *rule.when.not_zones, *(s.zone for s in rule.severity_if)):
                if role not in self.zones:
                    raise ValueError(f"rule {rule.id}: no zone {role!r}; known: {', '.join(self.zones)}")
            for kind in (*rule.permits, *rule.when.expired_permit):
                if kind not in self.permits:
                    raise ValueError(f"rule {rule.id}: no permit kind {kind!r}; known: {', '.join(self.permits)}")
            if rule.excess_rule and rule.excess_rule not in ids:
                raise ValueError(f"rule {rule.id}: excess_rule {rule.excess_rule!r} is not a rule of the pack")
        return self


def pack_names() -> tuple[str, ...]:
    """Return the names of the shipped packs, sorted."""
    folder = files("tuban.configs").joinpath("rules")
    return tuple(sorted(e.name.removesuffix(".yaml") for e in folder.iterdir() if e.name.endswith(".yaml")))


def load_pack(name_or_path: str | Path) -> RulePack:
    """Return a shipped pack by name, or one from a YAML file.

    Raises:
        RulePackError: no such pack, or an error in it; the message gives file, line, key and remedy.
    """
    text, source = _pack_text(name_or_path)
    try:
        content = yaml.safe_load(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise RulePackError(f"{source}: not valid YAML ({' '.join(str(error).split())}); mend the syntax") from error
    if not isinstance(content, dict):
        raise RulePackError(f"{source}:1: expected a mapping with id, version, rules; docs/rules.md shows one")
    try:
        return RulePack.model_validate({**content, "source": source})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "pack"
        message = first["msg"].removeprefix("Value error, ")
        line = _line(tree, first["loc"], message)
        value = "" if first["type"] in {"missing", "value_error"} else f" (got {first['input']!r:.60})"
        raise RulePackError(f"{source}:{line}: {key}: {message}{value}; docs/rules.md lists what is accepted") from error
    except ValueError as error:  # an unknown class or class system named by the pack
        raise RulePackError(f"{source}:{_line(tree, (), str(error))}: {error}") from error


def _pack_text(name_or_path: str | Path) -> tuple[str, str]:
    if str(name_or_path) in pack_names():
        resource = files("tuban.configs").joinpath("rules", f"{name_or_path}.yaml")
        return resource.read_text(encoding="utf-8"), f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if not path.is_file():
        raise RulePackError(f"no rule pack {str(name_or_path)!r}; use one of {', '.join(pack_names())}, or a YAML file")
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except UnicodeDecodeError as error:
        raise RulePackError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error


def _line(tree: Any, loc: tuple[Any, ...], message: str) -> int:
    """Return the line (from 1) of the deepest YAML node on the way to `loc`, or of the value a message quotes."""
    node, line = tree, tree.start_mark.line
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    quoted = re.search(r"'([^']+)'", message)
    rule = re.match(r"rule (\w+):", message)
    if not loc and quoted:
        line = _find(tree, quoted.group(1), after=_find(tree, rule.group(1), after=0) if rule else 0)
    return int(line) + 1


def _find(node: Any, text: str, after: int) -> int:
    """Return the first line from `after` on that holds a scalar `text`, else `after`."""
    if isinstance(node, yaml.ScalarNode):
        return int(node.start_mark.line) if node.value == text and node.start_mark.line >= after else after
    children = [c for pair in node.value for c in pair] if isinstance(node, yaml.MappingNode) else node.value
    for child in children:
        if (line := _find(child, text, after)) > after or (
            isinstance(child, yaml.ScalarNode) and child.value == text and child.start_mark.line == after
        ):
            return line
    return after
