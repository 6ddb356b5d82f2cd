"""Where the numbers of a run go: TensorBoard, one CSV file, MLflow."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from tuban.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from tuban.training.settings import TrainSettings

METRICS = "metrics.csv"


class CsvLogger(Logger):
    """One line a number, `step,metric,value`, in `metrics.csv`; a run that goes on continues the file."""

    def __init__(self, path: Path, start: int) -> None:
        """Open the file, without the lines that a broken run wrote after its last checkpoint, at step `start`."""
        super().__init__()
        self.path, self.start = path, start
        self.ready = False

    @property
    def name(self) -> str:
        """Return the file's name."""
        return self.path.name

    @property
    def version(self) -> str:
        """Return nothing: there is one file."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *_args: Any, **_kwargs: Any) -> None:
        """Do nothing: the settings are in settings.json."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line for each metric."""
        if not self.ready:
            self._begin()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [step, name, f"{value:.6g}"] for name, value in metrics.items() if name != "epoch"
            )

    def _begin(self) -> None:
        kept = []
        if self.start and self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.reader(file) if row[0].isdigit() and int(row[0]) < self.start]
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["step", "metric", "value"], *kept])
        self.ready = True


def make_loggers(settings: TrainSettings, start: int) -> list[Logger]:
    """Return the loggers that were asked for.

    Args:
        settings: of the run.
        start: step at which the run goes on; 0 for a new one.

    Raises:
        MissingExtraError: MLflow is asked for and not installed.
    """
    made: list[Logger] = []
    for kind in settings.loggers:
        if kind == "tensorboard":
            purge: dict[str, Any] = {"purge_step": start} if start else {}
            made.append(TensorBoardLogger(save_dir=str(settings.out), name="log", version="", **purge))
        elif kind == "csv":
            made.append(CsvLogger(settings.out / METRICS, start))
        else:
            made.append(_mlflow(settings, resumed=start > 0))
    return made


def _mlflow(settings: TrainSettings, *, resumed: bool) -> MLFlowLogger:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing of a run leaves the machine
    known = settings.out / "mlflow_run_id"
    artifacts = None
    if settings.mlflow_uri.startswith("sqlite:///"):
        database = Path(settings.mlflow_uri.removeprefix("sqlite:///")).absolute()
        database.parent.mkdir(parents=True, exist_ok=True)
        artifacts = (database.parent / "mlartifacts").as_uri()
    try:
        logger = MLFlowLogger(
            experiment_name=settings.name,
            run_name=settings.out.name,
            tracking_uri=settings.mlflow_uri,
            artifact_location=artifacts,
            run_id=known.read_text(encoding="utf-8") if resumed and known.is_file() else None,
        )
        run_id = logger.run_id
    except ImportError as error:
        raise MissingExtraError("loggers=[mlflow] needs MLflow; run: pip install 'tuban[mlflow]'") from error
    if run_id:
        known.write_text(run_id, encoding="utf-8")
    return logger


def log_settings(loggers: list[Logger], settings: TrainSettings) -> None:
    """Tell every logger the settings, as flat names."""
    flat = flattened(settings.model_dump(mode="json"))
    for logger in loggers:
        if isinstance(logger, MLFlowLogger):
            logger.log_hyperparams(flat)


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as `a.b.c: value`.

    Example:
        >>> flattened({"a": {"b": 1}, "c": [2]})
        {'a.b': 1, 'c': [2]}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


@rank_zero_only
def log_picture(loggers: list[Logger], name: str, path: Path, picture: NDArray[np.uint8], step: int) -> None:
    """Show a picture in the loggers that can."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger) and logger.run_id:
            logger.experiment.log_artifact(logger.run_id, str(path), path.parent.name)
