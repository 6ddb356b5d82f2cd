"""Threshold and calibration of a run from its validation places, for a bundle that no cross-validation measured."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.data.place import IGNORE
from tuban.training.accuracy import BINS, Histogram, best_threshold, pool
from tuban.training.calibration import fit_platt
from tuban.training.predictions import predict
from tuban.training.validation import BACKGROUND_QUANTILE, relative

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from tuban.data.place import Place
    from tuban.training.predictions import Prediction

_PIXELS = 250_000
"""Pixels taken of each place, evenly spread."""
_METHOD = (
    "Platt scaling and threshold (best pooled F1) were fitted on the validation places, which chose the weights too; "
    "the score is taken relative to the pair's background (its {quantile:.0%} quantile)"
)


def choose(network: nn.Module, places: Sequence[Place]) -> dict[str, Any]:
    """Return threshold, calibration and accuracy on the validation places; empty where these show no change.

    The accuracy is that of the places it was chosen on: it flatters, and says so.

    Args:
        network: in evaluation mode.
        places: the validation places.
    """
    logits: dict[str, NDArray[np.float32]] = {}
    labels: dict[str, NDArray[np.uint8]] = {}
    for place in places:
        change = predict(network, place).change if place.labelled else None
        if change is None:
            continue
        known = (place.change != IGNORE) & np.isfinite(change)
        score, label = relative(change, known)[known], place.change[known]
        step = max(score.size // _PIXELS, 1)
        logits[place.name], labels[place.name] = score[::step], label[::step]
    if not any((label == 1).any() for label in labels.values()):
        return {}
    slope, intercept = fit_platt(list(logits.values()), list(labels.values()))

    def counted(name: str) -> Histogram:
        return Histogram.of(1 / (1 + np.exp(-np.clip(slope * logits[name] + intercept, -30, 30))), labels[name])

    everything = pool([counted(name) for name in logits])
    threshold = best_threshold(everything)
    return {
        "threshold": round(threshold / BINS, 4),
        "calibration": {
            "slope": round(slope, 4),
            "intercept": round(intercept, 4),
            "background_quantile": BACKGROUND_QUANTILE,
            "method": _METHOD.format(quantile=BACKGROUND_QUANTILE),
        },
        "method": f"On the validation places ({', '.join(logits)}), which chose weights and threshold too: flattering.",
        **{name: round(value, 4) for name, value in everything.at(threshold).items()},
        "average_precision": round(everything.average_precision(), 4),
        "auc": round(everything.auc(), 4),
        "ece": round(everything.ece(), 4),
    }


def calibrated(prediction: Prediction, chosen: Mapping[str, Any]) -> Prediction:
    """Return a prediction whose logits are those of the bundle to come; as it is where nothing was chosen."""
    if prediction.change is None or not chosen:
        return prediction
    scaling = chosen["calibration"]
    score = relative(prediction.change, np.isfinite(prediction.change))
    return dataclasses.replace(prediction, change=scaling["slope"] * score + scaling["intercept"])
