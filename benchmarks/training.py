"""Crops a second of a training step: by device, threads, precision, with and without torch.compile.

    python benchmarks/training.py [--experiment s2-change] [--steps 6] [--threads 1 2]

The network and batch are those of the experiment; crops come from generated places of two megapixels, cut and augmented
as in training. Every row is a process of its own; its first two steps are not counted. CPU seconds a step tell more
than crops a second on a machine that does other work. With a CUDA device there are rows for it, with its name.
Results: `benchmarks/results/training.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results" / "training.md"
SKIPPED = 2
SIDE = 1024


def measure(
    experiment: str, *, device: str, threads: int, precision: str, compiled: bool, steps: int
) -> dict[str, Any]:
    """Train `steps` steps in this process and return crops a second, CPU seconds a step, and the share of the data."""
    import numpy as np
    import torch

    from tuban.configs.compose import composed
    from tuban.data.place import IGNORE, Place
    from tuban.training.fit import make_module
    from tuban.training.places import Split
    from tuban.training.sampling import CropDataset, StepBatches
    from tuban.training.settings import TrainSettings

    torch.set_num_threads(threads)
    settings = TrainSettings.model_validate(
        composed("train", [f"experiment={experiment}", "data.root=/generated", f"optim.precision={precision}"])
        | {"crossval": None}
    )
    rng = np.random.default_rng(0)
    places = []
    for name in ("one", "two"):
        images = rng.uniform(0.02, 0.4, (2, len(settings.data.bands), SIDE, SIDE)).astype(np.float32)
        change = np.zeros((SIDE, SIDE), np.uint8)
        change[200:400, 300:500] = 1
        cover = rng.integers(0, max(len(settings.data.classes), 1), (2, SIDE, SIDE)).astype(np.uint8)
        if not settings.data.classes:
            cover[:] = IGNORE
        sure = np.full((2, SIDE, SIDE), 255, np.uint8)
        places.append(Place(name, *images, change, *cover, *sure))
    split = Split(places, [1.0, 1.0])
    module, _ = make_module(settings, split)
    network = module.network.to(device)
    if device == "cpu":
        module.on_fit_start()  # what training spares a processor
    run = torch.compile(network) if compiled else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    crops = CropDataset(places, settings.data, settings.augment, seed=0, task=settings.task, weights=split.weights)
    amp = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    marks, data_s = [], 0.0
    from tuban.training.augment import augment

    for indices in StepBatches(0, SKIPPED + steps, settings.optim.batch):
        if device == "cuda":
            torch.cuda.synchronize()
        marks.append((time.perf_counter(), time.process_time(), data_s))
        start = time.process_time()
        batch = torch.utils.data.default_collate([crops[index] for index in indices])
        data_s += time.process_time() - start
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        seen = augment(batch, settings.data.bands, settings.augment, settings.seed)
        with torch.autocast(device, dtype=amp, enabled=amp is not None):
            logits = run(seen["before"], seen.get("after"))
            loss = torch.stack(list(module.objective.terms(logits, seen).values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu, data = (
        b - a for a, b in zip(marks[SKIPPED], (time.perf_counter(), time.process_time(), data_s), strict=True)
    )
    return {
        "crops_per_s": steps * settings.optim.batch / wall, "cpu_s": cpu / steps, "data_s": data / steps,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {threads} threads",
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every row in a process of its own and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="s2-change")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    if chosen.row:
        print(json.dumps(measure(chosen.experiment, steps=chosen.steps, **json.loads(chosen.row))))
        return
    import torch

    rows: list[dict[str, Any]] = [
        {"device": "cpu", "threads": threads, "precision": precision, "compiled": False}
        for threads in chosen.threads
        for precision in ("32-true", "bf16-mixed")
    ]
    rows.append({"device": "cpu", "threads": chosen.threads[0], "precision": "bf16-mixed", "compiled": True})
    if torch.cuda.is_available():
        rows += [
            {"device": "cuda", "threads": 2, "precision": precision, "compiled": compiled}
            for precision in ("32-true", "bf16-mixed", "16-mixed")
            for compiled in (False, True)
        ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    lines = [
        f"# Training throughput, {chosen.experiment}",
        "",
        f"`python benchmarks/training.py --experiment {chosen.experiment} --steps {chosen.steps}`; {machine}.",
        f"Load of the machine when it began: {os.getloadavg()[0]:.1f}.",
        "",
        "| device | precision | compiled | crops/s | CPU s a step | of these data s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        command = [sys.executable, __file__, "--experiment", chosen.experiment, "--steps", str(chosen.steps)]
        done = subprocess.run([*command, "--row", json.dumps(row)], capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            lines.append(f"| {row['device']} | {row['precision']} | {row['compiled']} | failed: {said} | | |")
        else:
            made = json.loads(done.stdout.strip().splitlines()[-1])
            shown = (f"{made[key]:.2f}" for key in ("crops_per_s", "cpu_s", "data_s"))
            yes = "yes" if row["compiled"] else "no"
            lines.append(f"| {made['device']} | {row['precision']} | {yes} | {' | '.join(shown)} |")
        print(lines[-1], flush=True)
        chosen.out.parent.mkdir(exist_ok=True)
        chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
