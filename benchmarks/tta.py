"""What test-time augmentation is worth: the cross-validation of the shipped model measured again with it.

    python benchmarks/tta.py --runs FOLDER --data FOLDER [--modes none flips d4]

`--runs` is the folder of `tuban train experiment=s2-change-crossval`: every place is predicted by the network that saw
neither it nor its neighbours, as in the model card, and judged by the same code at thresholds chosen on other folds.
Results go to `benchmarks/results/tta.md`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tuban.data.places import load_places
from tuban.inference.tta import augmented
from tuban.models.bundle import resolve
from tuban.models.run import read_run
from tuban.training.crossval_report import report, stored_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.inference.backends import Feeds, Outputs
    from tuban.models.network import ChangeNet

RESULTS = Path(__file__).parent / "results" / "tta.md"
STRIDE_MARGIN = 4


@dataclass
class Network:
    """A network of a fold as a backend of `change`, calibrated like the shipped bundle."""

    network: ChangeNet
    slope: float
    intercept: float
    name: str = "torch-cpu"
    notes: tuple[str, ...] = ()

    def run(self, feeds: Feeds, wanted: Sequence[str]) -> Outputs:
        """Return the calibrated probability of change."""
        with torch.inference_mode():
            dates = (
                torch.from_numpy(feeds[name]).to(memory_format=torch.channels_last) for name in ("before", "after")
            )
            logits = self.network(*dates).change
            return {name: torch.sigmoid(self.slope * logits + self.intercept).numpy() for name in wanted}


def main() -> None:
    """Predict every held-out place in every mode and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--modes", nargs="+", default=["none", "flips", "d4"])
    options = parser.parse_args()
    torch.set_num_threads(1)  # waiting threads would count as work
    lines = [
        "# Test-time augmentation",
        "",
        (
            "The networks of a cross-validation (`experiment=s2-change-crossval`, one seed): places held out by fold, "
            "thresholds chosen on the other folds."
        ),
        "",
        "| mode | F1 (95 % over places) | precision | recall | average precision | AUC | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode in options.modes:
        with tempfile.TemporaryDirectory() as scratch:
            started = time.process_time()
            predict_all(options.runs, options.data, Path(scratch), mode)
            seconds = time.process_time() - started
            measured: dict[str, Any] = report(Path(scratch))["network"]
        low, high = measured["f1_95"]
        lines.append(
            f"| {mode} | {measured['f1']} ({low}–{high}) | {measured['precision']} | {measured['recall']} | "
            f"{measured['average_precision']} | {measured['auc']} | {seconds:.0f} |"
        )
        print(lines[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def predict_all(runs: Path, data: Path, out: Path, mode: Any) -> None:
    """Write `<fold>/<place>.npz` as the cross-validation does, with the logit of the augmented probability."""
    calibration = resolve("s2-change").calibration
    slope, intercept = float(str(calibration["slope"])), float(str(calibration["intercept"]))
    for fold, places in stored_folds(runs).items():
        network = read_run(runs / fold).to(memory_format=torch.channels_last)
        backend = augmented(Network(network, slope, intercept), mode)
        # What is not predicted again, places without labels of change among it, stays as it is.
        shutil.copytree(runs / fold, out / fold, ignore=shutil.ignore_patterns("checkpoints", "log", "panels"))
        for city in load_places(data, bands=network.spec.bands, classes=network.spec.classes, names=places):
            height, width = city.change.shape
            margin, stride = STRIDE_MARGIN * network.spec.stride, network.spec.stride
            pad = ((0, 0), (margin, margin + -height % stride), (margin, margin + -width % stride))
            feeds = {
                name: np.pad(getattr(city, name), pad, mode="reflect")[None].astype(np.float32)
                for name in ("before", "after")
            }
            change = backend.run(feeds, ["change"])["change"][0, margin : margin + height, margin : margin + width]
            clipped = np.clip(change.astype(np.float64), 1e-7, 1 - 1e-7)
            logit = (np.log(clipped / (1 - clipped)) - intercept) / slope
            with np.load(runs / fold / f"{city.name}.npz") as stored:
                kept = {name: stored[name] for name in stored.files if name != "logit"}
            np.savez(out / fold / f"{city.name}.npz", logit=logit.astype(np.float16), **kept)


if __name__ == "__main__":
    main()
