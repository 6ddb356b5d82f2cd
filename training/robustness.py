"""Robustness curves: how much area is falsely called changed when the later image is not as it should be.

Each place is run again with the perturbation injected into its file, through the pair reading and inference of
`tuban detect`, with its registration, radiometry and refusals. A refused pair raises no false alarm and counts as
refused. False alarms are called pixels that are labelled unchanged; they are compared over the places that were not
refused.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuban.errors import PairError
from tuban.training.perturbation import CURVES, UNITS, Perturbation, perturbed_files
from tuban.training.predicted_place import predicted_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle
    from tuban.training.labelled import LabelledItem

TARGETS = (Perturbation("shift", 0.5), Perturbation("offset", 1000.0))
"""What must add at most `MOST` of the false-alarm area, or be refused."""
MOST = 0.10


@dataclass(frozen=True, slots=True)
class Alarms:
    """Areas of one run in m²: called where unchanged, called where changed, changed, and unchanged."""

    false_m2: float = 0.0
    hit_m2: float = 0.0
    changed_m2: float = 0.0
    unchanged_m2: float = 0.0

    def __add__(self, other: Alarms) -> Alarms:
        """Pool two places."""
        return Alarms(*(getattr(self, n) + getattr(other, n) for n in self.__slots__))


@dataclass(slots=True)
class _Point:
    """One perturbation over the places."""

    perturbed: Alarms = field(default_factory=Alarms)
    base: Alarms = field(default_factory=Alarms)
    refused: dict[str, str] = field(default_factory=dict)
    places: int = 0

    def as_dict(self, perturbation: Perturbation) -> dict[str, Any]:
        added = self.perturbed.false_m2 - self.base.false_m2
        measured = self.base.unchanged_m2 > 0
        return {
            "kind": perturbation.kind,
            "amount": perturbation.amount,
            "places": self.places,
            "refused": dict(sorted(self.refused.items())),
            "false_alarm_m2": round(self.perturbed.false_m2, 1),
            "base_false_alarm_m2": round(self.base.false_m2, 1),
            "added": round(added / max(self.base.false_m2, 1.0), 4) if measured else None,
            "false_alarm_share": _share(self.perturbed.false_m2, self.perturbed.unchanged_m2),
            "recall": _share(self.perturbed.hit_m2, self.perturbed.changed_m2),
            "base_recall": _share(self.base.hit_m2, self.base.changed_m2),
        }


def robustness(
    bundle: Bundle,
    items: Sequence[LabelledItem],
    *,
    perturbations: Sequence[Perturbation] = CURVES,
    settings: InferenceSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Run every place with every perturbation.

    Args:
        bundle: the change model, at its own threshold.
        items: labelled places.
        perturbations: what to inject, one at a time.
        settings: how inference runs.
        progress: called with stage, done and total runs.

    Returns:
        `points` (one for each perturbation, `added` being the relative growth of the false-alarm area), `targets` with
        whether each is met, and `units`. JSON-ready.

    Raises:
        PairError: a place is refused even unperturbed.
    """
    points = {what: _Point() for what in perturbations}
    total, done = len(items) * (len(perturbations) + 1), 0
    for item in items:
        base = alarms(bundle, item, settings)
        for what, point in points.items():
            done += 1
            if progress is not None:
                progress("robustness", done, total)
            point.places += 1
            with tempfile.TemporaryDirectory() as scratch:
                made = item.with_after(perturbed_files(item.folder, item.item, Path(scratch), what))
                try:
                    point.perturbed += alarms(bundle, made, settings)
                    point.base += base
                except PairError as error:
                    point.refused[item.name] = str(error).replace(scratch, "…")
        done += 1
    if progress is not None:
        progress("robustness", total, total)
    rows = [point.as_dict(what) for what, point in points.items()]
    aims = {(what.kind, what.amount) for what in TARGETS}
    return {
        "points": rows,
        "units": dict(UNITS),
        "targets": [
            {"kind": r["kind"], "amount": r["amount"], "most": MOST, "added": r["added"], "met": met(r)}
            for r in rows
            if (r["kind"], r["amount"]) in aims
        ],
    }


def met(row: dict[str, Any]) -> bool:
    """Return whether a point adds at most `MOST` of false-alarm area, refused places left out."""
    return row["added"] is None or row["added"] <= MOST


def alarms(bundle: Bundle, item: LabelledItem, settings: InferenceSettings | None = None) -> Alarms:
    """Return the areas of one run.

    Raises:
        PairError: the pair is refused.
    """
    false = hit = changed = unchanged = 0
    with predicted_pair(bundle, item, settings) as predicted:
        for strip in predicted.strips():
            called = strip.probability >= bundle.threshold
            false += int((called & (strip.label == 0)).sum())
            hit += int((called & (strip.label == 1)).sum())
            changed += int((strip.label == 1).sum())
            unchanged += int((strip.label == 0).sum())
        return Alarms(*(count * predicted.pixel_m2 for count in (false, hit, changed, unchanged)))


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 6) if whole else None
