"""Losses of single terms, with unknown pixels left out.

Each is a ratio of sums. Between processes the sums are added first, so that several processes minimise what one would
with all their crops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import distributed
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F  # noqa: N812 (the field's standard alias)

from tuban.data.place import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

_PRESENT = 0.5
"""A class of fewer pixels than this, weighed by confidence, is not there."""


def total(value: Tensor) -> Tensor:
    """Return a sum over all processes, through which gradients flow back to each."""
    if not distributed.is_available() or not distributed.is_initialized():
        return value
    result: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]
    return result


def mean(value: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of `value` by `weight` over all processes; 0 where nothing weighs anything."""
    sums = total(torch.stack([(value * weight).sum(), weight.sum()]))
    return sums[0] / sums[1].detach().clamp(min=1.0)


def bce(logits: Tensor, target: Tensor, *, positive_weight: float = 1.0) -> Tensor:
    """Return binary cross entropy, a changed pixel counted `positive_weight` times.

    Args:
        logits: `(n, h, w)`.
        target: `(n, h, w)` with 0, 1, or 255 for unknown.
        positive_weight: at least 0.
    """
    known, truth = _known(target)
    weight = torch.as_tensor(positive_weight, dtype=logits.dtype, device=logits.device)
    raw = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight, reduction="none")
    return mean(raw, known)


def binary_focal(logits: Tensor, target: Tensor, *, gamma: float) -> Tensor:
    """Return focal loss: cross entropy times the missing probability to the power `gamma`; arguments as `bce`.

    References:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """
    known, truth = _known(target)
    raw = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return mean((1 - torch.exp(-raw)) ** gamma * raw, known)


def binary_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return soft Dice loss over all crops together, since most hold little change; arguments as `bce`.

    References:
        Milletari et al., "V-Net", 3DV 2016.
    """
    known, truth = _known(target)
    probability = logits.sigmoid() * known
    sums = total(torch.stack([(probability * truth).sum(), probability.sum(), truth.sum(), known.sum()]))
    loss = 1 - (2 * sums[0] + 1) / (sums[1] + sums[2] + 1)
    return torch.where(sums[3] > 0, loss, sums[1] * 0)


def lovasz_hinge(logits: Tensor, target: Tensor) -> Tensor:
    """Return the Lovász extension of Jaccard loss on hinge errors, mean over crops; arguments as `bce`.

    References:
        Berman et al., "The Lovász-Softmax loss", CVPR 2018.
    """
    known, truth = (part.flatten(1) for part in _known(target))
    errors = 1 - logits.flatten(1) * (2 * truth - 1)
    return mean(_lovasz(errors, truth, known), known.amax(1))


def boundary(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean of probability times signed distance to the labelled outline, in sides of the crop.

    Crops without change or with nothing else have no outline and do not count; arguments as `bce`.

    References:
        Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019.
    """
    known, truth = _known(target)
    distance = signed_distance(truth).to(logits.device)
    outlined = distance.abs().amax(dim=(1, 2), keepdim=True) > 0
    return mean(logits.sigmoid() * distance / target.shape[-1], known * outlined)


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor, *, class_weight: Tensor | None = None) -> Tensor:
    """Return cross entropy weighed by the labels' confidence and by class.

    Args:
        logits: `(n, classes, h, w)`.
        target: `(n, h, w)` int64, 255 for unknown.
        weight: `(n, h, w)` confidence of the label, 0–1.
        class_weight: `(classes,)`; equal by default.
    """
    raw = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    return mean(raw, _weight(target, weight, class_weight))


def focal(
    logits: Tensor, target: Tensor, weight: Tensor, *, gamma: float, class_weight: Tensor | None = None
) -> Tensor:
    """Return focal loss over classes, see `binary_focal`; arguments as `cross_entropy`."""
    raw = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    return mean((1 - torch.exp(-raw)) ** gamma * raw, _weight(target, weight, class_weight))


