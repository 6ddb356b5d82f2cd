"""Whether probabilities are what they say, how to mend them, and the threshold for a stated precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize

from tuban.errors import UsageError
from tuban.training.accuracy import BINS, Histogram, pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

_CENTRE = (np.arange(BINS) + 0.5) / BINS
_LOGIT = np.log(_CENTRE / (1 - _CENTRE))


def reliability(histogram: Histogram, bins: int = 16) -> list[dict[str, float]]:
    """Return the reliability diagram: mean probability, share changed and pixels of each equal bin that has any.

    References:
        Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    changed = histogram.changed.reshape(bins, -1).sum(axis=1)
    weight = histogram.changed + histogram.unchanged
    total = weight.reshape(bins, -1).sum(axis=1)
    mean = (_CENTRE * weight).reshape(bins, -1).sum(axis=1) / np.maximum(total, 1)
    return [
        {"probability": round(float(p), 4), "changed": round(float(c / t), 4), "pixels": int(t)}
        for p, c, t in zip(mean, changed, total, strict=True)
        if t
    ]


def fit_platt(logits: Sequence[NDArray[Any]], labels: Sequence[NDArray[np.uint8]]) -> tuple[float, float]:
    """Return slope and intercept of the sigmoid that calibrates `logits`, by maximum likelihood over a fixed histogram.

    Args:
        logits: of each place, any shape.
        labels: 0, 1 or 255 unknown, same shapes.

    References:
        Platt, "Probabilistic outputs for support vector machines", 1999.
    """
    edges = np.linspace(-20, 20, 401)
    changed, unchanged = np.zeros(400), np.zeros(400)
    for logit, label in zip(logits, labels, strict=True):
        clipped = np.clip(logit, -19.99, 19.99)
        changed += np.histogram(clipped[label == 1], edges)[0]
        unchanged += np.histogram(clipped[label == 0], edges)[0]
    return _platt((edges[:-1] + edges[1:]) / 2, changed, unchanged)


def fit_scaling(histogram: Histogram, *, temperature_only: bool = False) -> tuple[float, float]:
    """Return slope and intercept that calibrate probabilities which are already counted.

    Args:
        histogram: probabilities and labels.
        temperature_only: keep the intercept at 0; the slope is then 1 / temperature.
    """
    return _platt(_LOGIT, histogram.changed, histogram.unchanged, free=not temperature_only)


def _platt(
    logit: NDArray[np.float64], changed: NDArray[Any], unchanged: NDArray[Any], *, free: bool = True
) -> tuple[float, float]:
    total = max(float(changed.sum() + unchanged.sum()), 1.0)

    def loss(parameters: NDArray[np.float64]) -> float:
        z = parameters[0] * logit + (parameters[1] if free else 0.0)
        return float((changed * np.logaddexp(0, -z) + unchanged * np.logaddexp(0, z)).sum() / total)

    best = minimize(loss, np.array([1.0, 0.0] if free else [1.0]), method="Nelder-Mead").x
    return float(best[0]), float(best[1]) if free else 0.0


def scaled(histogram: Histogram, slope: float, intercept: float) -> Histogram:
    """Return the histogram of the probabilities after scaling their logits."""
    moved = 1 / (1 + np.exp(-np.clip(slope * _LOGIT + intercept, -30, 30)))
    index = np.clip((moved * BINS).astype(int), 0, BINS - 1)
    counts = (np.bincount(index, weights=part, minlength=BINS) for part in (histogram.changed, histogram.unchanged))
    return Histogram(*(count.astype(np.int64) for count in counts))


class UnreachedPrecisionError(UsageError):
    """No threshold reaches the precision that is asked for."""


def require_precision(precision: float) -> None:
    """Check a stated precision.

    Raises:
        UsageError: it is no share between 0 and 1.
    """
    if not 0 < precision < 1:
        raise UsageError(f"precision {precision} is out of range; give a share between 0 and 1, e.g. 0.6")


def threshold_for_precision(histogram: Histogram, precision: float) -> int:
    """Return the lowest bin from which on the precision is at least that stated: the most recall that it allows.

    Raises:
        UnreachedPrecisionError: no threshold reaches it.
        UsageError: `precision` is no share.
    """
    require_precision(precision)
    hits = histogram.changed[::-1].cumsum()[::-1]
    called = hits + histogram.unchanged[::-1].cumsum()[::-1]
    reached = np.flatnonzero((called > 0) & (hits >= precision * called))
    if not reached.size:
        best = float((hits / np.maximum(called, 1)).max())
        raise UnreachedPrecisionError(f"no threshold reaches a precision of {precision}; the best is {best:.3f}")
    return int(reached[0])


def calibration_summary(histograms: Mapping[str, Histogram]) -> dict[str, Any]:
    """Return ECE, reliability and fitted scalings over places; each place is also measured by a fit on the others."""
    everything = pool(list(histograms.values()))
    result: dict[str, Any] = {"ece": round(everything.ece(), 4), "reliability": reliability(everything)}
    for name, only in (("temperature", True), ("platt", False)):
        slope, intercept = fit_scaling(everything, temperature_only=only)
        fitted = {"temperature": round(1 / slope, 4)} if only else {"slope": round(slope, 4)}
        fitted |= {} if only else {"intercept": round(intercept, 4)}

        def scale(others: Histogram, mine: Histogram, *, only: bool = only) -> Histogram:
            return scaled(mine, *fit_scaling(others, temperature_only=only))

        result[name] = fitted | {"ece_held_out": round(pool(_held_out(histograms, scale)).ece(), 4)}
    return result


def precision_summary(histograms: Mapping[str, Histogram], precision: float) -> dict[str, Any]:
    """Return what a threshold chosen for a precision on the other places gives on each place, pooled.

    Where no threshold reaches it, on all places or on those beside one, `threshold` or `held_out` is None and `why`
    says so: the rest of an evaluation is not lost over it.

    Raises:
        UsageError: `precision` is out of range.
    """
    result: dict[str, Any] = {"stated": precision, "threshold": None, "held_out": None}
    try:
        result["threshold"] = round(threshold_for_precision(pool(list(histograms.values())), precision) / BINS, 4)
        if len(histograms) < 2:
            return result | {"why": "one place is too few to test it on others"}
        return result | _tested(histograms, precision)
    except UnreachedPrecisionError as error:
        return result | {"why": str(error)}


def _tested(histograms: Mapping[str, Histogram], precision: float) -> dict[str, Any]:
    hits = called = truth = 0
    for name, mine in histograms.items():
        others = pool([h for other, h in histograms.items() if other != name])
        try:
            at = threshold_for_precision(others, precision)
        except UnreachedPrecisionError as error:
            return {"why": f"without {name}, {error}"}
        hits += int(mine.changed[at:].sum())
        called += int(mine.changed[at:].sum() + mine.unchanged[at:].sum())
        truth += int(mine.changed.sum())
    return {"held_out": {"precision": round(hits / max(called, 1), 4), "recall": round(hits / max(truth, 1), 4)}}


def _held_out(
    histograms: Mapping[str, Histogram], scale: Callable[[Histogram, Histogram], Histogram]
) -> list[Histogram]:
    """Scale each place by a fit on the others; one place alone by itself."""
    if len(histograms) == 1:
        return [scale(h, h) for h in histograms.values()]
    return [
        scale(pool([h for other, h in histograms.items() if other != name]), mine) for name, mine in histograms.items()
    ]
