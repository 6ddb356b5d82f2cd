"""Imports plain weights into a network of tuban's; a pickle is read for tensors only, and never executed."""

from __future__ import annotations

import dataclasses
import json
import pickle
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tuban.errors import ModelError, UsageError
from tuban.models.export import export_bundle
from tuban.models.network import NetworkSpec, build

if TYPE_CHECKING:
    from torch import Tensor

    from tuban.models.bundle import Bundle
    from tuban.models.import_card import ImportCard

# Imagery varies by several times this share of all light, so weights that are fed what was divided by less were not
# trained on deviations from a mean but on plain numbers, and what a network of tuban's is fed is cut at six deviations.
_LEAST_STD = 0.005
# How segmentation-models-pytorch names the parts of a model of one image.
_SMP_NAMES = {"decoder.": "landcover_decoder.", "segmentation_head.": "landcover_head."}


def from_weights(path: Path, out: Path, card: ImportCard) -> Bundle:
    """Make a bundle of plain weights.

    Raises:
        ModelError: the weights are not those of the network on the card.
        OutputError: the folder cannot be written.
        UsageError: the card describes no network that can be built.
    """
    if card.network is None or not card.std:
        raise UsageError(
            f"weights need `network` and `std` on the card of {card.name}; docs/models.md says what they hold"
        )
    if min(card.std) < _LEAST_STD:
        raise UsageError(
            f"std {min(card.std):g} on the card of {card.name}: these weights are fed plain numbers, and deviations "
            "beyond 6 are cut here; import the network as an ONNX graph whose steps multiply them"
        )
    try:
        spec = NetworkSpec(
            bands=card.bands, classes=card.classes, mean=card.mean, std=card.std, task=card.task, **card.network
        )
    except TypeError as error:
        raise UsageError(f"network: {error}; give encoder, depth, width, stem, architecture and fusion only") from error
    network = build(spec)
    target = network.state_dict()
    state, strange = fitted(_tensors(path), target, card)
    training = {"network": f"imported weights of {spec.architecture}, {spec.encoder}", **card.training}
    if strange:
        training["weights_left_out"] = strange
    facts = card.declared() | {"training": training, "halo": card.halo}
    with tempfile.TemporaryDirectory(prefix="tuban-import-") as scratch:
        folder = Path(scratch)
        (folder / "spec.json").write_text(json.dumps(dataclasses.asdict(spec)), encoding="utf-8")
        save_file(state, str(folder / "weights.safetensors"))
        return export_bundle([folder], out, name=card.name, version=card.version, facts=facts)


def _tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name; a pickle is read for tensors only, and refused where it holds code."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(str(path)))
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise ModelError(f"{path} holds no weights that can be read ({' '.join(str(error).split())[:200]})") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors, which is never executed here; save module.state_dict() where it was "
            "trained, best with safetensors.torch.save_file"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds a {type(found).__name__}, no tensors by name; save module.state_dict()")
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}


def fitted(
    state: dict[str, Tensor], target: dict[str, Tensor], card: ImportCard
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under the network's own names, and the names of those it has no place for.

    Raises:
        ModelError: a tensor is missing or of another shape.
    """
    rename = card.rename or (_SMP_NAMES if card.task == "landcover" else {})
    shared = "module." if all(name.startswith("module.") for name in state) else ""
    named = {}
    for name, tensor in state.items():
        plain = name.removeprefix(shared)
        old = next((old for old in rename if plain.startswith(old)), None)
        named[plain if old is None else rename[old] + plain.removeprefix(old)] = tensor
    made = dict(target)
    missing = [name for name in target if name not in named and name not in {"mean", "std"}]
    if missing := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise ModelError(
            f"the weights lack {len(missing)} of {len(target)} tensors of this network ({', '.join(missing[:3])} …); "
            "correct `network` or `rename` on the card"
        )
    for name, tensor in named.items():
        if name in {"mean", "std"} or name not in target:
            continue
        if tensor.shape != target[name].shape:
            raise ModelError(
                f"{name} is {tuple(tensor.shape)}, the network's {tuple(target[name].shape)}; correct `network`"
            )
        made[name] = tensor.contiguous()
    return made, sorted(name for name in named if name not in target)
