"""Builds the network of a bundle again from its manifest and its safetensors; nothing is ever unpickled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from tuban.errors import ModelError
from tuban.models.deploy import deployed
from tuban.models.ensemble import assembled
from tuban.models.spec import NetworkSpec

if TYPE_CHECKING:
    from torch import Tensor

    from tuban.models.bundle import Bundle
    from tuban.models.deploy import Deployed

# How bundles of version 0.1.0 named the parts of a land-cover network.
_FORMERLY = {"decoder.": "landcover_decoder.", "head.": "landcover_head."}


def rebuild(bundle: Bundle) -> Deployed:
    """Return the deployed network of a bundle.

    Raises:
        ModelError: the bundle holds no network of tuban's, the weights are not those of this version's, or the
            calibration is not recorded.
    """
    if not bundle.network or not bundle.weights_path.exists():
        raise ModelError(f"{bundle.path} holds a graph only, no network to build again; use --backend onnx")
    parts: dict[str, Any] = dict(bundle.network)
    spec = NetworkSpec(
        bands=bundle.bands, classes=bundle.classes, mean=bundle.mean, std=bundle.std, task=bundle.task, **parts
    )
    network = assembled(spec)
    try:
        state = {_named(name): tensor for name, tensor in load_file(bundle.weights_path).items()}
        # Bundles of earlier versions hold no statistics; they stand in the manifest.
        statistics = {name: tensor for name, tensor in network.state_dict().items() if name in {"mean", "std"}}
        network.load_state_dict(statistics | state)
    except (SafetensorError, RuntimeError) as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{bundle.weights_path} does not fit the network of this version ({line}); use --backend onnx"
        ) from error
    if bundle.task == "landcover":
        return deployed(network)
    slope, intercept = (bundle.calibration.get(key) for key in ("slope", "intercept"))
    if not isinstance(slope, int | float) or not isinstance(intercept, int | float):
        raise ModelError(f"{bundle.path} records no calibration slope and intercept; use --backend onnx")
    return deployed(network, float(slope), float(intercept))


def landcover_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a change network that know nothing of a second date."""
    return {
        name: tensor
        for name, tensor in state.items()
        if name in {"mean", "std"} or name.startswith(("encoder.", "landcover_"))
    }


def _named(name: str) -> str:
    prefix = next((old for old in _FORMERLY if name.startswith(old)), "")
    return _FORMERLY.get(prefix, "") + name.removeprefix(prefix)
