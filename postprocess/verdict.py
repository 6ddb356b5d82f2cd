"""From measured areas and doubts to a status: the one place where a finding is decided, and decided again.

`replay.py` calls the same functions with what a finding's trace holds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tuban.postprocess.rule_schema import Rule, RulePack

NOTHING_M2 = 0.005  # rounds to 0.00 m2: numerical noise of the overlay, not an overlap
DECIMALS = 4  # of areas before they decide, so that the trace holds exactly what decided

DECIDING = ("net", "net_min", "net_max", "permitted", "undated", "exempt", "uncovered")
"""Areas (m2) that a status turns on."""


def decide(rule: Rule, pack: RulePack, areas: Mapping[str, float | None], *, missing: bool, handed_on: bool) -> str:
    """Return the status that areas come to, before the doubts about image and model.

    Args:
        rule: the rule.
        pack: its pack, whose tolerance counts.
        areas: `DECIDING` in square metres, rounded to `DECIMALS`.
        missing: a layer that the rule needs is not there.
        handed_on: another rule judges what lies beyond a partial permit.
    """
    if missing:
        return "undetermined"
    value = {name: areas[name] or 0.0 for name in DECIDING}
    threshold = pack.threshold_m2(rule)
    # The order matters: what cannot be known comes before what is measured, and a permit before a doubt.
    if value["net"] > threshold:
        if value["net"] - value["undated"] <= threshold:
            return "undetermined"
        if handed_on:
            return "permitted"
        return "inconclusive" if value["net_min"] <= threshold else "suspected"
    return _little_left(rule, value, threshold)


def _little_left(rule: Rule, value: dict[str, float], threshold: float) -> str:
    """Return the status where nothing of note is left after permits and exemptions."""
    if value["uncovered"] > threshold:
        return "undetermined"
    if value["permitted"] > NOTHING_M2:
        return "compliant" if rule.when.permit == "covering" else "permitted"
    return "inconclusive" if value["net_max"] > threshold and value["exempt"] <= NOTHING_M2 else "compliant"


def least_confidence(rule: Rule, pack: RulePack, setting: float) -> float:
    """Return the confidence below which a suspicion is a doubt: the rule's, else the pack's; at least the setting."""
    return max(setting, pack.min_confidence if rule.min_confidence is None else rule.min_confidence)


def doubts(status: str, confidence: float, least: float, *, downgraded: bool, of_sum: bool = False) -> tuple[str, ...]:
    """Return the doubts that keep a finding from being suspected: `position` (or `sum`), `pair`, `confidence`.

    Args:
        status: what the areas came to.
        confidence: of the change, calibrated; NaN where it is not known, which is no doubt.
        least: below this confidence the model is not sure enough.
        downgraded: the image pair cannot carry a suspicion.
        of_sum: the status is that of a sum, which is in doubt where its shares are.
    """
    if status not in {"suspected", "inconclusive"}:
        return ()
    found = {
        "sum" if of_sum else "position": status == "inconclusive",
        "pair": downgraded,
        "confidence": not math.isnan(confidence) and confidence < least,
    }
    return tuple(name for name, holds in found.items() if holds)


def final_status(status: str, found: tuple[str, ...]) -> str:
    """Return the status once the doubts are counted."""
    return "inconclusive" if status == "suspected" and found else status


def total_status(sure: float, possible: float, limit: float) -> str | None:
    """Return the status of a sum, or None where it stays below its limit.

    Args:
        sure: sum of the suspected areas, m2.
        possible: the inconclusive ones added, m2.
        limit: m2 from which the sum counts.
    """
    if sure >= limit:
        return "suspected"
    return "inconclusive" if possible >= limit else None


def severity(base: str, raised: Iterable[str], levels: int = 0) -> str:
    """Return the highest of some severities, so many levels up, S4 at most.

    Example:
        >>> severity("S2", ["S3"], 1), severity("S4", [], 2)
        ('S4', 'S4')
    """
    highest = max([base, *raised])
    return f"S{min(int(highest[1:]) + levels, 4)}"


def rounded(areas: Mapping[str, float]) -> dict[str, float]:
    """Return areas as they decide and as the trace keeps them."""
    return {name: round(float(value), DECIMALS) for name, value in areas.items()}
