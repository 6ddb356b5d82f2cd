"""`tuban train`: one run, from its settings to a folder with weights, record, log, panels and predictions."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import shutil
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import save_file

import tuban
from tuban.errors import OutputError, UsageError
from tuban.models.spec import spec_of
from tuban.training.chosen import calibrated, choose
from tuban.training.fit import fit
from tuban.training.loggers import flattened
from tuban.training.panels import panel, save_panel
from tuban.training.places import load_split
from tuban.training.predictions import save_prediction
from tuban.training.statistics import require_labels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import lightning as L  # noqa: N812 (the library's documented alias)
    from torch import nn

    from tuban.training.fit import Fitted
    from tuban.training.places import Split
    from tuban.training.settings import TrainSettings

_log = logging.getLogger(__name__)

# What may differ between a run and its continuation: where things lie and who looks on, not what is computed.
_FREE = {"out", "name", "accelerator", "strategy", "threads", "resume", "loggers", "mlflow_uri", "crossval", "fast_dev"}
_FREE_DATA = {"root", "workers", "cache"}


def train(settings: TrainSettings, split: Split | None = None, callbacks: Sequence[L.Callback] = ()) -> dict[str, Any]:
    """Train, predict the held-out places, and write the run's folder.

    Args:
        settings: of the run. With `resume="auto"`, a run that was interrupted goes on, and one that is complete is not
            made again.
        split: its places, if they are read already.
        callbacks: further ones of Lightning.

    Returns:
        The summary that is also `train.json`: settings, places, seconds, where everything lies.

    Raises:
        UsageError: a place is unknown, the split leaks, no training place has labels, or the folder holds a run with
            other settings.
        OutputError: the folder cannot be written.
    """
    if settings.fast_dev:
        settings = fast(settings)
    if (complete := _prepare(settings)) is not None:
        return complete
    split = load_split(settings.data) if split is None else split
    require_labels(split.training, settings.task)
    fitted = fit(settings, split, callbacks)
    summary = _summary(settings, split, fitted)
    if settings.task == "change" and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        summary["chosen"] = choose(fitted.network, split.validation)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        try:
            _write(settings, split, fitted, summary)
        except OSError as error:
            raise OutputError(
                f"{settings.out}: the run cannot be written: {error}; give out= with more room"
            ) from error
    return summary


def fast(settings: TrainSettings) -> TrainSettings:
    """Return settings of two steps that do everything once: validation, checkpoint, panels."""
    optim = settings.optim.model_copy(update={"steps": 2, "batch": 2})
    validation = settings.validation.model_copy(update={"every": 1, "patience": 0})
    return settings.model_copy(update={"optim": optim, "validation": validation, "resume": "never"})


def _prepare(settings: TrainSettings) -> dict[str, Any] | None:
    """Make the folder ready; return the summary of a run that is complete already.

    Raises:
        UsageError: the folder holds a run with other settings.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return None
    folder, kept = settings.out, settings.out / "settings.json"
    try:
        if settings.resume == "never":
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            (folder / "train.json").unlink(missing_ok=True)
        elif kept.is_file() and (folder / "checkpoints").is_dir():
            earlier = json.loads(kept.read_text(encoding="utf-8"))
            if differing := _differing(earlier, settings.model_dump(mode="json")):
                raise UsageError(
                    f"{folder} holds a run with other settings ({'; '.join(differing)}); "
                    "give another out=, or resume=never to train anew"
                )
            if (folder / "train.json").is_file():
                _log.warning("%s is complete; resume=never trains it anew", folder)
                summary: dict[str, Any] = json.loads((folder / "train.json").read_text(encoding="utf-8"))
                return summary
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: the run cannot be written: {error}; give another out=") from error
    return None


def _differing(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the settings that decide about a run's numbers and differ, as `name: was -> is`."""
    free = _FREE | {f"data.{name}" for name in _FREE_DATA}
    was, now = flattened(earlier), flattened(now)
    names = [name for name in sorted({*was, *now}) if name not in free and name.split(".")[0] not in free]
    return [f"{name}: {was.get(name)} -> {now.get(name)}" for name in names if was.get(name) != now.get(name)]


def _summary(settings: TrainSettings, split: Split, fitted: Fitted) -> dict[str, Any]:
    optim = settings.optim
    crops = fitted.steps * optim.batch * optim.accumulate * settings.devices
    out = settings.out
    files = {
        "weights": out / "weights.safetensors",
        "spec": out / "spec.json",
        "record": out / "train.json",
        "checkpoints": out / "checkpoints",
        "tensorboard": out / "log" if "tensorboard" in settings.loggers else None,
        "metrics": out / "metrics.csv" if "csv" in settings.loggers else None,
        "mlflow": settings.mlflow_uri if "mlflow" in settings.loggers else None,
        "panels": out / "panels" if settings.validation.panels and (split.validation or split.holdout) else None,
        "predictions": out if split.holdout else None,
    }
    return {
        "settings": settings.model_dump(mode="json"),
        "places": [place.name for place in split.training],
        "validation": [place.name for place in split.validation],
        "holdout": [place.name for place in split.holdout],
        "left_out": split.left_out,
        "steps": fitted.steps,
        "kept_step": fitted.step,
        "measured": fitted.validation,
        "crops": crops,
        "seconds": round(fitted.seconds, 1),
        "crops_per_second": round(crops / max(fitted.seconds, 1e-9), 1),
        **fitted.facts,
        "tuban": tuban.__version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "files": {name: str(path) for name, path in files.items() if path is not None},
    }


def _write(settings: TrainSettings, split: Split, fitted: Fitted, summary: dict[str, Any]) -> None:
    """Write weights, predictions and panels, and last of all `train.json`, which says that a run is complete."""
    save_weights(fitted.network, settings.out)
    for number, place in enumerate(split.holdout):
        prediction = save_prediction(fitted.network, place, settings.out)
        if number < settings.validation.panels:
            path = settings.out / "panels" / "holdout" / f"{place.name}.png"
            shown = calibrated(prediction, summary.get("chosen", {}))
            save_panel(path, panel(place, shown, spec_of(fitted.network)))
    _replace(settings.out / "train.json", json.dumps(summary, indent=2) + "\n")


def save_weights(network: nn.Module, folder: Path) -> None:
    """Write `weights.safetensors` and `spec.json`, from which `tuban.models.export` makes a bundle."""
    _replace(folder / "spec.json", json.dumps(dataclasses.asdict(spec_of(network)), indent=2) + "\n")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    scratch = folder / ".weights.safetensors"
    save_file(state, str(scratch))
    scratch.replace(folder / "weights.safetensors")


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
