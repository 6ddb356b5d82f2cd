"""Losses with unknown pixels left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 (the field's standard alias)

from tuban.data.place import IGNORE

if TYPE_CHECKING:
    from torch import Tensor


def change_loss(logits: Tensor, target: Tensor, *, positive_weight: float, dice: float) -> Tensor:
    """Return weighted binary cross entropy plus `dice` times the soft Dice loss over the batch.

    Args:
        logits: `(n, h, w)`.
        target: `(n, h, w)` with 0, 1, or 255 for unknown.
        positive_weight: weight of a changed pixel.
        dice: weight of the Dice term, which is over the whole batch since most crops hold little change.

    References:
        Milletari et al., "V-Net", 3DV 2016.
    """
    known = target != IGNORE
    if not bool(known.any()):
        return logits.sum() * 0
    logits, target = logits[known].float(), target[known]
    weight = torch.tensor(positive_weight, device=logits.device)
    loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum() + 1
    return loss + dice * (1 - overlap / (probability.sum() + target.sum() + 1))


def landcover_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the cross entropy `(n, classes, h, w)` against weak labels, weighted by their confidence 0–1."""
    known = (target != IGNORE).float() * weight
    raw = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="none")
    return (raw * known).sum() / known.sum().clamp(min=1.0)
