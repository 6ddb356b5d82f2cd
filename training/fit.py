"""One network fitted: loaders, Lightning's trainer, checkpoints and going on from them."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 (the library's documented alias)
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader

from tuban.models.network import NetworkSpec
from tuban.training.callbacks import Clock, Panels, Report
from tuban.training.loggers import log_settings, make_loggers
from tuban.training.module import TrainingModule
from tuban.training.objective import Objective
from tuban.training.sampling import CropDataset, StepBatches
from tuban.training.statistics import class_weights, positive_weight, statistics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from tuban.training.places import Split
    from tuban.training.settings import TrainSettings

# What Lightning warns of and is meant to be so, and its own use of an interface that torch renames.
_EXPECTED = (
    r"Checkpoint directory .* exists and is not empty",
    r".*does not have many workers",
    r"The number of training batches .* is smaller than the logging interval",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network and how it came about.

    Attributes:
        network: in evaluation mode, on the CPU; the averaged one where there is an average.
        seconds: of training, over all parts of an interrupted run.
        steps: optimiser steps made; fewer than asked for where training stopped early.
        step: the step whose weights these are.
        validation: what was measured at that step.
        facts: device, class weights and what else the record tells.
    """

    network: nn.Module
    seconds: float
    steps: int
    step: int
    validation: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class CropData(L.LightningDataModule):
    """Loaders of one run; the crops of a step follow from its number alone."""

    def __init__(self, settings: TrainSettings, split: Split) -> None:
        """Index the training places."""
        super().__init__()
        self.settings, self.split = settings, split
        self.crops = CropDataset(
            split.training, settings.data, settings.augment,
            seed=settings.seed, task=settings.task, weights=split.weights,
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches up to the next checkpoint."""
        optim, trainer = self.settings.optim, self.trainer
        if trainer is None:
            raise RuntimeError("loaders are made for a trainer")
        steps = min(self.settings.validation.every, max(optim.steps - trainer.global_step, 1))
        batches = StepBatches(
            trainer.global_step * optim.accumulate, steps * optim.accumulate, optim.batch,
            rank=trainer.global_rank, world=trainer.world_size,
        )  # fmt: skip
        return DataLoader(self.crops, batch_sampler=batches, num_workers=self.settings.data.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the places that this process measures."""
        if self.trainer is None:
            raise RuntimeError("loaders are made for a trainer")
        places, world = self.split.validation, self.trainer.world_size
        # Where there are fewer places than processes each measures all: the counts are multiples, the measures equal.
        mine = places[self.trainer.global_rank :: world] if len(places) >= world else places
        return DataLoader(mine, batch_size=None, collate_fn=lambda place: place)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave places where they are: they are predicted part by part."""
        if not isinstance(batch, dict):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def fit(settings: TrainSettings, split: Split, callbacks: Sequence[L.Callback] = ()) -> Fitted:
    """Train, going on from `settings.out/checkpoints/last.ckpt` where it is there.

    Args:
        settings: of the run.
        split: its places.
        callbacks: further ones of Lightning.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it advertises
    L.seed_everything(settings.seed, workers=True, verbose=False)
    torch.set_num_threads(settings.threads)
    module, facts = make_module(settings, split)
    last = settings.out / LAST
    start = int(torch.load(last, map_location="cpu", weights_only=True)["global_step"]) if last.is_file() else 0
    loggers = make_loggers(settings, start)
    clock = Clock()
    trainer = L.Trainer(
        max_steps=settings.optim.steps,
        max_epochs=-1,
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=strategy(settings),
        precision=settings.optim.precision,
        gradient_clip_val=settings.optim.clip or None,
        accumulate_grad_batches=settings.optim.accumulate,
        deterministic=settings.deterministic,
        sync_batchnorm=synchronised(settings),
        callbacks=[clock, Report(settings), *_checkpoints(settings, validated=bool(split.validation)), *callbacks],
        logger=loggers,
        log_every_n_steps=min(20, settings.optim.steps),
        limit_val_batches=None if split.validation else 0,
        num_sanity_val_steps=0,
        # An "epoch" is what lies between two checkpoints; each makes the loader of its own steps.
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=settings.out,
    )
    if trainer.is_global_zero:
        log_settings(loggers, settings)
    data = CropData(settings, split)
    with warnings.catch_warnings():
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message)
        trainer.fit(module, data, ckpt_path=str(last) if start else None, weights_only=True)
    kept = settings.out / (BEST if split.validation and settings.validation.keep == "best" else LAST)
    step, measured = _load(module, kept)
    facts |= {"device": _device(trainer), "processes": trainer.world_size}
    # Where the work was done by processes of its own, only the checkpoint knows how far it went and how long it took.
    end = torch.load(last, map_location="cpu", weights_only=True)
    seconds = clock.seconds or float(end["callbacks"]["Clock"]["seconds"])
    return Fitted(module.kept.eval().cpu(), seconds, int(end["global_step"]), step, measured, facts)


