"""What validation measures, by torchmetrics, over the places of all processes together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torchmetrics.classification import BinaryAveragePrecision, BinaryPrecisionRecallCurve, MulticlassF1Score

from tuban.data.place import IGNORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tuban.data.place import Place
    from tuban.models.spec import NetworkSpec
    from tuban.training.predictions import Prediction

_THRESHOLDS = 256
_CONFIDENT = 153
"""Weak labels of 60 % confidence and more are measured against."""
BACKGROUND_QUANTILE = 0.9
"""Less than a tenth of a pair changes; the score at this quantile is the level of what did not."""


def relative(score: NDArray[np.float32], seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return `score` minus its background over the pixels `seen`, as inference takes it from a pair."""
    if not seen.any():
        return score
    return np.asarray(score - np.nanquantile(score[seen], BACKGROUND_QUANTILE), dtype=np.float32)


class Validation(nn.Module):
    """Counts places and gives average precision and best F1 of change, and macro F1 of land cover."""

    def __init__(self, spec: NetworkSpec) -> None:
        """Make the metrics that the network's heads need."""
        super().__init__()
        self.change = spec.task == "change"
        self.classes = len(spec.classes)
        if self.change:
            self.curve = BinaryPrecisionRecallCurve(thresholds=_THRESHOLDS)
            self.precision = BinaryAveragePrecision(thresholds=_THRESHOLDS)
        if self.classes > 1:
            self.cover = MulticlassF1Score(num_classes=self.classes, average="macro", ignore_index=IGNORE)

    def add(self, prediction: Prediction, place: Place) -> None:
        """Count one place, of which unknown pixels are left out."""
        if self.change and prediction.change is not None and place.labelled:
            known = (place.change != IGNORE) & np.isfinite(prediction.change)
            score = relative(prediction.change, known)[known]
            device = self.curve.device
            probability = torch.from_numpy(score).sigmoid().to(device)
            truth = torch.from_numpy(place.change[known]).long().to(device)
            self.curve.update(probability, truth)
            self.precision.update(probability, truth)
        if self.classes > 1 and prediction.landcover is not None:
            dates = ((place.landcover_before, place.weight_before), (place.landcover_after, place.weight_after))
            for cover, (labels, weight) in zip(prediction.landcover, dates, strict=False):
                sure = np.where(weight >= _CONFIDENT, labels, IGNORE)
                if (sure != IGNORE).any():
                    device = self.cover.device
                    self.cover.update(*(torch.from_numpy(a).long().to(device) for a in (cover, sure)))

    def compute(self) -> dict[str, torch.Tensor]:
        """Return the measures; those of which no place had labels are 0."""
        result = {}
        if self.change:
            precision, recall, _ = self.curve.compute()
            # Above the highest score nothing is called, and precision is no number.
            precision = precision.nan_to_num(0.0)
            best = int((2 * precision * recall / (precision + recall).clamp(min=1e-9)).argmax())
            result["change/average_precision"] = self.precision.compute()
            result["change/precision"], result["change/recall"] = precision[best], recall[best]
            result["change/f1"] = 2 * precision[best] * recall[best] / (precision[best] + recall[best]).clamp(min=1e-9)
            result["change/iou"] = result["change/f1"] / (2 - result["change/f1"])
        if self.classes > 1:
            result["landcover/f1"] = self.cover.compute()
        return {name: value.nan_to_num(0.0) for name, value in result.items()}

    def reset(self) -> None:
        """Forget what was counted."""
        for metric in self.children():
            metric.reset()  # type: ignore[operator]
