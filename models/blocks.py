"""What networks are made of: convolution blocks, the fusion of two dates, a U-Net decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the field's standard alias)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.models.spec import FusionKind, NetworkSpec


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


class Fusion(nn.Sequential):
    """Makes one set of features of both dates' at one scale, by a 1 × 1 convolution.

    Nothing here looks beyond the pixel, so fusion never adds to how far the network sees.
    """

    def __init__(self, channels: int, kind: FusionKind, extra: int = 0) -> None:
        """Take `channels` of each date and `extra` beside them, and give `channels`."""
        parts = {"all": 3, "difference": 1, "concat": 2, "attention": 1}[kind]
        super().__init__(*conv_block(parts * channels + extra, channels, kernel=1))
        self.kind = kind
        self.gate = nn.Conv2d(3 * channels, 3, 1) if kind == "attention" else None

    # A sequence's forward takes one tensor; this one is a conv_block with a choice of what is fed to it.
    def forward(self, first: Tensor, second: Tensor, raw: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the fused features of `first` and `second`; `raw` is fed beside them."""
        parts = self._parts(first, second)
        x = torch.cat(parts if raw is None else [*parts, raw], dim=1)
        fused: Tensor = self[2](self[1](self[0](x)))
        return fused

    def _parts(self, first: Tensor, second: Tensor) -> list[Tensor]:
        if self.kind == "concat":
            return [first, second]
        difference = (second - first).abs()
        if self.kind == "difference":
            return [difference]
        if self.gate is None:
            return [first, second, difference]
        shares = self.gate(torch.cat([first, second, difference], dim=1)).softmax(dim=1)
        return [shares[:, :1] * first + shares[:, 1:2] * second + shares[:, 2:] * difference]


class Standardised(nn.Module, ABC):
    """A network that standardises its inputs itself.

    Input values are in the bundle's units (surface or top-of-atmosphere reflectance); NaN marks an invalid
    pixel or a missing band and becomes the training mean, so that it carries no evidence.
    """

    mean: Tensor
    std: Tensor
    encoder: Any

    def __init__(self, spec: NetworkSpec) -> None:
        """Keep the training statistics of `spec`."""
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))

    def normalise(self, x: Tensor) -> Tensor:
        """Standardise by the training statistics; NaN becomes 0, which is the training mean."""
        x = (x - self.mean) / self.std
        return torch.where(torch.isnan(x), torch.zeros_like(x), x).clamp(-6.0, 6.0)

    @abstractmethod
    def landcover(self, standardised: Tensor) -> Tensor:
        """Return land-cover logits `(n, classes, h, w)` of standardised images of one date."""


def contrast(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return the difference of each band, and its magnitude over all bands `(n, 1, h, w)`.

    The plain difference image is a strong cue already; the network starts from it instead of having to learn it.
    """
    difference = after - before
    return difference, torch.log1p(difference.square().mean(dim=1, keepdim=True).add(1e-6).sqrt())


def seen_covers(covers: Sequence[Tensor]) -> list[Tensor]:
    """Return what a change head sees of both dates' land-cover logits: probabilities, without a gradient back.

    So change agrees with what the land was called, while each task keeps to its own labels.
    """
    return [cover.detach().softmax(1) for cover in covers]


def disagreement(chances: Sequence[Tensor]) -> Tensor:
    """Return the probability `(n, 1, h, w)` that two dates' class probabilities mean different classes."""
    first, second = chances
    return 1 - (first * second).sum(dim=1, keepdim=True)


def upsampled(landcover: Tensor) -> Tensor:
    """Return land-cover logits at full resolution."""
    return F.interpolate(landcover, scale_factor=2.0, mode="bilinear", align_corners=False)
