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
        depth: encoder stages; the stride of the deepest is 2**depth pixels.
        width: channels of the decoder from the deepest skip to full resolution, `depth` numbers.
        stem: channels of the full-resolution branch, which keeps changes of one or two pixels.
    """

    bands: tuple[str, ...]
    classes: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoder: str = "tu-tf_efficientnet_lite0"
    depth: int = 4
    width: tuple[int, ...] = (64, 48, 32, 16)
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
        self.encoder = get_encoder(spec.encoder, in_channels=count, depth=spec.depth, weights=None)
        if imagenet:
            load_imagenet(self.encoder.model, spec.bands)
        # timm keeps the stages below the last one used; they would be trained by nothing and shipped for nothing.
        del self.encoder.model.blocks[_stages(self.encoder, spec.depth) :]
        channels = [spec.stem, *self.encoder.out_channels[1:]]
        self.stem = nn.Sequential(conv_block(count, spec.stem), conv_block(spec.stem, spec.stem))
        # Land cover is decoded at half resolution: its weak labels are no sharper, and it runs on both dates.
        self.landcover_decoder = Decoder(channels[1:], spec.width[:-1])
        self.landcover_head = nn.Conv2d(spec.width[-2], len(spec.classes), 1)
        self.difference = conv_block(count + 1, spec.stem)
        extra = [spec.stem, *(0 for _ in channels[1:])]
        self.fusion = nn.ModuleList(conv_block(3 * c + e, c, kernel=1) for c, e in zip(channels, extra, strict=True))
        self.change_decoder = Decoder(channels, spec.width)
        self.change_head = nn.Sequential(
            conv_block(spec.width[-1] + 2 * len(spec.classes) + 1, spec.width[-1], kernel=1),
            nn.Conv2d(spec.width[-1], 1, 1),
        )

    def normalise(self, x: Tensor) -> Tensor:
        """Standardise by the training statistics; NaN becomes 0, which is the training mean."""
        x = (x - self.mean) / self.std
        return torch.where(torch.isnan(x), torch.zeros_like(x), x).clamp(-6.0, 6.0)

    def forward(self, before: Tensor, after: Tensor) -> Logits:
        """Return raw outputs for `before` and `after`, both `(n, bands, h, w)` with h, w multiples of the stride."""
        count = before.shape[0]
        both = self.normalise(torch.cat([before, after]))
        pyramid = self.encode(both)
        landcover = upsampled(self.landcover_head(self.landcover_decoder(pyramid[1:])))
        difference, magnitude = contrast(both[:count], both[count:])
        raw = [self.difference(torch.cat([difference, magnitude], dim=1)), *(None for _ in pyramid[1:])]
        fused = [self._fuse(*parts, count) for parts in zip(self.fusion, pyramid, raw, strict=True)]
        change = self.change_decoder(fused)
        first, second = landcover[:count], landcover[count:]
        # The change head sees both land covers, but no gradient flows back: each task keeps its own labels.
        covers = [first.detach().softmax(1), second.detach().softmax(1)]
        logits = self.change_head(torch.cat([change, *covers, magnitude], dim=1))
        return Logits(first, second, logits[:, 0])

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the features of standardised images, finest (full resolution) first."""
        return [self.stem(image), *self.encoder(image)[1:]]

    @staticmethod
    def _fuse(fusion: nn.Module, level: Tensor, raw: Tensor | None, count: int) -> Tensor:
        first, second = level[:count], level[count:]
        parts = [first, second, (second - first).abs()]
        fused: Tensor = fusion(torch.cat(parts if raw is None else [*parts, raw], dim=1))
        return fused


def contrast(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return the difference of each band, and its magnitude over all bands `(n, 1, h, w)`.

    The plain difference image is a strong cue already; the network starts from it instead of having to learn it.
    """
    difference = after - before
    return difference, torch.log1p(difference.square().mean(dim=1, keepdim=True).add(1e-6).sqrt())


def upsampled(landcover: Tensor) -> Tensor:
    """Return land-cover logits at full resolution."""
    return F.interpolate(landcover, scale_factor=2.0, mode="bilinear", align_corners=False)


def _stages(encoder: Any, depth: int) -> int:
    """Return how many of a timm encoder's blocks make its first `depth` features."""
    last: str = encoder.model.feature_info.module_name()[depth - 1]
    return int(last.removeprefix("blocks.")) + 1
