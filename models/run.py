"""Finished training runs, read back as networks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from tuban.errors import ModelError
from tuban.models.network import build
from tuban.models.rebuild import landcover_state
from tuban.models.spec import NetworkSpec

if TYPE_CHECKING:
    from tuban.models.blocks import Standardised
    from tuban.models.spec import Task


def read_run(folder: Path, task: Task | None = None) -> Standardised:
    """Build the network of a training run's folder (`spec.json`, `weights.safetensors`).

    Args:
        folder: the run.
        task: `landcover` takes the half of a change network that knows nothing of a second date; None the whole.

    Raises:
        ModelError: a file is missing or does not fit the network.
        UsageError: there is no such encoder or decoder.
    """
    try:
        spec = NetworkSpec(**json.loads((folder / "spec.json").read_text(encoding="utf-8")))
        state = load_file(str(folder / "weights.safetensors"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} is no training run: {Path(str(error.filename)).name} is missing; run tuban train first"
        ) from error
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ModelError(f"{folder}: spec.json or weights.safetensors cannot be read ({error}); train again") from error
    if task == "landcover" and spec.task == "change":
        spec, state = dataclasses.replace(spec, task="landcover"), landcover_state(state)
    if not spec.classes:
        # A network without land cover may have been trained with an empty head for it.
        state = {name: tensor for name, tensor in state.items() if not name.startswith("landcover_")}
    network = build(spec)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: the weights do not fit spec.json ({line}); train again") from error
    return network.eval()
