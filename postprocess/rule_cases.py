"""The worked examples of a rule, as a pack writes them; `rule_examples.py` runs them."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic reads the annotation
from typing import Literal

from pydantic import Field

from tuban.postprocess.rule_parts import Code, Number, Part, Severity, Share, Status

Box = tuple[float, float, float, float]


class Shape(Part):
    """A rectangle of a worked example in metres east and north of its origin, and what the feature says."""

    box: Box
    code: str = ""
    kind: Code | None = None
    valid_from: dt.date | None = None
    valid_to: dt.date | None = None
    fields: dict[str, str] = Field(default_factory=dict)


class Past(Part):
    """An earlier finding in a worked example."""

    box: Box
    rule: str
    date: dt.date
    net_m2: Number
    status: Status = "suspected"
    actor: str = ""
    judgement: str = ""


class Neighbour(Part):
    """Another change of the same run in a worked example."""

    box: Box
    to: str


class Expect(Part):
    """What a worked example must come to; `status: none` means that there is no finding."""

    status: Status | Literal["none"]
    severity: Severity | None = None
    overlap_m2: Number | None = None
    permitted_m2: Number | None = None
    net_m2: Number | None = None
    farmland_net_m2: Number | None = None


class Example(Part):
    """A worked case of a rule. Roles that are listed with no shapes are layers without features there.

    Attributes:
        finding: the rule whose finding is looked at, where it is not the rule itself (uplifts have none).
    """

    name: str
    kind: Literal["hit", "miss", "permit", "edge"]
    to: str
    from_: str = Field(default="cropland", alias="from")
    box: Box = (0, 0, 100, 100)
    date: dt.date
    date_before: dt.date | None = None
    accuracy_m: Number = 0.0
    confidence: Share = 1.0
    actor: str = ""
    zones: dict[Code, tuple[Shape, ...]] = Field(default_factory=dict)
    permits: tuple[Shape, ...] = ()
    history: tuple[Past, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    finding: str | None = None
    expect: Expect
