"""The siamese network: one encoder for both dates, land cover for each date, and change.

References:
    Daudt et al., "Fully Convolutional Siamese Networks for Change Detection", ICIP 2018 (differences per scale).
    Daudt et al., "Multitask learning for large-scale semantic change detection", CVIU 2019 (land cover with change).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the field's standard alias)

from tuban.models.encoder import load_imagenet


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything needed to build the network again from its weights.

    Attributes:
        bands: canonical band names in input order.
        classes: unified classes in the order of the land-cover channels.
        mean: training mean per band, in the units of the input.
        std: training standard deviation per band, same units.
        encoder: encoder name of segmentation-models-pytorch.
        depth: resolutions of the encoder; the stride of the deepest is 2**depth pixels.
        context: whether the encoder's next stage is kept, at the same stride, for a wider view at little cost.
        width: channels of the decoder from the deepest skip to full resolution, `depth` numbers.
        stem: channels of the full-resolution branch, which keeps changes of one or two pixels.
    """

    bands: tuple[str, ...]
    classes: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoder: str = "tu-tf_efficientnet_lite0"
    depth: int = 3
    context: bool = True
    width: tuple[int, ...] = (64, 32, 16)
    stem: int = 16

    @property
    def stride(self) -> int:
        """Window sizes and origins must be multiples of this many pixels."""
        return int(2**self.depth)


class Logits(NamedTuple):
    """Raw outputs: land cover `(n, classes, h, w)` before and after, change `(n, h, w)`."""

    landcover_before: Tensor
    landcover_after: Tensor
    change: Tensor


def conv_block(channels_in: int, channels_out: int, kernel: int = 3) -> nn.Sequential:
    """Return convolution, batch normalisation and ReLU with unchanged height and width."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class Decoder(nn.Module):
    """U-Net decoder from a pyramid of features, finest first, to the resolution of the finest."""

    def __init__(self, channels: list[int], width: tuple[int, ...]) -> None:
        """Build one block per step upwards; `channels` are the pyramid's, finest first."""
        super().__init__()
        self.deepest = current = channels[-1]
        blocks = []
        for skip, out in zip(reversed(channels[:-1]), width, strict=True):
            blocks.append(conv_block(current + skip, out))
            current = out
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Return features `(n, width[-1], …)` at the resolution of `pyramid[0]`."""
        x = pyramid[-1]
        for block, skip in zip(self.blocks, reversed(pyramid[:-1]), strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        return x


class ChangeNet(nn.Module):
    """Shared encoder, one land-cover decoder used on each date, one change decoder on fused features.

    Input values are in the bundle's units (surface or top-of-atmosphere reflectance); NaN marks an invalid
    pixel or a missing band and becomes the training mean, so that it carries no evidence.
    """

    mean: Tensor
    std: Tensor
    encoder: Any

    def __init__(self, spec: NetworkSpec, *, imagenet: bool = False) -> None:
        """Build the network; `imagenet` starts the encoder from ImageNet weights."""
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))
        count = len(spec.bands)
        self.encoder, channels = _encoder(spec, imagenet=imagenet)
        # Land cover is decoded at half resolution: its weak labels are no sharper, and it runs on both dates.
        self.landcover_decoder = Decoder(channels, spec.width[:-1])
        self.landcover_head = nn.Conv2d(spec.width[-2], len(spec.classes), 1)
        # Full resolution is worth its cost only where the dates are compared: the plain difference image is a strong
        # cue, and the network starts from it instead of having to learn it.
        self.difference = nn.Sequential(conv_block(count + 1, spec.stem), conv_block(spec.stem, spec.stem))
        # The finest fusion also sees both land covers.
        extra = [2 * len(spec.classes), *(0 for _ in channels[1:])]
        self.fusion = nn.ModuleList(conv_block(3 * c + e, c, kernel=1) for c, e in zip(channels, extra, strict=True))
        self.change_decoder = Decoder([spec.stem, *channels], spec.width)
        self.change_head = nn.Conv2d(spec.width[-1], 1, 1)

    def normalise(self, x: Tensor) -> Tensor:
        """Standardise by the training statistics; NaN becomes 0, which is the training mean."""
        x = (x - self.mean) / self.std
        return torch.where(torch.isnan(x), torch.zeros_like(x), x).clamp(-6.0, 6.0)

    def forward(self, before: Tensor, after: Tensor) -> Logits:
        """Return raw outputs for `before` and `after`, both `(n, bands, h, w)` with h, w multiples of the stride."""
        count = before.shape[0]
        both = self.normalise(torch.cat([before, after]))
        pyramid = self.encode(both)
        landcover = self.landcover_head(self.landcover_decoder(pyramid))
        # No gradient flows back from change to land cover: each task keeps its own labels.
        covers = landcover.detach().softmax(1)
        fused = [
            fusion(self.compared(level[:count], level[count:], covers if place == 0 else None))
            for place, (fusion, level) in enumerate(zip(self.fusion, pyramid, strict=True))
        ]
        difference = self.difference(self.contrast(both[:count], both[count:]))
        change = self.change_head(self.change_decoder([difference, *fused]))
        landcover = upsampled(landcover)
        return Logits(landcover[:count], landcover[count:], change[:, 0])

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the features of standardised images, finest (half resolution) first."""
        pyramid: list[Tensor] = self.encoder(image)
        return pyramid

    @staticmethod
    def contrast(before: Tensor, after: Tensor) -> Tensor:
        """Return the difference of each band and its magnitude over all bands."""
        difference = after - before
        magnitude = torch.log1p(difference.square().mean(dim=1, keepdim=True).add(1e-6).sqrt())
        return torch.cat([difference, magnitude], dim=1)

    @staticmethod
    def compared(first: Tensor, second: Tensor, covers: Tensor | None) -> Tensor:
        """Return what a fusion sees: both dates' features, their absolute difference, and perhaps both land covers."""
        parts = [first, second, (second - first).abs()]
        if covers is not None:
            count = len(first)
            parts += [covers[:count], covers[count:]]
        return torch.cat(parts, dim=1)


