"""Pixel and object accuracy of change against labels, with intervals over places."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.training.matching import overlaps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

BINS = 512


@dataclass(frozen=True, slots=True)
class Histogram:
    """Scores of one place, counted per bin of a fixed range: all that threshold metrics need.

    Attributes:
        changed: `(BINS,)` labelled-changed pixels per score bin.
        unchanged: `(BINS,)` labelled-unchanged pixels per score bin.
    """

    changed: NDArray[np.int64]
    unchanged: NDArray[np.int64]

    @classmethod
    def of(cls, score: NDArray[Any], label: NDArray[np.uint8]) -> Histogram:
        """Count `score` in 0–1 where `label` is 0 or 1; other labels and NaN scores are unknown and left out."""
        known = (label <= 1) & np.isfinite(score)
        index = np.clip((score[known] * BINS).astype(np.int64), 0, BINS - 1)
        changed = label[known] == 1
        return cls(np.bincount(index[changed], minlength=BINS), np.bincount(index[~changed], minlength=BINS))

    def __add__(self, other: Histogram) -> Histogram:
        """Pool two places."""
        return Histogram(self.changed + other.changed, self.unchanged + other.unchanged)

    def f1(self) -> NDArray[np.float64]:
        """Return F1 for a threshold at the lower edge of each bin, `(BINS,)`."""
        tp = self.changed[::-1].cumsum()[::-1].astype(float)
        fp = self.unchanged[::-1].cumsum()[::-1].astype(float)
        return np.asarray(2 * tp / np.maximum(tp + fp + self.changed.sum(), 1))

    def at(self, threshold: int) -> dict[str, float]:
        """Return precision, recall, F1 and IoU with everything from bin `threshold` up called changed."""
        tp, fp = float(self.changed[threshold:].sum()), float(self.unchanged[threshold:].sum())
        fn = float(self.changed.sum() - tp)
        return {
            "precision": tp / max(tp + fp, 1),
            "recall": tp / max(tp + fn, 1),
            "f1": 2 * tp / max(2 * tp + fp + fn, 1),
            "iou": tp / max(tp + fp + fn, 1),
        }

    def average_precision(self) -> float:
        """Return the area under the precision-recall curve (step-wise)."""
        tp = self.changed[::-1].cumsum().astype(float)
        fp = self.unchanged[::-1].cumsum().astype(float)
        recall = tp / max(tp[-1], 1)
        precision = tp / np.maximum(tp + fp, 1)
        return float((np.diff(recall, prepend=0.0) * precision).sum())

    def auc(self) -> float:
        """Return the area under the ROC curve, ties counted half."""
        below = self.unchanged.cumsum() - self.unchanged
        wins = (self.changed * (below + self.unchanged / 2)).sum()
        return float(wins / max(float(self.changed.sum()) * float(self.unchanged.sum()), 1))

    def ece(self, bins: int = 16) -> float:
        """Return the expected calibration error of the score taken as a probability, over `bins` equal bins."""
        changed = self.changed.reshape(bins, -1).sum(axis=1)
        total = changed + self.unchanged.reshape(bins, -1).sum(axis=1)
        centre = (np.arange(BINS) + 0.5) / BINS
        weight = self.changed + self.unchanged
        confidence = (centre * weight).reshape(bins, -1).sum(axis=1) / np.maximum(total, 1)
        return float((np.abs(changed / np.maximum(total, 1) - confidence) * total).sum() / max(total.sum(), 1))


def best_threshold(histogram: Histogram) -> int:
    """Return the bin whose lower edge gives the best F1."""
    return int(histogram.f1().argmax())


def pool(histograms: Sequence[Histogram]) -> Histogram:
    """Add up places."""
    total = histograms[0]
    for histogram in histograms[1:]:
        total = total + histogram
    return total


def bootstrap(
    count: int, statistic: Callable[[NDArray[np.int64]], float], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of `statistic(indices)` over `count` places drawn with replacement.

    References:
        Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(count, size=count)) for _ in range(draws)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def objects(
    changed: NDArray[np.bool_], label: NDArray[np.uint8], *, min_pixels: int = 20, below: float = math.inf
) -> dict[str, int]:
    """Count objects found and objects that are right, 8-connected.

    A labelled object of at least `min_pixels` is found when at least a quarter of its pixels are called changed;
    a called object of at least `min_pixels` is right when at least a quarter of it is labelled changed.

    Args:
        changed: `(h, w)` what was called changed.
        label: `(h, w)` 0, 1 or 255 unknown; unknown pixels count for neither.
        min_pixels: smallest object that counts; 20 pixels of 10 m are 2,000 m².
        below: objects of this many pixels and more do not count.

    Returns:
        `truth`, `found`, `called`, `right`.
    """
    found_objects = overlaps(changed, label)
    found, right = found_objects.covered()
    truth, called = (
        (size >= min_pixels) & (size < below) for size in (found_objects.truth_px, found_objects.called_px)
    )
    return {
        "truth": int(truth.sum()),
        "found": int((found & truth).sum()),
        "called": int(called.sum()),
        "right": int((right & called).sum()),
    }
