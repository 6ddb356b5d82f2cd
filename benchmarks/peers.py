"""Trains torchgeo's change detectors on the folds that tuban is measured on, and measures them the same way.

    /path/of/torchgeo/bin/python benchmarks/peers.py --data ../shared/data/oscd --out /tmp/peers
    … --out /tmp/peers --fold paris --model fcsiamdiff       # one of the runs, e.g. one on each core
    … --out /tmp/peers --ours /path/of/crossval --write      # the table, once all runs are there

What trains is torchgeo's own `ChangeDetectionTask` (its model, its loss with unknown pixels left out, its AdamW at its
learning rate), with the encoder, the initialisation, the crops (turned and mirrored), the registered and normalised
pairs, the bands and the number of steps that tuban has. What is tuban's alone, it does not get: the network, its loss,
radiometric augmentation, pasted change, the averaged weights, the members. About 15 minutes a run on one core; a run
that is finished is not made again. torchgeo is no dependency of tuban: install tuban and torchgeo>=0.8.1 into an
environment of their own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 (the library's documented alias)
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from tuban.configs.compose import composed
from tuban.data.place import IGNORE
from tuban.models.initialise import load_imagenet
from tuban.models.spec import Logits, NetworkSpec
from tuban.training.crossval import folds_of
from tuban.training.crossval_report import report
from tuban.training.module import depthwise_in_float32
from tuban.training.places import known_groups, load_by_name, load_split
from tuban.training.predictions import save_prediction
from tuban.training.sampling import CropDataset, StepBatches
from tuban.training.settings import AugmentSettings, TrainSettings
from tuban.training.statistics import statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

MODELS = {"fcsiamdiff": "FCSiamDiff", "unet": "ChangeDetectionTask's default, U-Net of both dates"}
RESULTS = Path(__file__).parent / "results" / "peers.md"
NONE = AugmentSettings.model_validate(
    {name: 0 for name, field in AugmentSettings.model_fields.items() if field.annotation is float}
)


class Inputs(torch.nn.Module):
    """Standardised inputs of two dates: what a data module of torchgeo would hand over, missing values as the mean."""

    def __init__(self, spec: NetworkSpec) -> None:
        """Keep the statistics of the training places."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 1, -1, 1, 1))

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Return `(n, 2, bands, h, w)`."""
        return ((torch.stack([before, after], dim=1) - self.mean) / self.std).nan_to_num(0.0).clamp(-6, 6)


class Peer(torch.nn.Module):
    """A trained task behind the interface of tuban's networks."""

    def __init__(self, task: Any, spec: NetworkSpec, inputs: Inputs) -> None:
        """Wrap `task`."""
        super().__init__()
        self.model, self.spec, self.inputs = task.model, spec, inputs
        self.siamese = task.hparams["model"].startswith("fcsiam")

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> Logits:
        """Return change logits `(n, h, w)`."""
        seen = self.inputs(before, after)
        return Logits(None, None, self.model(seen if self.siamese else seen.flatten(1, 2))[:, 0])


