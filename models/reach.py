"""How far the network sees: the receptive field, measured on the network itself."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from tuban.models.ensemble import single_members

if TYPE_CHECKING:
    from torch import Tensor

    from tuban.models.blocks import Standardised
    from tuban.models.ensemble import Ensemble

_SIZES = (512, 1024)
"""Sides of the trial images, pixels; the larger only for a network that sees farther than the smaller shows."""


def receptive_reach(network: Standardised | Ensemble, sizes: tuple[int, ...] = _SIZES) -> int | None:
    """Return the largest distance in pixels, along rows or columns, from which an input can reach an output.

    One input pixel is made NaN, and every output that depends on it becomes NaN whatever the weights: so the result
    is the reach of the architecture, for any kind of layer. A halo of at least this many pixels makes tiles agree
    with the whole scene.

    Args:
        network: the network; it is not changed.
        sizes: sides of the trial images, multiples of twice the stride, tried in turn.

    Returns:
        The reach; None where an input reaches the edge of every trial image, as with anything that averages over the
        whole image: then no halo makes tiles agree exactly.
    """
    trial = copy.deepcopy(network).float().eval()
    # What NaN marks on the way in, a missing pixel, is filled; here it is the marker.
    for member in single_members(trial):
        member.normalise = _through  # type: ignore[method-assign]
    for size in sizes:
        reach = _reach(trial, size)
        if reach is not None:
            return reach
    return None


def _through(x: Tensor) -> Tensor:
    return x


@torch.inference_mode()
def _reach(trial: Standardised | Ensemble, size: int) -> int | None:
    spec = trial.spec
    # The reach depends on where a pixel lies in the deepest cell: all places at once, on strips of a few cells' height
    # (some decoders pool their deepest cells three times).
    height = (2 if spec.architecture == "tuban" else 8) * spec.stride
    places = torch.arange(spec.stride) + size // 2
    blank = torch.zeros(spec.stride, len(spec.bands), height, size)
    marked = blank.clone()
    marked[torch.arange(spec.stride), :, spec.stride, places] = torch.nan
    reach = 0
    for output in trial(marked, None if spec.task == "landcover" else blank):
        touched = torch.empty(0, 4) if output is None else torch.nonzero(output.isnan())
        if not len(touched):
            continue  # land cover of the other date
        image, column = touched[:, [0, -1]].T
        if int(column.min()) < spec.stride or int(column.max()) >= size - spec.stride:
            return None
        reach = max(reach, int((column - places[image]).abs().max()))
    return reach
