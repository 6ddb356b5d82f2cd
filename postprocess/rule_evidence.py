"""What a rule found under a change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Feature = dict[str, Any]
"""A plan feature as `overlay.Pieces.rows` describes it: plan_id, code, name, system, layer, kind, dates, values."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one rule found under one change; areas in m2, rounded as they decide, None where a layer is missing.

    Attributes:
        row: the change, as its position in the batch.
        status: what the areas come to (`verdict.decide`), before the doubts about image and model.
        overlap, overlap_min, overlap_max: where the rule looks, within the outline as drawn, shrunk, and grown.
        net, net_min, net_max: what is left of it without exemptions and valid permits.
        permitted, exempt, undated: under valid permits; exempt; under permits without a date. overlap = exempt +
            permitted + net.
        farmland, farmland_net: farmland in the place, gross and without ridges.
        ridge_unknown: farmland whose parcels give no ridge share; it counts in full in `farmland_net`.
        uncovered: without a parcel of a known code.
        conform, nonconform: parts of `net` inside and outside the pack's conformity zone.
        threshold, tolerance: m2 and m.
        missing, without: roles that are not there and prevent a judgement, or do not.
        raised: positions in the rule's `severity_if` that hold; `uplifts`: rules that raise the severity.
        excess_rule: the rule that judges what lies beyond a partial permit.
        cluster: new area around the change, itself included, where the rule asks for it.
        parcels, permits, earlier: features below, with the area of each (and a permit's state).
        total: the sum that a `total` rule came to.
        point: a geometry that the finding's point is taken from.
    """

    row: int
    status: str
    overlap: float | None = None
    overlap_min: float | None = None
    overlap_max: float | None = None
    net: float | None = None
    net_min: float | None = None
    net_max: float | None = None
    permitted: float | None = None
    undated: float | None = None
    exempt: float | None = None
    farmland: float | None = None
    farmland_net: float | None = None
    ridge_unknown: float | None = None
    uncovered: float | None = None
    conform: float | None = None
    nonconform: float | None = None
    threshold: float = 0.0
    tolerance: float = 0.0
    missing: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    exemption: dict[str, str] | None = None
    severity: str = ""
    raised: tuple[int, ...] = ()
    uplifts: tuple[str, ...] = ()
    excess_rule: str | None = None
    cluster: float | None = None
    parcels: tuple[tuple[Feature, float], ...] = ()
    permits: tuple[tuple[Feature, float, str], ...] = ()
    earlier: tuple[tuple[Feature, float], ...] = ()
    total: dict[str, Any] | None = None
    actor: str = ""
    point: Any = field(default=None, compare=False)