def main() -> None:
    """Train what is missing; write the table where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/oscd"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--model", choices=sorted(MODELS), action="append")
    parser.add_argument("--fold", action="append", help="of the experiment s2-change-crossval; all if left out")
    parser.add_argument("--steps", type=int, help="other than tuban's, for a trial")
    parser.add_argument("--ours", type=Path, help="finished cross-validation of tuban, for the table")
    parser.add_argument("--write", action="store_true", help="write the table instead of training")
    given = parser.parse_args()
    models = given.model or sorted(MODELS)
    if given.write:
        RESULTS.write_text(_table(given.out, given.ours, models), encoding="utf-8")
        return
    tree = composed("train", ["experiment=s2-change-crossval", f"data.root={given.data}"])
    settings = TrainSettings.model_validate(tree)
    torch.set_num_threads(settings.threads)
    loaded = load_by_name(settings.data, known_groups(settings.data))
    folds = folds_of(settings, loaded)
    for model in models:
        for fold in given.fold or folds:
            out = given.out / model / fold
            if not (out / "train.json").is_file():
                neighbours = settings.crossval.neighbours.get(fold, ()) if settings.crossval else ()
                data = settings.data.model_copy(update={"holdout": (*folds[fold], *neighbours)})
                run(model, settings.model_copy(update={"data": data}), out, load_split(data, loaded), given.steps)


def run(model: str, settings: TrainSettings, out: Path, split: Any, steps: int | None) -> None:
    """Train one network and predict its held-out places."""
    from torchgeo.trainers import ChangeDetectionTask

    class Task(ChangeDetectionTask):
        """Its own task, unknown pixels left out of the loss."""

        def training_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> torch.Tensor:  # noqa: ARG002
            image = inputs(batch["before"], batch["after"])
            score = self(image if model.startswith("fcsiam") else image.flatten(1, 2))[:, 0]
            known = batch["change"] != IGNORE
            loss: torch.Tensor = self.criterion(score[known], batch["change"][known])
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            # Its schedule halts on a plateau of a validation loss; without a validation place it never moves.
            return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])

    data, optim, steps = settings.data, settings.optim, steps or settings.optim.steps
    mean, std = statistics(split.training, data.bands)
    spec = NetworkSpec(data.bands, (), mean, std, settings.model.encoder)
    inputs = Inputs(spec)
    torch.manual_seed(settings.seed)
    # A changed pixel weighs twice, as in tuban: without that the peers call next to nothing changed.
    weight = torch.tensor(2.0)
    task = Task(model=model, backbone=spec.encoder, in_channels=len(data.bands), task="binary", pos_weight=weight)
    repeats = data.bands if model.startswith("fcsiam") else (*data.bands, *data.bands)
    load_imagenet(task.model.encoder.model, repeats)
    if not torch.cuda.is_available():
        depthwise_in_float32(task.model)
    crops = CropDataset(split.training, data, NONE, seed=settings.seed, weights=split.weights)
    loader = DataLoader(crops, batch_sampler=StepBatches(0, steps, optim.batch), num_workers=data.workers)
    started = time.monotonic()
    trainer = L.Trainer(
        max_steps=steps, accelerator="auto", devices=1, precision=optim.precision, logger=False,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=sys.stderr.isatty(),
    )  # fmt: skip
    trainer.fit(task, loader)
    peer = Peer(task, spec, inputs).eval()
    out.mkdir(parents=True, exist_ok=True)
    for place in split.holdout:
        save_prediction(peer, place, out)
    facts = {
        "model": model,
        "steps": steps,
        "seconds": round(time.monotonic() - started, 1),
        "holdout": [place.name for place in split.holdout],
        "parameters": sum(parameter.numel() for parameter in peer.parameters()),
        "settings": OmegaConf.to_container(OmegaConf.create(settings.model_dump(mode="json"))),
    }
    (out / "train.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _table(out: Path, ours: Path | None, models: Sequence[str]) -> str:
    rows = {f"torchgeo {MODELS[model]}": report(out / model) for model in models}
    if ours is not None:
        rows["**tuban s2-change**"] = json.loads((ours / "crossval.json").read_text(encoding="utf-8"))
    measured_on = {name: sorted(sorted(places) for places in found["folds"].values()) for name, found in rows.items()}
    folds = next(iter(measured_on.values()))
    if any(other != folds for other in measured_on.values()):
        raise SystemExit(f"these were measured on different folds: {measured_on}; finish the runs")
    lines = [
        "# Change in labelled OSCD cities, peers beside tuban",
        "",
        (
            f"{len(folds)} folds by place ({'; '.join(', '.join(places) for places in folds)}), one seed; each fold's "
            "threshold and calibration from the others, but for the column `one threshold`: F1 at the one threshold "
            "that is best for all places together. Objects of 2,000 m² and more."
        ),
        "",
        "| network | F1 (95 %) | one threshold | precision | recall | average precision | object recall | precision |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, measured in rows.items():
        found = measured.get("ensemble", measured)
        one, objects, fixed = found["network"], found["objects"], found["one_threshold"]
        low, high = one["f1_95"]
        lines.append(
            f"| {name} | {one['f1']:.3f} ({low:.3f}–{high:.3f}) | {fixed['f1']:.3f} | {one['precision']:.3f} "
            f"| {one['recall']:.3f} | {one['average_precision']:.3f} | {objects['recall']:.3f} "
            f"| {objects['precision']:.3f} |"
        )
    lines += ["", f"Made by `python benchmarks/peers.py`, torchgeo {version('torchgeo')}, torch {torch.__version__}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
