"""Areas summed per actor over months: rules that look at more than one change."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tuban.postprocess.history import FIELDS, months_before, unresolved
from tuban.postprocess.overlay import measured, robust
from tuban.postprocess.rule_parts import HISTORY
from tuban.postprocess.verdict import total_status

if TYPE_CHECKING:
    import datetime as dt

    from tuban.data.plan import PlanLayer
    from tuban.postprocess.check_context import CheckStats
    from tuban.postprocess.rule_evidence import Evidence, Feature
    from tuban.postprocess.rule_parts import Total
    from tuban.postprocess.rules import Rule, RulePack
    from tuban.postprocess.sheet import Sheet

_LISTED = 20  # shares named in a trace; all are counted


@dataclass
class _Account:
    """What one actor has come to under one limit, m2; `shares` by change id, (area, suspected)."""

    shares: dict[str, tuple[float, bool]] = field(default_factory=dict)
    sure: float = 0.0
    possible: float = 0.0

    def add(self, change_id: str, area: float, *, sure: bool) -> None:
        """Count a change once: with the largest area given for it, and as suspected if any of them was."""
        before, was_sure = self.shares.get(change_id, (0.0, False))
        after = (max(before, area), sure or was_sure)
        self.possible += after[0] - before
        self.sure += (after[0] if after[1] else 0.0) - (before if was_sure else 0.0)
        self.shares[change_id] = after


class ActorTotals:
    """The sums of one `total` rule while a run's changes go by; deterministic in their order."""

    def __init__(self, rule: Rule, pack: RulePack, history: PlanLayer | None, day: dt.date) -> None:
        """Start from the earlier findings that still stand.

        Args:
            rule: a rule with `total`.
            pack: its pack.
            history: earlier findings, streamed once.
            day: last day of the months that count.
        """
        if rule.total is None:
            raise ValueError(f"rule {rule.id} sums nothing; give it a total")
        self.rule, self.pack, self.total = rule, pack, rule.total
        self.since, self.day = months_before(day, rule.total.months), day
        self.accounts: dict[tuple[str, int], _Account] = defaultdict(_Account)
        for frame in history.batches(columns=FIELDS) if history else ():
            for row in frame.drop(columns=frame.geometry.name).to_dict("records"):
                if self._counts(row, row["plan_from"]) and (actor := _text(row.get("actor"))):
                    for index in self._limits_of(row["rule_id"]):
                        self.accounts[actor, index].add(
                            # Files of other dates may use the same ids; ground found again is taken off by place.
                            f"{row['change_id']} {row['plan_from']}",
                            _number(row["net_m2"]),
                            sure=row["status"] == "suspected",
                        )

    def _limits_of(self, rule_id: str) -> list[int]:
        return [i for i, limit in enumerate(self.total.limits) if rule_id in limit.of]

    def _counts(self, row: dict[str, Any], date: dt.date | None) -> bool:
        return date is not None and self.since < date <= self.day and unresolved(row, self.pack)

    def judge(
        self, sheet: Sheet, row: int, change_id: str, hits: list[tuple[Evidence, Rule, str]], stats: CheckStats
    ) -> Evidence | None:
        """Add a change to its actor's sums and return the evidence where one of them has reached its limit.

        Args:
            sheet: the batch.
            row: the change in it.
            change_id: its id.
            hits: its findings, each with its rule and final status.
            stats: changes whose actor is not known are counted in it.
        """
        best: dict[int, tuple[Evidence, str]] = {}
        for evidence, rule, status in hits:
            if status not in {"suspected", "inconclusive"}:
                continue
            for index in self._limits_of(rule.id):
                held = best.get(index)
                if held is None or (status == "suspected", evidence.net or 0.0) > (
                    held[1] == "suspected", held[0].net or 0.0
                ):  # fmt: skip
                    best[index] = (evidence, status)
        if not best:
            return None
        actor = next((evidence.actor for evidence, _, _ in hits if evidence.actor), "")
        found = []
        for index, (evidence, status) in sorted(best.items()):
            # Without an actor a change stands for itself: its own area may do.
            account = self.accounts[actor, index] if actor else _Account()
            area = (evidence.net or 0.0) - (self._counted_before(sheet, row, index, actor) if actor else 0.0)
            account.add(change_id, max(area, 0.0), sure=status == "suspected")
            limit = self.total.limits[index]
            reached = total_status(round(account.sure, 2), round(account.possible, 2), limit.min_m2)
            if reached:
                found.append((reached != "suspected", index, evidence, account, reached))
        if not actor and not found:
            stats.actors_unknown += 1
        if not found:
            return None
        _, index, evidence, account, reached = min(found, key=lambda item: item[:2])
        return self._lead(evidence, account, index, reached, actor)

    def _counted_before(self, sheet: Sheet, row: int, index: int, actor: str) -> float:
        """Return how much of a change the actor's earlier findings have counted already, m2."""
        if not sheet.plan.of(HISTORY):
            return 0.0
        pieces, rules = sheet.pieces(HISTORY), self.total.limits[index].of

        def same(feature: Feature) -> bool:
            values = feature["values"]
            return (
                values.get("actor") == actor
                and values.get("rule_id") in rules
                and self._counts(values, feature["valid_from"])
            )

        under = [i for i in pieces.under(row) if same(pieces.rows[i])]
        if not under:
            return 0.0
        before = np.array([shapely.union_all(pieces.geometry[under])], dtype=object)
        inside = robust(shapely.intersection, before, sheet.patch[row : row + 1], sheet.crs, sheet.counts)
        return float(measured(inside, sheet.crs)[0])

    def _lead(self, evidence: Evidence, account: _Account, index: int, status: str, actor: str) -> Evidence:
        total: Total = self.total
        limit = total.limits[index]
        shares = sorted(account.shares.items(), key=lambda item: (-item[1][0], item[0]))
        content = {
            "limit": index, "title": limit.title, "min_m2": limit.min_m2, "sure_m2": round(account.sure, 2),
            "possible_m2": round(account.possible, 2), "since": str(self.since), "until": str(self.day),
            "count": len(shares),
            "shares": [{"change_id": i, "area_m2": round(a, 2), "sure": s} for i, (a, s) in shares[:_LISTED]],
        }  # fmt: skip
        return replace(
            evidence, status=status, severity=self.rule.severity, raised=(), uplifts=(), cluster=None,
            excess_rule=None, exemption=None, threshold=limit.min_m2, total=content, actor=actor,
        )  # fmt: skip


def _text(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value).strip()


def _number(value: Any) -> float:
    return 0.0 if value is None or math.isnan(float(value)) else float(value)
