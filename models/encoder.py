"""Encoders of segmentation-models-pytorch and timm, without the parts that no feature of theirs needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from tuban.errors import UsageError

if TYPE_CHECKING:
    from tuban.models.spec import NetworkSpec


def make_encoder(spec: NetworkSpec) -> Any:
    """Return the encoder of `spec` with random weights; `out_channels` are those of its features, the input's first.

    Raises:
        UsageError: there is no such encoder, it has no such depth, or it takes images of one size only.
    """
    try:
        encoder = get_encoder(spec.encoder, in_channels=len(spec.bands), depth=spec.depth, weights=None)
    except (KeyError, ValueError, RuntimeError, IndexError, AssertionError) as error:
        line = " ".join(str(error).split())[:300]
        raise UsageError(
            f"encoder {spec.encoder!r} of depth {spec.depth} cannot be built ({line}); see "
            "segmentation_models_pytorch.encoders.get_encoder_names(), or tu-NAME for timm's NAME"
        ) from error
    drop_unused(encoder, len(spec.bands), 2 * spec.stride)
    return encoder


def drop_unused(encoder: Any, bands: int, side: int) -> None:
    """Take out the modules whose weights no feature depends on: they would be trained by nothing and shipped.

    Args:
        encoder: gives a list of features; left in its mode, its statistics untouched.
        bands: channels of its input.
        side: of the trial image, pixels.

    Raises:
        UsageError: the encoder takes images of one size only.
    """
    training = encoder.training
    encoder.eval()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            features = encoder(torch.rand(1, bands, side, side))[1:]
        except (AssertionError, RuntimeError, ValueError) as error:  # timm asserts the size it was made for
            line = " ".join(str(error).split())[:300]
            raise UsageError(
                f"this encoder does not take images of {side} × {side} pixels ({line}); choose one that takes any "
                "size, such as a convolutional one"
            ) from error
        used = [p for p in encoder.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(
            sum(feature.sum() for feature in features), used, allow_unused=True, materialize_grads=False
        )
    unused = {id(p) for p, gradient in zip(used, gradients, strict=True) if gradient is None}
    if unused:
        _prune(encoder, unused)
    encoder.train(training)


def _prune(module: nn.Module, unused: set[int]) -> None:
    for name, child in module.named_children():
        weights = list(child.parameters())
        if weights and all(id(weight) in unused for weight in weights):
            setattr(module, name, nn.Identity())
        else:
            _prune(child, unused)
