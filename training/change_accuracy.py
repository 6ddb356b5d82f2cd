"""Change measured on labelled places: pixels, objects, calibration, land cover and its transitions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.data.classes import classes
from tuban.training.accuracy import BINS, Histogram, bootstrap, pool
from tuban.training.calibration import calibration_summary, precision_summary
from tuban.training.confusion import Confusion, Transitions
from tuban.training.error_map import ErrorMap, step_for
from tuban.training.matching import NOMINAL, Matching, ObjectStream, Overlaps, match
from tuban.training.predicted_place import STRIP, predicted_pair

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle
    from tuban.training.labelled import LabelledItem

# Minimum mapping units of configs/mmu/cn.yaml (200 construction, 400 agriculture, 600 the rest, 1500 desert), and up.
SIZES_M2 = (0.0, 200.0, 400.0, 600.0, 1500.0, 2000.0, 5000.0, float("inf"))
LARGE_M2 = 2000.0
"""Least area of an object that is asked for at 10 m: twenty pixels."""
FINE_M2 = 200.0
"""The same of finer imagery: the least construction site that is mapped."""
FINE_GSD_M = 5.0
MIN_IOU = 0.25
IOUS = (0.1, MIN_IOU, 0.5)


@dataclass(frozen=True, slots=True)
class PlaceResult:
    """What was measured on one place.

    Attributes:
        histogram: scores of changed and unchanged pixels.
        objects: all objects and how they overlap.
        picture: PNG of the errors.
        notes: what the pair was doubted for.
    """

    histogram: Histogram
    objects: Overlaps
    picture: bytes
    notes: tuple[str, ...]

    def matching(self, min_iou: float = MIN_IOU) -> Matching:
        """Match the objects one to one."""
        return match(self.objects, min_iou)


class CoverCounts:
    """Land cover of both dates and its transitions against labels, over all places."""

    def __init__(self, bundle: Bundle, against: str) -> None:
        """Count the classes of the bundle; `against` says what the labels are."""
        self.against = against
        names = [classes()[value].name for value in bundle.classes]
        self.cover = Confusion(names, bundle.classes)
        # A byte holds 255 pairs of classes and unknown.
        self.transitions = Transitions(names, bundle.classes) if len(names) <= 15 else None

    def add(self, mapped: tuple[NDArray[np.uint8], ...], known: tuple[NDArray[np.uint8], ...]) -> None:
        """Count a strip that has both; others teach nothing."""
        if len(mapped) != 2 or len(known) != 2:
            return
        for called, truth in zip(mapped, known, strict=True):
            self.cover.add(called, truth)
        if self.transitions is not None:
            self.transitions.add((mapped[0], mapped[1]), (known[0], known[1]))

    def as_dict(self) -> dict[str, Any]:
        """Return the measures, JSON-ready; empty where nothing was counted."""
        if not self.cover.pixels:
            return {}
        return {
            "against": self.against,
            "agreement": round(self.cover.agreement(), 4),
            "macro_f1": round(self.cover.macro_f1(), 4),
            "classes": self.cover.measures(),
            "transitions": self.transitions.measures() if self.transitions is not None else {},
        }


def measure_place(
    bundle: Bundle, place: LabelledItem, settings: InferenceSettings | None, cover: CoverCounts | None
) -> PlaceResult:
    """Run the bundle on a place and count everything in one pass over its strips.

    Raises:
        PairError: the pair is refused.
        SceneError: an image or label cannot be used.
    """
    histogram: Histogram | None = None
    stream = ObjectStream()
    with predicted_pair(bundle, place, settings) as predicted:
        step = step_for(predicted.views.height, predicted.views.width)
        errors = ErrorMap(step)
        for strip in predicted.strips(STRIP - STRIP % step):
            counted = Histogram.of(strip.probability, strip.label)
            histogram = counted if histogram is None else histogram + counted
            called = strip.probability >= bundle.threshold
            stream.add(called, strip.label)
            errors.add(called, strip.label)
            if cover is not None:
                cover.add(strip.mapped, strip.known)
        if histogram is None:  # a pair has at least two rows
            histogram = Histogram(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64))
        picture = errors.png(predicted.picture(step))
        return PlaceResult(histogram, stream.overlaps(predicted.pixel_m2), picture, predicted.notes)


def change_summary(
    bundle: Bundle, results: Mapping[str, PlaceResult], *, precision: float | None = None
) -> dict[str, Any]:
    """Return everything about change, JSON-ready.

    Args:
        bundle: the model, at its own threshold.
        results: by place.
        precision: stated precision for which a threshold is chosen; None leaves it out.
    """
    names = list(results)
    least = FINE_M2 if bundle.gsd_m[1] < FINE_GSD_M else LARGE_M2
    threshold = int(np.ceil(bundle.threshold * BINS))
    histograms = {name: result.histogram for name, result in results.items()}

    def f1(index: NDArray[np.int64]) -> float:
        return pool([histograms[names[i]] for i in index]).at(threshold)["f1"]

    everything = pool(list(histograms.values()))
    low, high = bootstrap(len(names), f1, draws=500)
    summary = {
        "model": bundle.model_id,
        "task": "change",
        "threshold": bundle.threshold,
        **{key: round(value, 4) for key, value in everything.at(threshold).items()},
        "f1_95": [round(low, 4), round(high, 4)],
        "average_precision": round(everything.average_precision(), 4),
        "auc": round(everything.auc(), 4),
        "ece": round(everything.ece(), 4),
        "objects": _covered(list(results.values()), least),
        "object_matching": object_summary([result.objects for result in results.values()], least_m2=least),
        "calibration": calibration_summary(histograms),
        "places": {
            name: {key: round(value, 4) for key, value in result.histogram.at(threshold).items()}
            | _pixels(result.histogram, threshold)
            | {"objects": counted(result.matching(), least), "notes": list(result.notes)}
            for name, result in results.items()
        },
    }
    return summary | ({"at_precision": precision_summary(histograms, precision)} if precision is not None else {})


def _pixels(histogram: Histogram, threshold: int) -> dict[str, int]:
    """Return how many pixels are labelled changed, labelled unchanged, and of the latter called changed."""
    unchanged = histogram.unchanged
    return {
        "changed_px": int(histogram.changed.sum()),
        "unchanged_px": int(unchanged.sum()),
        "false_px": int(unchanged[threshold:].sum()),
    }


def counted(matching: Matching, low: float, below: float = float("inf")) -> dict[str, Any]:
    """Return the counts of objects of a size; a share of none is None."""
    counts: dict[str, Any] = dict(matching.counts(low, below))
    if not counts["truth"] or not counts["called"]:
        counts["f1"] = None
    return counts | {
        "recall": counts["recall"] if counts["truth"] else None,
        "precision": counts["precision"] if counts["called"] else None,
    }


def object_summary(places: Sequence[Overlaps], *, draws: int = 500, least_m2: float = LARGE_M2) -> dict[str, Any]:
    """Return the one-to-one match of all places: by IoU, by size, with intervals over places.

    Args:
        places: objects of each.
        draws: of the bootstrap over places.
        least_m2: area of the smallest object that counts.
    """
    chosen = [match(place, MIN_IOU) for place in places]
    total = _pooled(chosen)

    def measured(key: str) -> list[float]:
        def statistic(index: NDArray[np.int64]) -> float:
            return _pooled([chosen[i] for i in index]).counts(least_m2)[key]

        return [round(v, 4) for v in bootstrap(len(chosen), statistic, draws=draws)]

    sizes = {}
    for low, below in pairwise(SIZES_M2):
        counts = counted(total, low, below)
        name = f"{low:.0f}-{below:.0f}" if below < float("inf") else f"{low:.0f}+"
        sizes[name] = {key: counts[key] for key in ("truth", "found", "called", "right", "recall", "precision")}
    return {
        "rule": f"one to one by the largest total IoU, pairs of at least {MIN_IOU} IoU",
        "min_area_m2": least_m2,
        **counted(total, least_m2),
        "recall_95": measured("recall"),
        "precision_95": measured("precision"),
        "by_min_iou": {str(iou): counted(_pooled([match(p, iou) for p in places]), least_m2) for iou in IOUS},
        "by_size_m2": sizes,
    }


def _covered(results: Sequence[PlaceResult], least_m2: float) -> dict[str, Any]:
    """Return the lenient counts of objects of a size: a quarter of it lies on the other side."""
    sums: dict[str, int] = dict.fromkeys(("truth", "found", "called", "right"), 0)
    for objects in (result.objects for result in results):
        found, right = objects.covered()
        least = NOMINAL * least_m2 / objects.pixel_m2
        truth, called = objects.truth_px >= least, objects.called_px >= least
        for key, mask in (("truth", truth), ("found", found & truth), ("called", called), ("right", right & called)):
            sums[key] += int(mask.sum())
    return sums | {
        "min_area_m2": least_m2,
        "recall": round(sums["found"] / sums["truth"], 4) if sums["truth"] else None,
        "precision": round(sums["right"] / sums["called"], 4) if sums["called"] else None,
    }


def _pooled(matchings: Sequence[Matching]) -> Matching:
    total = matchings[0]
    for matching in matchings[1:]:
        total = total + matching
    return total
