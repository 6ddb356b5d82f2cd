"""Parts of a network rewritten for the graph that is exported: equal but for rounding, in less memory and time.

BatchNorm is folded into its convolution, a convolution over concatenated parts becomes the sum of one over each part,
TensorFlow's one-sided padding becomes part of the convolution, and a convolution after nearest-neighbour upsampling
is done before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the field's standard alias)
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.models.blocks import Decoder


def softmax(logits: Tensor) -> Tensor:
    """Return the softmax over axis 1, written so that no runtime has to move that axis to the end."""
    raised = torch.exp(logits - logits.amax(dim=1, keepdim=True))
    return raised / raised.sum(dim=1, keepdim=True)


class _OneSided(torch.autograd.Function):
    """A convolution of stride 2 padded more at the end; exported as one node, which autograd padding would not be."""

    @staticmethod
    def forward(_context: Any, x: Tensor, weight: Tensor, low: int, high: int, groups: int) -> Tensor:
        """Return the convolution of `x` with `low` zeros before and `high` behind each axis."""
        return F.conv2d(F.pad(x, (low, high, low, high)), weight, None, 2, 0, 1, groups)

    @staticmethod
    def symbolic(graph: Any, x: Any, weight: Any, low: int, high: int, groups: int) -> Any:
        """Return the ONNX node."""
        pads = [low, low, high, high]
        return graph.op("Conv", x, weight, pads_i=pads, strides_i=[2, 2], dilations_i=[1, 1], group_i=groups)


class _Static(nn.Module):
    """timm's `Conv2dSame` for sides that are multiples of the stride, whose padding is then always the same."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if conv.stride == (1, 1):
            padding = conv.kernel_size[0] // 2 * conv.dilation[0]
            return F.conv2d(x, conv.weight, conv.bias, 1, padding, conv.dilation, conv.groups)
        total = conv.kernel_size[0] - 2
        made: Tensor = _OneSided.apply(x, conv.weight, total // 2, total - total // 2, conv.groups)
        return made


class _Pooled(nn.Module):
    """Average pooling to a given number of cells, written so that the graph holds for every size of the input."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def _shares(self, size: int, device: torch.device) -> Tensor:
        # While a graph is traced `size` is a tensor, and stays one: the graph then holds for every size.
        cell = torch.arange(self.cells, device=device).unsqueeze(1)
        place = torch.arange(size, device=device).unsqueeze(0)
        inside = (place >= cell * size // self.cells) & (place < ((cell + 1) * size + self.cells - 1) // self.cells)
        weights = inside.to(torch.float32)
        return weights / weights.sum(dim=1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = self._shares(x.shape[-2], x.device), self._shares(x.shape[-1], x.device)
        return rows @ x @ cols.T


def static(module: nn.Module) -> None:
    """Replace, in place, what would put the traced size into the graph by what holds for every size."""
    for name, child in module.named_children():
        if type(child).__name__ == "Conv2dSame" and isinstance(child, nn.Conv2d):
            setattr(module, name, _Static(child))
        elif isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
            cells = child.output_size
            setattr(module, name, _Pooled(cells if isinstance(cells, int) else int((cells or (1,))[0] or 1)))
        else:
            static(child)


def _fused(block: Any) -> tuple[Tensor, Tensor, int]:
    """Return weight, bias and padding of a `conv_block` with its BatchNorm folded in."""
    conv = fuse_conv_bn_eval(block[0], block[1])
    if conv.bias is None:
        raise ValueError("a folded convolution has a bias")
    return conv.weight.detach(), conv.bias.detach(), conv.kernel_size[0] // 2


class Parts(nn.Module):
    """A `conv_block` over the concatenation of parts, without concatenating them."""

    def __init__(self, block: nn.Module, sizes: Sequence[int]) -> None:
        """Split the weights of `block` by the channels of each part."""
        super().__init__()
        weight, bias, self.padding = _fused(block)
        self.weights = nn.ParameterList(part.contiguous() for part in torch.split(weight, list(sizes), dim=1))
        self.bias = nn.Parameter(bias)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Return what the block gives for the concatenated parts."""
        total = F.conv2d(parts[0], self.weights[0], self.bias, padding=self.padding)
        for weight, part in zip(self.weights[1:], parts[1:], strict=True):
            total = total + F.conv2d(part, weight, padding=self.padding)
        return F.relu(total)


class _Raised(nn.Module):
    """A decoder's block: 3 × 3 convolution over the upsampled deeper features beside the skip.

    On an upsampled image each of the four pixels that came of one sees that pixel's neighbours only: four kernels on
    the small image, sorted into place, give the same and never write the upsampled image.
    """

    def __init__(self, block: nn.Module, deeper: int) -> None:
        super().__init__()
        weight, bias, _ = _fused(block)
        self.skip = nn.Parameter(weight[:, deeper:].contiguous())
        self.bias = nn.Parameter(bias)
        fold = torch.zeros(2, 3, 3)
        # Tap t of the output's row 2i + p falls on the small image's row i + floor((p + t - 1) / 2).
        for phase in range(2):
            for tap in range(3):
                fold[phase, (phase + tap - 1) // 2 + 1, tap] = 1
        kernels = torch.einsum("pat,qbu,oitu->opqiab", fold, fold, weight[:, :deeper])
        self.kernels = nn.Parameter(kernels.reshape(-1, deeper, 3, 3).contiguous())

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        raised = F.pixel_shuffle(F.conv2d(x, self.kernels, padding=1), 2)
        return F.relu(raised + F.conv2d(skip, self.skip, self.bias, padding=1))


def channels_of(block: Any) -> int:
    """Return the channels that a `conv_block` gives."""
    return int(block[0].out_channels)


class FoldedDecoder(nn.Module):
    """`tuban.models.blocks.Decoder`, which never writes an upsampled image."""

    def __init__(self, decoder: Decoder) -> None:
        """Fold the blocks of `decoder`."""
        super().__init__()
        blocks, deeper = [], decoder.deepest
        for block in decoder.blocks:
            blocks.append(_Raised(block, deeper))
            deeper = channels_of(block)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return features at the resolution of `pyramid[0]`."""
        x = pyramid[-1]
        for block, skip in zip(self.blocks, reversed(pyramid[:-1]), strict=True):
            x = block(x, skip)
        return x
