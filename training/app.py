"""The Hydra application behind `tuban train`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from tuban.configs.compose import wrong_fields
from tuban.errors import TubanError, UsageError
from tuban.training.crossval import crossvalidate
from tuban.training.settings import TrainSettings
from tuban.training.train import train

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from omegaconf import DictConfig

_JSON = "TUBAN_TRAIN_JSON"
"""Set where the summary is wanted as JSON; Hydra's launchers hand the environment on."""


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Check the configuration, then train once or once per fold; return the summary.

    Raises:
        UsageError: a field is unknown or out of its range.
    """
    try:
        settings = TrainSettings.model_validate(config)
    except ValidationError as error:
        raise UsageError(f"configuration 'train': {wrong_fields(error)}") from error
    if settings.crossval is None:
        return train(settings)
    return crossvalidate(settings) | {"record": str(settings.out / "crossval.json")}


@hydra.main(config_path="pkg://tuban.configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train with the composed configuration and print where everything lies."""
    try:
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise UsageError(f"configuration 'train': give {', '.join(f'{key}=…' for key in missing)}")
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
        plain.pop("experiment", None)
        summary = run(plain | {"out": _swept(plain["out"])})
    except TubanError as error:
        # Hydra would print a traceback; an error raised on purpose is one line.
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        text = json.dumps(summary, default=str) if os.environ.get(_JSON) else "\n".join(told(summary))
        sys.stdout.write(text + "\n")


def _swept(out: str) -> str:
    """Return `out`, and of a sweep that does not vary it a folder of each job's own."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return out
    if any(part.startswith("out=") and ("," in part or "${" in part) for part in sys.argv):
        return out
    return str(Path(out) / f"job-{HydraConfig.get().job.num}")


def told(summary: Mapping[str, Any]) -> list[str]:
    """Return a summary as lines for people: what was measured, and where everything lies."""
    if "settings" not in summary:
        return _crossval_lines(summary)
    settings = summary["settings"]
    lines = [
        (
            f"{settings['name']}: {summary['steps']} steps in {summary['seconds']:.0f} s "
            f"({summary['crops_per_second']} crops/s) on {summary['device']}, "
            f"{len(summary['places'])} places, seed {settings['seed']}"
        )
    ]
    if summary["measured"]:
        measured = ", ".join(f"{name} {value:.3f}" for name, value in summary["measured"].items())
        lines.append(f"validation ({', '.join(summary['validation'])}) at step {summary['kept_step']}: {measured}")
    if summary["left_out"]:
        lines.append(f"not trained on, neighbours of what is held out: {', '.join(summary['left_out'])}")
    lines += [f"{name:12} {path}" for name, path in summary["files"].items()]
    return lines


def _crossval_lines(summary: Mapping[str, Any]) -> list[str]:
    lines = [f"{len(summary['folds'])} folds: " + "; ".join(", ".join(places) for places in summary["folds"].values())]
    if network := summary.get("network"):
        low, high = network["f1_95"]
        lines.append(
            f"change: F1 {network['f1']} (95 % over places {low}–{high}), precision {network['precision']}, recall "
            f"{network['recall']}, ECE {network['ece']}; "
            f"the plain difference reaches F1 {summary['difference_baseline']['f1']}"
        )
    if summary["landcover_agreement"]["f1_by_class_index"]:
        lines.append(f"land cover: agreement with the labels {summary['landcover_agreement']['overall']}")
    for name, values in summary.get("spread", {}).items():
        lines.append(f"{name} over {len(summary['seeds'])} seeds: {values['mean']} ± {values['std']}")
    if network := (ensemble := summary.get("ensemble", {})).get("network"):
        lines.append(
            f"{ensemble['members']} members as one network, smoothed by {ensemble['smooth']:g} px: F1 {network['f1']}, "
            f"at one threshold {ensemble['one_threshold']['f1']}; ECE {network['ece']}"
        )
    return [*lines, f"record       {summary['record']}"]


def launch(arguments: Sequence[str]) -> None:
    """Run the application with the arguments of its command line; `--json` prints the summary as JSON.

    Raises:
        UsageError: Hydra refuses them: an unknown key or experiment, or a mandatory value that is left open.
    """
    # Without it Hydra prints several lines of its own and exits with 1.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    os.environ.pop(_JSON, None)
    if "--json" in arguments:
        os.environ[_JSON] = "1"
    sys.argv = ["tuban train", *(argument for argument in arguments if argument != "--json")]
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"configuration 'train': {first}; tuban train --help shows every key") from error
