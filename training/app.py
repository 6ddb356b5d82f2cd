"""The Hydra application behind `tuban train`."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from tuban.configs.compose import wrong_fields
from tuban.errors import TubanError, UsageError
from tuban.training.crossval import crossvalidate
from tuban.training.settings import TrainSettings
from tuban.training.train import train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Check the configuration, then train once or once per fold; return the summary.

    Raises:
        UsageError: a field is unknown or out of its range.
    """
    crossval = config.pop("crossval", False)
    try:
        settings = TrainSettings.model_validate(config)
    except ValidationError as error:
        raise UsageError(f"configuration 'train': {wrong_fields(error)}") from error
    return crossvalidate(settings) if crossval else train(settings)


@hydra.main(config_path="pkg://tuban.configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train with the composed configuration and print the summary as JSON."""
    try:
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise UsageError(f"configuration 'train': give {', '.join(f'{key}=…' for key in missing)}")
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
        plain.pop("experiment", None)
        summary = run(plain)
    except TubanError as error:
        # Hydra would print a traceback; an error raised on purpose is one line.
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(json.dumps(summary, default=str) + "\n")


def launch(arguments: Sequence[str]) -> None:
    """Run the application with the arguments of its command line.

    Raises:
        UsageError: Hydra refuses them: an unknown key or experiment, or a mandatory value that is left open.
    """
    # Without it Hydra prints several lines of its own and exits with 1.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv = ["tuban train", *arguments]
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"configuration 'train': {first}; tuban train --help shows every key") from error
