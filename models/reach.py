"""How far the network sees: the receptive field, measured on the network itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from tuban.models.network import ChangeNet


def receptive_reach(network: ChangeNet, size: int = 480) -> int:
    """Return the largest distance in pixels, along rows or columns, from which an input can reach an output.

    Every operation is made to pass influence on (equal positive weights, so nothing cancels), and the farthest
    input with a gradient from one output is measured; so the result is the exact reach of the architecture and
    does not depend on trained weights. A halo of at least this many pixels makes tiles agree with the whole scene.

    Args:
        network: the network; it is not changed.
        size: side of the trial image; must exceed twice the reach.

    Raises:
        ValueError: the reach does not fit into `size`.
    """
    import copy

    trial = copy.deepcopy(network).float().eval()
    for module in trial.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)
    trial.mean.zero_()
    trial.std.fill_(1.0)
    middle = size // 2
    # Small values, so that residual sums stay below the 6 at which ReLU6 would stop the gradient.
    before = torch.full((1, len(network.spec.bands), size, size), 1e-3, requires_grad=True)
    logits = trial(before, torch.full_like(before, 2e-3, requires_grad=False))
    reach = 0
    # The reach depends on where a pixel lies in the deepest cell: it is farthest from the cell's two ends.
    for residue in (0, network.spec.stride - 1):
        position = middle + residue
        total = logits.change[0, position, position] + logits.landcover_before[0, :, position, position].sum()
        (gradient,) = torch.autograd.grad(total, before, retain_graph=True)
        touched = torch.nonzero(gradient.abs().sum(dim=(0, 1)))
        reach = max(reach, position - int(touched.min()), int(touched.max()) - position)
    if reach >= middle - network.spec.stride:
        raise ValueError(f"the reach of at least {reach} pixels does not fit into a trial image of {size}")
    return reach
