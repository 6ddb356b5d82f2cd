"""What happens beside the steps: progress, the time spent, panels."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 (the library's documented alias)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tuban.training.loggers import log_picture
from tuban.training.panels import panel, save_panel
from tuban.training.predictions import predict

if TYPE_CHECKING:
    from tuban.training.module import TrainingModule
    from tuban.training.settings import TrainSettings

_LINES = 10
"""Lines in a log over a whole run, beside those of validation."""


class Clock(L.Callback):
    """Counts the seconds spent in training, over all parts of a run that was interrupted."""

    def __init__(self) -> None:
        """Start at 0."""
        self.before, self.start = 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds until now."""
        return self.before + (time.perf_counter() - self.start if self.start else 0.0)

    def on_train_start(self, *_args: Any) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_train_end(self, *_args: Any) -> None:
        """Stop."""
        self.before, self.start = self.seconds, 0.0

    def state_dict(self) -> dict[str, float]:
        """Return what a run that goes on starts from."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from the seconds of an earlier part."""
        self.before = state["seconds"]


class Report(L.Callback):
    """Progress on stderr: a bar with the loss on a terminal, plain lines in a log."""

    def __init__(self, settings: TrainSettings) -> None:
        """Prepare; nothing is shown before training starts."""
        self.steps = settings.optim.steps
        self.crops = settings.optim.batch * settings.optim.accumulate * settings.devices
        self.title = str(settings.out)
        self.bar: Progress | None = None
        self.started, self.first, self.said = 0.0, 0, -1

    def on_train_start(self, trainer: L.Trainer, *_args: Any) -> None:
        """Open the bar."""
        self.started, self.first, self.said = time.perf_counter(), trainer.global_step, -1
        if sys.stderr.isatty() and trainer.is_global_zero:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, TextColumn("{task.fields[told]}"), console=Console(stderr=True))
            self.task = self.bar.add_task(self.title, total=self.steps, completed=self.first, told="")
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, *_args: Any) -> None:
        """Tell the step, the loss and the speed."""
        step = trainer.global_step
        if self.bar is not None:
            self.bar.update(self.task, completed=step, told=self._told(trainer))
        elif step and _LINES * step // self.steps > self.said and trainer.is_global_zero:
            self.said = _LINES * step // self.steps
            sys.stderr.write(f"{self.title}: step {step}/{self.steps} {self._told(trainer)}\n")

    def _told(self, trainer: L.Trainer) -> str:
        speed = (trainer.global_step - self.first) * self.crops / max(time.perf_counter() - self.started, 1e-9)
        loss = trainer.callback_metrics.get("loss")
        return f"{f'loss {float(loss):.3f} ' if loss is not None else ''}{speed:.1f} crops/s"

    def on_validation_end(self, trainer: L.Trainer, *_args: Any) -> None:
        """Tell what was measured."""
        measured = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith(("change/", "landcover/"))}
        if measured and trainer.is_global_zero:
            told = f"{self.title}: step {trainer.global_step} " + " ".join(f"{n} {v:.3f}" for n, v in measured.items())
            if self.bar is not None:
                self.bar.console.print(told, highlight=False)
            else:
                sys.stderr.write(told + "\n")

    def on_train_end(self, *_args: Any) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, *_args: Any) -> None:
        """Close the bar, so that the message is not drawn over."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class Panels(L.Callback):
    """Draws the first places of the validation, each time they are measured, into `panels/step-N/`."""

    def __init__(self, settings: TrainSettings) -> None:
        """Remember where to draw and how many."""
        self.folder, self.count = settings.out / "panels", settings.validation.panels

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Draw."""
        network: TrainingModule = module  # type: ignore[assignment]
        network.kept.eval()
        for place in trainer.datamodule.split.validation[: self.count] if trainer.is_global_zero else []:  # type: ignore[attr-defined]
            picture = panel(place, predict(network.kept, place), network.network.spec)
            path = self.folder / f"step-{trainer.global_step:06d}" / f"{place.name}.png"
            save_panel(path, picture)
            log_picture(trainer.loggers, place.name, path, picture, trainer.global_step)
