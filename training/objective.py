"""What is minimised: the terms of `losses.py`, each times its weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tuban.data.place import IGNORE
from tuban.training import losses

if TYPE_CHECKING:
    from torch import Tensor

    from tuban.models.spec import Logits
    from tuban.training.settings import LossSettings


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss of a batch.

    Attributes:
        settings: weights of the terms.
        positive_weight: weight of a changed pixel in the cross entropy.
        class_weight: weight of each land-cover class `(classes,)`, or None for equal ones.
    """

    settings: LossSettings
    positive_weight: float
    class_weight: Tensor | None = None

    def terms(self, logits: Logits, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted loss of change and of land cover, whichever the network has."""
        result = {}
        if logits.change is not None:
            result["change"] = self._change(logits.change.float(), batch["change"])
        dates = [("before", logits.landcover_before), ("after", logits.landcover_after)]
        covers = [
            self._landcover(cover.float(), batch[f"landcover_{date}"], batch[f"weight_{date}"])
            for date, cover in dates
            if cover is not None
        ]
        if covers:
            alone = "change" not in result
            result["landcover"] = sum(covers[1:], start=covers[0]) * (1.0 if alone else self.settings.landcover_weight)
        return result

    def _change(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = self.settings.change
        loss = logits.sum() * 0
        if weight.bce:
            loss = loss + weight.bce * losses.bce(logits, target, positive_weight=self.positive_weight)
        if weight.dice:
            loss = loss + weight.dice * losses.binary_dice(logits, target)
        if weight.focal:
            loss = loss + weight.focal * losses.binary_focal(logits, target, gamma=self.settings.focal_gamma)
        if weight.lovasz:
            loss = loss + weight.lovasz * losses.lovasz_hinge(logits, target)
        if weight.boundary:
            loss = loss + weight.boundary * losses.boundary(logits, target)
        return loss

    def _landcover(self, logits: Tensor, target: Tensor, confidence: Tensor) -> Tensor:
        weight = self.settings.landcover
        classes = None if self.class_weight is None else self.class_weight.to(logits.device)
        labels = (logits, target, confidence)
        loss = logits.sum() * 0
        if weight.ce:
            loss = loss + weight.ce * losses.cross_entropy(*labels, class_weight=classes)
        if weight.dice:
            loss = loss + weight.dice * losses.dice(*labels)
        if weight.focal:
            gamma = self.settings.focal_gamma
            loss = loss + weight.focal * losses.focal(*labels, gamma=gamma, class_weight=classes)
        if weight.lovasz:
            loss = loss + weight.lovasz * losses.lovasz_softmax(*labels)
        if weight.boundary:
            loss = loss + weight.boundary * losses.landcover_boundary(*labels)
        return loss

    def consistency(self, logits: Logits, teacher: Logits, batch: dict[str, Tensor]) -> Tensor:
        """Return the disagreement with the averaged network where a batch has no labels but something to see.

        Args:
            logits: of the network that learns, on the augmented batch.
            teacher: of the averaged network, on the same crops as they are.
            batch: the crops as they are.
        """
        settings = self.settings
        dates = [name for name in ("before", "after") if name in batch]
        seen = {name: batch[name].isfinite().any(dim=1) for name in dates}
        parts = []
        if logits.change is not None and teacher.change is not None:
            unlabelled = (batch["change"] == IGNORE) & seen["before"] & seen["after"]
            own, sure = (_both(tensor.float().sigmoid()) for tensor in (logits.change, teacher.change))
            parts.append(losses.agreement(own, sure, unlabelled.float(), confidence=settings.confidence))
        for name, cover, taught in zip(dates, logits[:2], teacher[:2], strict=False):
            if cover is not None and taught is not None:
                unlabelled = (batch[f"landcover_{name}"] == IGNORE) | (batch[f"weight_{name}"] == 0)
                own, sure = cover.float().softmax(1), taught.float().softmax(1)
                where = (unlabelled & seen[name]).float()
                parts.append(losses.agreement(own, sure, where, confidence=settings.confidence))
        return sum(parts[1:], start=parts[0])


def _both(changed: Tensor) -> Tensor:
    """Return the probabilities of unchanged and changed `(n, 2, h, w)`."""
    return torch.stack([1 - changed, changed], dim=1)
