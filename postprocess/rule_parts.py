"""The parts that rules and rule packs are made of; `rule_schema.py` puts them together."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Severity = Literal["S1", "S2", "S3", "S4"]
Status = Literal["suspected", "inconclusive", "permitted", "compliant", "undetermined"]
Absence = Literal["undetermined", "without", "skip"]
Number = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

BASELINE, PERMIT, HISTORY, CHANGES = "land_use_baseline", "permit", "history", "changes"
"""The roles that mean the same in every jurisdiction: parcels, permits, earlier findings, the run's own changes."""


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


class Part(BaseModel):
    """A frozen piece of a pack in which a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Where(Part):
    """Features of a role: all of them, or those of some code groups, or those whose field matches."""

    role: Code
    groups: tuple[str, ...] = ()
    field: str | None = None
    matches: Pattern | None = None

    @model_validator(mode="after")
    def _field_and_pattern(self) -> Where:
        if (self.field is None) != (self.matches is None):
            raise ValueError("field and matches go together: give both or neither")
        return self


class Near(Where):
    """Features of a role that must lie within some metres of the change (0 < metres)."""

    within_m: Annotated[float, Field(gt=0)]


class PermitArea(Part):
    """The part inside permits of some kinds that are valid, or ended at least `years` ago, on the day judged."""

    kinds: tuple[Code, ...] = Field(min_length=1)
    state: Literal["valid", "expired"]
    years: int = Field(default=0, ge=0)


class Cluster(Part):
    """New changes of some classes within some metres of a change, itself included, that reach an area together."""

    to: tuple[str, ...] = Field(min_length=1)
    within_m: Annotated[float, Field(gt=0)]
    min_m2: Annotated[float, Field(gt=0)]


class When(Part):
    """What a rule looks at; every list is an "any of", an empty one asks nothing.

    Attributes:
        zones: roles that must cover it (the overlap is the part inside any of them).
        not_zones: roles that must not (what is inside is taken off).
        strip_m: the zones count with a strip of so many metres around them.
        at: the overlap is the part on such features.
        baseline: code groups of the land-use baseline (the overlap is the part on such parcels).
        near: features that must lie within some metres of the change.
        to, from_: unified classes or class groups of the change.
        min_patch_m2, max_patch_m2: size of the whole change.
        permit: `covering`: only where a valid permit covers part of it.
        permit_area: the overlap is the part inside such permits.
    """

    zones: tuple[Code, ...] = ()
    not_zones: tuple[Code, ...] = ()
    strip_m: Number = 0.0
    at: tuple[Where, ...] = ()
    baseline: tuple[str, ...] = ()
    near: Near | None = None
    to: tuple[str, ...] = ()
    from_: tuple[str, ...] = Field(default=(), alias="from")
    min_patch_m2: Number = 0.0
    max_patch_m2: Number | None = None
    permit: Literal["any", "covering"] = "any"
    permit_area: PermitArea | None = None


class Exemption(Part):
    """A reason why the rule is met after all: by class of the change, or for the part on some parcels or features."""

    reason: Text
    to: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()
    at: Where | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Exemption:
        if sum(map(bool, (self.to, self.baseline, self.at))) != 1:
            raise ValueError("an exemption names one of to, baseline, at")
        return self


class SeverityIf(Part):
    """A higher severity where the overlap meets such features, or where the change is part of a cluster."""

    severity: Severity
    at: Where | None = None
    cluster: Cluster | None = None

    @model_validator(mode="after")
    def _one_of(self) -> SeverityIf:
        if (self.at is None) == (self.cluster is None):
            raise ValueError("severity_if names one of at, cluster")
        return self


class Uplift(Part):
    """Findings of some rules whose overlap meets the zones of `when` are so many levels more severe (S4 at most)."""

    of: tuple[str, ...] = Field(min_length=1)
    levels: int = Field(default=1, ge=1, le=3)


class Limit(Part):
    """An area that the findings of some rules may reach together; a change counts once, with its largest net area."""

    title: Text
    of: tuple[str, ...] = Field(min_length=1)
    min_m2: Annotated[float, Field(gt=0)]


class Total(Part):
    """Sums of the unresolved findings of one actor over the months up to the day judged."""

    by: Literal["actor"] = "actor"
    months: int = Field(ge=1)
    limits: tuple[Limit, ...] = Field(min_length=1)


class Basis(Part):
    """The text a rule stands on. mark: L read in full, R second-hand, K general knowledge, not verified."""

    zh: str
    en: str
    mark: Literal["L", "R", "K"]


class Permit(Part):
    """A kind of permit.

    Attributes:
        title: its name.
        default_years: how long it lasts where it states no end; None: until it is revoked.
        coverage: `area`: what lies inside its outline; `whole`: the whole change that it touches.
    """

    title: Text
    default_years: int | None = Field(default=None, ge=0)
    coverage: Literal["area", "whole"] = "area"


class Unit(Part):
    """The unit of area of the jurisdiction."""

    name: Text
    m2: Annotated[float, Field(gt=0)]


class Zone(Part):
    """A role of plan layers: its name, the fields that rules read, and the unit of stated areas."""

    title: Text
    fields: tuple[str, ...] = ()
    unit: str = "m2"


class Ridge(Part):
    """Fields of baseline parcels that say how much of the gross area is no field (ridges, ditches, margins).

    Attributes:
        share: field of the share, 0 to below 1.
        area, of: fields of that area and of the parcel's, used where the share is empty.
    """

    share: str | None = None
    area: str | None = None
    of: str | None = None


class Farmland(Part):
    """What counts as farmland in `farmland_m2`: code groups of the baseline, and how gross becomes net."""

    groups: tuple[str, ...] = ("farmland",)
    ridge: Ridge = Ridge()


class Actor(Part):
    """Where the one who acted is named: columns of the changes, then fields of the features under the overlap."""

    columns: tuple[str, ...] = ("actor",)
    fields: dict[Code, tuple[str, ...]] = Field(default_factory=dict)


class EdgeTolerance(Part):
    """Positional tolerance of a boundary on a map, in millimetres of the map (times its scale: metres)."""

    clear_mm: Number = 0.0
    unclear_mm: Number = 0.0


class Judgement(Part):
    """A verdict that people give; a resolved one takes the finding out of later sums."""

    title: Text
    resolved: bool = False