def upsampled(landcover: Tensor) -> Tensor:
    """Return land-cover logits at full resolution."""
    return F.interpolate(landcover, scale_factor=2.0, mode="bilinear", align_corners=False)


class Encoder(nn.Module):
    """The first stages of a timm encoder; gives the last features of each resolution."""

    def __init__(self, model: Any, stages: tuple[tuple[int, ...], ...]) -> None:
        """Keep the blocks named in `stages`: for each resolution the indices of the blocks that make it."""
        super().__init__()
        self.conv_stem, self.bn1 = model.conv_stem, model.bn1
        self.stages = nn.ModuleList(nn.Sequential(*(model.blocks[i] for i in stage)) for stage in stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the pyramid of `(n, bands, h, w)`, finest first."""
        x = self.bn1(self.conv_stem(x))
        pyramid = []
        for stage in self.stages:
            x = stage(x)
            pyramid.append(x)
        return pyramid


def _encoder(spec: NetworkSpec, *, imagenet: bool) -> tuple[Encoder, list[int]]:
    """Return the encoder and its channels, finest first."""
    whole = get_encoder(spec.encoder, in_channels=len(spec.bands), depth=5, weights=None)
    if imagenet:
        load_imagenet(whole.model, spec.bands)
    # EfficientNet-Lite: blocks 0, 1, 2 end at stride 2, 4, 8; 3 and 4 at 16; 5 and 6 at 32.
    last = [int(name.removeprefix("blocks.")) for name in whole.model.feature_info.module_name()]
    stages = [tuple(range(last[i - 1] + 1 if i else 0, last[i] + 1)) for i in range(spec.depth)]
    if spec.context:
        following = last[spec.depth - 1] + 1
        for module in whole.model.blocks[following].modules():
            if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
                module.stride = (1, 1)
        stages[-1] = (*stages[-1], following)
    encoder = Encoder(whole.model, tuple(stages))
    with torch.no_grad():
        channels = [level.shape[1] for level in encoder.eval()(torch.zeros(1, len(spec.bands), 64, 64))]
    return encoder.train(), channels
