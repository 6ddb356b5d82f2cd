"""Any decoder of segmentation-models-pytorch as a siamese network with the same inputs and outputs as tuban's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

from tuban.errors import UsageError
from tuban.models.blocks import Fusion, Standardised, contrast, conv_block, disagreement, seen_covers
from tuban.models.encoder import drop_unused
from tuban.models.spec import Logits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.models.spec import NetworkSpec

_FIVE = 5
# Decoders that come back to the size of the image from any depth.
_ANY_DEPTH = {"unet", "unetplusplus", "manet", "linknet", "pspnet", "deeplabv3"}


def _options(spec: NetworkSpec) -> dict[str, Any]:
    """Return how each decoder is told its channels; one that is not here has none to be told."""
    one = spec.width[0]
    table: dict[str, dict[str, Any]] = {
        "unet": {"decoder_channels": spec.width},
        "unetplusplus": {"decoder_channels": spec.width},
        "manet": {"decoder_channels": spec.width},
        "fpn": {"decoder_pyramid_channels": one, "decoder_segmentation_channels": one},
        "pspnet": {"psp_out_channels": one, "upsampling": spec.stride},
        "deeplabv3": {"decoder_channels": one},
        "deeplabv3plus": {"decoder_channels": one},
        "pan": {"decoder_channels": one},
        "upernet": {"decoder_channels": one},
        "segformer": {"decoder_segmentation_channels": one},
        "linknet": {},
    }
    name = spec.architecture.lower()
    if name not in table:
        names = sorted(c.__name__ for c in smp.MODEL_ARCHITECTURES_MAPPING.values() if c.__name__.lower() in table)
        raise UsageError(f"architecture {spec.architecture!r} is not known; use tuban, {', '.join(names)}")
    return table[name]


def _model(spec: NetworkSpec, outputs: int) -> Any:
    options = _options(spec)
    try:
        return smp.create_model(
            spec.architecture,
            encoder_name=spec.encoder,
            encoder_depth=spec.depth,
            encoder_weights=None,
            in_channels=len(spec.bands),
            classes=outputs,
            **options,
        )
    except (KeyError, ValueError, RuntimeError, IndexError, AssertionError, TypeError) as error:
        line = " ".join(str(error).split())[:300]
        raise UsageError(
            f"architecture {spec.architecture!r} with encoder {spec.encoder!r} of depth {spec.depth} cannot be built "
            f"({line}); choose another encoder, decoder or depth"
        ) from error


class DecoderNet(Standardised):
    """Shared encoder; the chosen decoder once for change on fused features and once for land cover of each date.

    The change head also sees the plain difference at full resolution, both land covers and how much these disagree.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        """Build what the task and the classes of `spec` need."""
        super().__init__(spec)
        count, covers = len(spec.bands), len(spec.classes)
        if covers:
            model = _model(spec, covers)
            self.encoder, self.landcover_decoder = model.encoder, model.decoder
            self.landcover_head = model.segmentation_head
        if spec.task == "change":
            features = spec.width[-1]
            model = _model(spec, features)
            self.encoder, self.change_decoder, self.change_up = model.encoder, model.decoder, model.segmentation_head
            self.fusion = nn.ModuleList(
                Fusion(c, spec.fusion) if c else nn.Identity() for c in self.encoder.out_channels[1:]
            )
            self.difference = nn.Sequential(conv_block(count + 1, spec.stem), conv_block(spec.stem, spec.stem))
            seen = features + spec.stem + (2 * covers + 1 if covers else 0)
            self.change_head = nn.Sequential(conv_block(seen, spec.stem, kernel=1), nn.Conv2d(spec.stem, 1, 1))
        drop_unused(self.encoder, count, 2 * spec.stride)

    def forward(self, before: Tensor, after: Tensor | None = None) -> Logits:
        """Return raw outputs for `before` and `after`, both `(n, bands, h, w)` with h, w multiples of the stride."""
        if self.spec.task == "landcover" or after is None:
            return Logits(self.landcover(self.normalise(before)), None, None)
        count = before.shape[0]
        both = self.normalise(torch.cat([before, after]))
        pyramid = self.encoder(both)
        covers: Sequence[Tensor] = ()
        if self.spec.classes:
            cover = self._sized(self.landcover_head(self.landcover_decoder(pyramid)), both)
            covers = cover[:count], cover[count:]
        seen = self._fused(pyramid, count)
        difference = self.difference(torch.cat(contrast(both[:count], both[count:]), dim=1))
        chances = seen_covers(covers)
        agreed = [*chances, disagreement(chances)] if chances else []
        logits = self.change_head(torch.cat([seen, difference, *agreed], dim=1))[:, 0]
        return Logits(covers[0], covers[1], logits) if covers else Logits(None, None, logits)

    def _fused(self, pyramid: Sequence[Tensor], count: int) -> Tensor:
        levels = [
            fusion(level[:count], level[count:]) if isinstance(fusion, Fusion) else level[:count]
            for fusion, level in zip(self.fusion, pyramid[1:], strict=True)
        ]
        # Decoders take the input image as the first level and none looks at it.
        decoded = self.change_up(self.change_decoder([pyramid[0][:count], *levels]))
        return self._sized(decoded, pyramid[0])

    def landcover(self, standardised: Tensor) -> Tensor:
        """Return land-cover logits `(n, classes, h, w)` of standardised images of one date."""
        return self._sized(self.landcover_head(self.landcover_decoder(self.encoder(standardised))), standardised)

    def _sized(self, made: Tensor, image: Tensor) -> Tensor:
        """Return features at the size of the image, which decoders made for five stages miss with fewer."""
        if self.spec.depth == _FIVE or self.spec.architecture.lower() in _ANY_DEPTH:
            return made
        return functional.interpolate(made, size=image.shape[-2:], mode="bilinear", align_corners=False)
