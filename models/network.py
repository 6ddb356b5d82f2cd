"""The networks: one encoder for both dates, land cover for each date, and change.

References:
    Daudt et al., "Fully Convolutional Siamese Networks for Change Detection", ICIP 2018 (differences per scale).
    Daudt et al., "Multitask learning for large-scale semantic change detection", CVIU 2019 (land cover with change).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tuban.errors import UsageError
from tuban.models.blocks import Decoder, Fusion, Standardised, contrast, conv_block, seen_covers, upsampled
from tuban.models.encoder import make_encoder
from tuban.models.initialise import initialise as start
from tuban.models.smp import DecoderNet
from tuban.models.spec import Logits, NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["ChangeNet", "Logits", "NetworkSpec", "build"]


def build(spec: NetworkSpec, *, initialise: str | Path | None = None) -> ChangeNet | DecoderNet:
    """Build the network that `spec` describes.

    Args:
        spec: what to build.
        initialise: what the weights start from: None (random), `imagenet`, `csmask` (remote sensing, EfficientNet-B4),
            or the path of a safetensors checkpoint of the encoder or of an earlier run.

    Returns:
        A module with `.spec`, `.encoder` and `forward(before, after=None) -> Logits`.

    Raises:
        MissingExtraError: the package that holds the initial weights is not installed.
        ModelError: the initial weights do not fit.
        UsageError: there is no such encoder, decoder or source of weights, or `spec` has several members.
    """
    if spec.members > 1 or spec.smooth:
        raise UsageError(f"{spec.members} members, smooth {spec.smooth}: members are built and trained one by one")
    # A network that is built where nothing is to be learnt is one that can be trained all the same.
    with torch.inference_mode(mode=False):
        network = ChangeNet(spec) if spec.architecture == "tuban" else DecoderNet(spec)
    if initialise is not None:
        start(network, initialise)
    return network


class ChangeNet(Standardised):
    """Architecture `tuban`: shared encoder, one land-cover decoder used on each date, one change decoder.

    Small, with nothing that looks over the whole tile; `tuban.models.deploy` writes it in its fastest form.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        """Build what the task and the classes of `spec` need."""
        super().__init__(spec)
        count, covers = len(spec.bands), len(spec.classes)
        self.encoder = make_encoder(spec)
        channels = [spec.stem, *self.encoder.out_channels[1:]]
        if change := spec.task == "change":
            self.stem = nn.Sequential(conv_block(count, spec.stem), conv_block(spec.stem, spec.stem))
        if covers:
            # Land cover is decoded at half resolution: its weak labels are no sharper, and it runs on both dates.
            self.landcover_decoder = Decoder(channels[1:], spec.width[:-1])
            self.landcover_head = nn.Conv2d(spec.width[-2], covers, 1)
        if change:
            self.difference = conv_block(count + 1, spec.stem)
            extra = [spec.stem, *(0 for _ in channels[1:])]
            self.fusion = nn.ModuleList(Fusion(c, spec.fusion, e) for c, e in zip(channels, extra, strict=True))
            self.change_decoder = Decoder(channels, spec.width)
            self.change_head = nn.Sequential(
                conv_block(spec.width[-1] + 2 * covers + 1, spec.width[-1], kernel=1),
                nn.Conv2d(spec.width[-1], 1, 1),
            )

    def forward(self, before: Tensor, after: Tensor | None = None) -> Logits:
        """Return raw outputs for `before` and `after`, both `(n, bands, h, w)` with h, w multiples of the stride."""
        if self.spec.task == "landcover" or after is None:
            return Logits(self.landcover(self.normalise(before)), None, None)
        count = before.shape[0]
        both = self.normalise(torch.cat([before, after]))
        pyramid = self.encode(both)
        covers: Sequence[Tensor] = ()
        if self.spec.classes:
            cover = self._covers(pyramid)
            covers = cover[:count], cover[count:]
        difference, magnitude = contrast(both[:count], both[count:])
        raw = [self.difference(torch.cat([difference, magnitude], dim=1)), *(None for _ in pyramid[1:])]
        fused = [
            fusion(level[:count], level[count:], beside)
            for fusion, level, beside in zip(self.fusion, pyramid, raw, strict=True)
        ]
        change = self.change_decoder(fused)
        logits = self.change_head(torch.cat([change, *seen_covers(covers), magnitude], dim=1))[:, 0]
        return Logits(covers[0], covers[1], logits) if covers else Logits(None, None, logits)

    def landcover(self, standardised: Tensor) -> Tensor:
        """Return land-cover logits `(n, classes, h, w)` of standardised images of one date."""
        return self._covers([standardised, *self.encoder(standardised)[1:]])

    def _covers(self, pyramid: list[Tensor]) -> Tensor:
        return upsampled(self.landcover_head(self.landcover_decoder(pyramid[1:])))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the features of standardised images, finest (full resolution) first."""
        features: list[Any] = self.encoder(image)
        return [self.stem(image), *features[1:]]