def dice(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return soft Dice loss, mean over the classes that occur in the labels; arguments as `cross_entropy`."""
    probability, truth, known = _one_hot(logits, target, weight)
    axes = (0, 2, 3)
    parts = [probability * truth * known, probability * known, truth * known]
    overlap, called, labelled = total(torch.stack([part.sum(axes) for part in parts])).unbind()
    loss = 1 - (2 * overlap + 1) / (called + labelled + 1)
    present = (labelled > _PRESENT).float()
    return (loss * present).sum() / present.sum().clamp(min=1.0)


def lovasz_softmax(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the Lovász extension of Jaccard loss, mean over the classes of each crop; arguments as `cross_entropy`.

    Confidence scales a pixel's error. For the paper see `lovasz_hinge`.
    """
    probability, truth, known = _one_hot(logits, target, weight)
    errors = ((truth - probability).abs() * known).flatten(2).flatten(0, 1)
    truth = (truth * (known > 0)).flatten(2).flatten(0, 1)
    seen = (known > 0).float().expand_as(probability).flatten(2).flatten(0, 1)
    return mean(_lovasz(errors, truth, seen), truth.amax(1))


def landcover_boundary(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return `boundary` of each class that has an outline in a crop; arguments as `cross_entropy`."""
    probability, truth, known = _one_hot(logits, target, weight)
    distance = signed_distance(truth.flatten(0, 1)).to(logits.device).view_as(truth)
    outlined = distance.abs().amax(dim=(2, 3), keepdim=True) > 0
    return mean(probability * distance / target.shape[-1], known * outlined)


def agreement(probability: Tensor, teacher: Tensor, where: Tensor, *, confidence: float) -> Tensor:
    """Return the squared difference to a teacher where that is sure, mean over pixels.

    Args:
        probability: `(n, classes, h, w)` of the network that learns.
        teacher: the same of the averaged network.
        where: `(n, h, w)` 1 where nothing is labelled and there is something to see.
        confidence: least probability of the teacher's first choice.

    References:
        Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017.
    """
    sure = (teacher.amax(dim=1) >= confidence).float() * where
    return mean((probability - teacher).square().sum(dim=1), sure)


def signed_distance(truth: Tensor) -> Tensor:
    """Return pixels to the outline of each mask `(n, h, w)`, negative inside; 0 where a mask is empty or full."""
    result = np.zeros(truth.shape, dtype=np.float32)
    for number, mask in enumerate(truth.detach().cpu().numpy() > 0):
        if mask.any() and not mask.all():
            inside = ndimage.distance_transform_edt(mask)
            result[number] = ndimage.distance_transform_edt(~mask) - np.maximum(inside - 1, 0) * mask
    return torch.from_numpy(result)


def _known(target: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 where a pixel is known, and the target with 0 elsewhere, both float."""
    known = target != IGNORE
    return known.float(), torch.where(known, target, 0).float()


def _weight(target: Tensor, weight: Tensor, class_weight: Tensor | None) -> Tensor:
    known = (target != IGNORE).float() * weight
    if class_weight is None:
        return known
    return known * class_weight[torch.where(target == IGNORE, 0, target)]


def _one_hot(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return probability and truth `(n, classes, h, w)`, and the weight of each pixel `(n, 1, h, w)`."""
    index = torch.where(target == IGNORE, 0, target)
    truth = F.one_hot(index, logits.shape[1]).movedim(-1, 1).float()
    known = _weight(target, weight, None)[:, None]
    return logits.softmax(1), truth * (target != IGNORE)[:, None], known


def _lovasz(errors: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return the Lovász extension of each row's Jaccard loss, `(rows,)` of `(rows, pixels)`, over known pixels."""
    errors = torch.where(known > 0, errors, -torch.inf)
    ordered, order = errors.sort(dim=1, descending=True)
    truth, known = truth.gather(1, order), known.gather(1, order)
    labelled = truth.sum(dim=1, keepdim=True)
    union = labelled + ((1 - truth) * known).cumsum(1)
    jaccard = 1 - (labelled - truth.cumsum(1)) / union.clamp(min=1)
    step = torch.diff(jaccard, dim=1, prepend=torch.zeros_like(labelled))
    return (ordered.relu() * step).sum(dim=1)
