"""What the check is told (settings, context) and what it tells (stats)."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tuban.errors import PairError, VectorError
from tuban.postprocess.overlay import OverlayCounts

if TYPE_CHECKING:
    from tuban.data.plan import PlanLayer
    from tuban.postprocess.rules import Rule


class CheckSettings(BaseModel):
    """Settings of the check.

    Attributes:
        min_confidence: below this calibrated confidence a suspected finding becomes inconclusive; a stricter minimum of
            the pack or of a rule counts instead.
        batch_size: changes overlaid at a time; larger batches from the caller are cut.
        history: findings of earlier runs (a findings.gpkg, or the folder of a run).
        map_scale: denominator of the scale that plan layers without `accuracy_m` were drawn at; with it the pack's edge
            tolerance (millimetres of the map) is their accuracy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_confidence: float = Field(default=0.0, ge=0, le=1)
    batch_size: int = Field(default=2000, ge=1)
    history: Path | None = None
    map_scale: int | None = Field(default=None, ge=100)


@dataclass(frozen=True)
class CheckContext:
    """What is known of the pair that the changes come from.

    Attributes:
        date_before: of the earlier scene.
        date_after: of the later scene; without it the day of the run decides which rules are in force.
        image_accuracy_m: positional accuracy of change outlines, metres (half a pixel and the registration residual,
            as the root of the sum of squares).
        model_id: model and version, empty for changes from elsewhere.
        run_date: day of the run.
        downgraded: the pair cannot carry a suspicion (registration or radiometry); suspected becomes inconclusive.
        downgrade_reason: why, (Chinese, English) or one text.
        history: earlier findings as a layer, instead of those that the settings name.
    """

    date_before: dt.date | None = None
    date_after: dt.date | None = None
    image_accuracy_m: float = 0.0
    model_id: str = ""
    run_date: dt.date = field(default_factory=lambda: dt.datetime.now(tz=dt.UTC).date())
    downgraded: bool = False
    downgrade_reason: str = ""
    history: PlanLayer | None = None

    def __post_init__(self) -> None:
        if self.date_before and self.date_after and self.date_before > self.date_after:
            raise PairError(f"date_before {self.date_before} is after date_after {self.date_after}; swap them")
        if not self.image_accuracy_m >= 0:
            raise VectorError(f"image_accuracy_m {self.image_accuracy_m}: give metres, 0 or more")

    @property
    def judged_on(self) -> dt.date:
        """The day whose rules and permits count: the later scene's, else the day of the run."""
        return self.date_after or self.run_date

    def date_notes(self, rule: Rule) -> list[tuple[str, str]]:
        """Return what has to be said about dates in a finding by `rule`, as (Chinese, English)."""
        said = []
        if self.date_after is None:
            said.append(
                (
                    f"无后时相日期，按运行日 {self.run_date} 的规则判定",
                    f"no date of the later scene; rules of the day of the run, {self.run_date}",
                )
            )
        start = rule.effective_from
        if self.date_before and self.date_before < start <= self.judged_on:
            zh = f"规则自 {start} 起施行，处于两时相之间，需核实动工日期"
            said.append((zh, f"the rule began on {start}, between the two dates: check when work began"))
        return said


@dataclass
class CheckStats:
    """What the check met; filled while findings are drawn, lands in `run.json`.

    Attributes:
        judged_on: the day whose rules and permits counted.
        doubts: findings kept from being suspected, by `rule:doubt`.
        actors_unknown: changes that a sum per actor would have counted, had it known the actor.
        earlier: earlier findings under the changes, by rule: places that were to be looked at again and were.
    """

    changes: int = 0
    findings: Counter[str] = field(default_factory=Counter)
    overlay: OverlayCounts = field(default_factory=OverlayCounts)
    judged_on: str = ""
    rules_in_force: tuple[str, ...] = ()
    doubts: Counter[str] = field(default_factory=Counter)
    actors_unknown: int = 0
    earlier: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "judged_on": self.judged_on,
            "changes": self.changes, "findings": dict(sorted(self.findings.items())),
            "doubts": dict(sorted(self.doubts.items())), "actors_unknown": self.actors_unknown,
            "earlier_findings_met": dict(sorted(self.earlier.items())),
            "topology_fallbacks": self.overlay.topology_fallbacks, "plan_features_read": self.overlay.plan_features,
            "plan_pieces": self.overlay.plan_pieces, "rules_in_force": list(self.rules_in_force),
            "notes": list(self.notes),
        }  # fmt: skip
