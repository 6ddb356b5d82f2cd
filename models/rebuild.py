"""Builds the network of a bundle again from its manifest and its safetensors; nothing is ever unpickled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from tuban.errors import ModelError
from tuban.models.deploy import DeployedChange, DeployedLandcover, LandcoverHalf
from tuban.models.network import ChangeNet, NetworkSpec

if TYPE_CHECKING:
    from torch import nn

    from tuban.models.bundle import Bundle


def rebuild(bundle: Bundle) -> DeployedChange | DeployedLandcover:
    """Return the deployed network of a bundle.

    Raises:
        ModelError: the weights are not those of this version's network, or the calibration is not recorded.
    """
    parts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in bundle.network.items()}
    spec = NetworkSpec(bands=bundle.bands, classes=bundle.classes, mean=bundle.mean, std=bundle.std, **parts)
    network = ChangeNet(spec, imagenet=False)
    if bundle.task == "landcover":
        half = LandcoverHalf(network)
        _load(half, bundle)
        return DeployedLandcover(half, bundle.mean, bundle.std)
    slope, intercept = (bundle.calibration.get(key) for key in ("slope", "intercept"))
    if not isinstance(slope, int | float) or not isinstance(intercept, int | float):
        raise ModelError(f"{bundle.path} records no calibration slope and intercept; use --backend onnx")
    _load(network, bundle)
    return DeployedChange(network, float(slope), float(intercept))


def _load(module: nn.Module, bundle: Bundle) -> None:
    try:
        module.load_state_dict(load_file(bundle.weights_path))
    except (SafetensorError, RuntimeError) as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{bundle.weights_path} does not fit the network of this version ({line}); use --backend onnx"
        ) from error
