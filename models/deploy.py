"""The network as it is shipped: the same numbers in less memory and time, probabilities instead of logits.

Training wants few large operations; a runtime on a CPU wants little memory written. So for the graph that is exported
BatchNorm is folded into its convolution, a convolution over concatenated parts becomes the sum of one over each part,
TensorFlow's one-sided padding becomes part of the convolution, and a convolution after nearest-neighbour upsampling
is done before it. The results are equal but for rounding; the export checks it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the field's standard alias)
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tuban.models.network import ChangeNet, Decoder, contrast, upsampled

if TYPE_CHECKING:
    from collections.abc import Sequence


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
            return F.conv2d(x, conv.weight, conv.bias, 1, conv.kernel_size[0] // 2, 1, conv.groups)
        total = conv.kernel_size[0] - 2
        made: Tensor = _OneSided.apply(x, conv.weight, total // 2, total - total // 2, conv.groups)
        return made


def _static(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child).__name__ == "Conv2dSame" and isinstance(child, nn.Conv2d):
            setattr(module, name, _Static(child))
        else:
            _static(child)


def _fused(block: Any) -> tuple[Tensor, Tensor, int]:
    """Return weight, bias and padding of a `conv_block` with its BatchNorm folded in."""
    conv = fuse_conv_bn_eval(block[0], block[1])
    if conv.bias is None:
        raise ValueError("a folded convolution has a bias")
    return conv.weight.detach(), conv.bias.detach(), conv.kernel_size[0] // 2


class _Parts(nn.Module):
    """A `conv_block` over the concatenation of parts, without concatenating them."""

    def __init__(self, block: nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        weight, bias, self.padding = _fused(block)
        self.weights = nn.ParameterList(part.contiguous() for part in torch.split(weight, list(sizes), dim=1))
        self.bias = nn.Parameter(bias)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
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


def _channels(block: Any) -> int:
    """Return the channels that a `conv_block` gives."""
    return int(block[0].out_channels)


class _Decoder(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        blocks, deeper = [], decoder.deepest
        for block in decoder.blocks:
            blocks.append(_Raised(block, deeper))
            deeper = _channels(block)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        x = pyramid[-1]
        for block, skip in zip(self.blocks, reversed(pyramid[:-1]), strict=True):
            x = block(x, skip)
        return x


class DeployedChange(nn.Module):
    """`ChangeNet` as it is exported.

    A bundle with a `background_quantile` is calibrated relative to the pair (`tuban.inference.background`).

    Attributes:
        outputs: names of what `forward` returns.
    """

    inputs = ("before", "after")
    outputs = ("landcover_before", "landcover_after", "change", "landcover_before_class", "landcover_after_class")

    def __init__(self, network: ChangeNet, slope: float = 1.0, intercept: float = 0.0) -> None:
        """Wrap a copy of `network` with the Platt scaling `sigmoid(slope * logit + intercept)`."""
        super().__init__()
        network = copy.deepcopy(network).eval()
        _static(network)
        self.slope, self.intercept = float(slope), float(intercept)
        self.mean, self.scale = nn.Parameter(network.mean), nn.Parameter(1 / network.std)
        self.network = network
        spec = network.spec
        classes = len(spec.classes)
        self.landcover_decoder = _Decoder(network.landcover_decoder)
        self.change_decoder = _Decoder(network.change_decoder)
        self.difference = _Parts(network.difference, [len(spec.bands), 1])
        self.fusion = nn.ModuleList(
            _Parts(block, [_channels(block)] * 3 + ([spec.stem] if place == 0 else []))
            for place, block in enumerate(network.fusion)
        )
        self.head = _Parts(network.change_head[0], [spec.width[-1], classes, classes, 1])

    def normalise(self, x: Tensor) -> Tensor:
        """Standardise by the training statistics; NaN becomes the mean."""
        x = torch.where(torch.isnan(x), self.mean, x)
        return ((x - self.mean) * self.scale).clamp(-6.0, 6.0)

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, ...]:
        """Return probabilities `(n, classes, h, w)` twice, change `(n, h, w)`, and the two classes' positions uint8."""
        first, second = self.normalise(before), self.normalise(after)
        difference, magnitude = contrast(first, second)
        raw = self.difference([difference, magnitude])
        pyramids = [self.network.encode(image) for image in (first, second)]
        covers = [upsampled(self.network.landcover_head(self.landcover_decoder(pyramid[1:]))) for pyramid in pyramids]
        levels = [
            fusion([a, b, (b - a).abs(), *([raw] if place == 0 else [])])
            for place, (fusion, a, b) in enumerate(zip(self.fusion, *pyramids, strict=True))
        ]
        chances = [softmax(cover) for cover in covers]
        features = self.head([self.change_decoder(levels), *chances, magnitude])
        change = torch.sigmoid(self.slope * self.network.change_head[1](features)[:, 0] + self.intercept)
        return *chances, change, *(cover.argmax(dim=1).to(torch.uint8) for cover in covers)


class DeployedLandcover(nn.Module):
    """A network that gives land-cover logits of one standardised image, as it is exported."""

    inputs = ("image",)
    outputs = ("landcover", "landcover_class", "landcover_confidence")

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap a copy of `network`, which maps `(n, bands, h, w)` to `(n, classes, h, w)`."""
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        _static(self.network)
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.scale = nn.Parameter(1 / torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities `(n, classes, h, w)`, the largest's position uint8 and its value, both `(n, h, w)`."""
        x = torch.where(torch.isnan(image), self.mean, image)
        probabilities = softmax(self.network(((x - self.mean) * self.scale).clamp(-6.0, 6.0)))
        confidence, best = probabilities.max(dim=1)
        return probabilities, best.to(torch.uint8), confidence


class LandcoverHalf(nn.Module):
    """The land-cover half of a `ChangeNet`: standardised image in, logits `(n, classes, h, w)` out."""

    def __init__(self, network: ChangeNet) -> None:
        """Share the parts of `network` that know nothing of a second date."""
        super().__init__()
        self.encoder, self.decoder, self.head = network.encoder, network.landcover_decoder, network.landcover_head

    def forward(self, image: Tensor) -> Tensor:
        """Return logits at full resolution."""
        return upsampled(self.head(self.decoder(self.encoder(image)[1:])))