def make_module(settings: TrainSettings, split: Split) -> tuple[TrainingModule, dict[str, Any]]:
    """Return the module with the statistics of the training places, and what was measured on these."""
    data, model, loss = settings.data, settings.model, settings.loss
    mean, std = statistics(split.training, data.bands)
    spec = NetworkSpec(
        data.bands, data.classes, mean, std, model.encoder, model.depth, model.width, model.stem,
        settings.task, model.architecture, model.fusion,  # type: ignore[arg-type]
    )  # fmt: skip
    weights = class_weights(split.training, len(data.classes), loss.class_weights)
    weight = loss.positive_weight
    positive = positive_weight(split.training) if isinstance(weight, str) else weight
    facts = {"positive_weight": positive, "class_weights": None if weights is None else weights.round(4).tolist()}
    objective = Objective(loss, positive, None if weights is None else torch.from_numpy(weights))
    return TrainingModule(spec, settings, objective), facts


def monitor(settings: TrainSettings) -> str:
    """Return the measure that names the best weights."""
    given = settings.validation.monitor
    return given or ("landcover/f1" if settings.task == "landcover" else "change/average_precision")


def strategy(settings: TrainSettings) -> str:
    """Return how processes share the work: as asked for, or by the number of devices."""
    if settings.strategy != "auto" or settings.devices == 1:
        return settings.strategy
    # Started by torchrun, the processes are there already; otherwise they are started here.
    started = "TORCHELASTIC_RUN_ID" in os.environ
    return "ddp_find_unused_parameters_true" if started else "ddp_spawn_find_unused_parameters_true"


def synchronised(settings: TrainSettings) -> bool:
    """Return whether processes share the statistics of normalisation layers, which torch can do on GPUs alone."""
    # `auto` is the CPU where there is no GPU, and the layers would refuse their first batch there.
    return settings.devices > 1 and settings.accelerator != "cpu" and torch.cuda.is_available()


def _checkpoints(settings: TrainSettings, *, validated: bool) -> list[L.Callback]:
    folder = settings.out / "checkpoints"
    made: list[L.Callback] = [
        ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
    ]
    if not validated:
        return made
    name = monitor(settings)
    made.append(
        ModelCheckpoint(
            folder,
            filename="best",
            monitor=name,
            mode="max",
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
    )
    if settings.validation.panels:
        made.append(Panels(settings))
    if settings.validation.patience:
        made.append(
            EarlyStopping(name, mode="max", patience=settings.validation.patience, check_on_train_epoch_end=False)
        )
    return made


def _load(module: TrainingModule, checkpoint: Path) -> tuple[int, dict[str, float]]:
    """Load the weights of a checkpoint; return its step and what was measured then."""
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(stored["state_dict"])
    return int(stored["global_step"]), {name: round(value, 4) for name, value in stored["validation"].items()}


def _device(trainer: L.Trainer) -> str:
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"
