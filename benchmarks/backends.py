"""Speed, memory and agreement of every installed backend on one window.

    python benchmarks/backends.py [--bundle s2-change] [--side 1024] [--runs 4] [--compiled]

Each is measured in a fresh process, one after the other: seconds and processor seconds per million pixels (the best of
the runs after the first), peak memory, and the largest difference to ONNX Runtime. What is asked for is what a run
asks for: the probability of change and the class of each land cover. Results go to `benchmarks/results/backends.md`.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.errors import TubanError
from tuban.inference.backends import available_cores, open_backend
from tuban.inference.backends.bench import installed
from tuban.models.bundle import Bundle, resolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results" / "backends.md"
WANTED = ("change", "landcover_before_class", "landcover_after_class")
# ru_maxrss is in kB on Linux and in bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def window(bundle: Bundle, side: int) -> dict[str, NDArray[np.float32]]:
    """Return two dates of patches with noise, a tenth of the patches changed."""
    rng = np.random.default_rng(0)
    shape = (len(bundle.bands), side // 16, side // 16)
    before = rng.uniform(0.03, 0.4, shape).astype(np.float32)
    after = np.where(rng.random(shape[1:]) < 0.1, rng.uniform(0.03, 0.4, shape), before).astype(np.float32)
    fine = {name: date.repeat(16, 1).repeat(16, 2)[None] for name, date in (("before", before), ("after", after))}
    return {name: date + rng.normal(0, 0.005, date.shape).astype(np.float32) for name, date in fine.items()}


def one(task: dict[str, Any]) -> dict[str, Any]:
    """Measure one backend; called in a fresh process."""
    bundle = Bundle.load(task["bundle"])
    feeds = window(bundle, task["side"])
    started = time.perf_counter()
    backend = open_backend(task["backend"], bundle, **task["options"])
    made = backend.run(feeds, WANTED)
    opened, wall, work = time.perf_counter() - started, float("inf"), float("inf")
    for _ in range(task["runs"]):
        started, spent = time.perf_counter(), time.process_time()
        made = backend.run(feeds, WANTED)
        wall, work = min(wall, time.perf_counter() - started), min(work, time.process_time() - spent)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    np.savez(task["out"], allow_pickle=False, **made)
    mpx = task["side"] ** 2 / 1e6
    return {
        "name": backend.name,
        "first": opened,
        "wall": wall / mpx,
        "cpu": work / mpx,
        "peak_mb": peak / 1e6,
        "notes": list(backend.notes),
    }


def measure(bundle: Bundle, side: int, runs: int, *, compiled: bool) -> str:
    """Return the Markdown table."""
    there: list[tuple[str, dict[str, Any]]] = [("onnx", {})]
    for name in installed()[1:]:
        there += [(name, {}), (name, {"precision": "bf16"})]
        there += [(name, {"compiled": True})] if compiled and name == "torch" else []
    lines = [
        f"# Backends, {bundle.model_id}, one window of {side}²",
        "",
        (
            f"{platform.processor() or platform.machine()}, {available_cores()} cores. First: opening and the first "
            "run. Differences are to ONNX Runtime in f32: the largest in probability of change, and the share of "
            "pixels of another land-cover class."
        ),
        "",
        "| backend | s / Mpx | processor s / Mpx | first s | peak MB | change | class |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        reference = None
        for number, (name, options) in enumerate(there):
            out = Path(scratch) / f"{number}.npz"
            task = {"bundle": str(bundle.path), "backend": name, "options": options, "side": side, "runs": runs}
            done = subprocess.run(
                [sys.executable, __file__, "--task", json.dumps(task | {"out": str(out)})],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                lines.append(f"| {name} {options} | {done.stderr.strip().splitlines()[-1]} | | | | | |")
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            with np.load(out) as made:
                outputs = {key: made[key] for key in made.files}
            reference = reference or outputs
            change = float(np.abs(outputs[WANTED[0]] - reference[WANTED[0]]).max())
            share = max(float(np.mean(outputs[key] != reference[key])) for key in WANTED[1:])
            lines.append(
                f"| {row['name']} | {row['wall']:.2f} | {row['cpu']:.2f} | {row['first']:.1f} | {row['peak_mb']:.0f} | "
                f"{change:.1e} | {share:.3%} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table, or do one backend in a fresh process (`--task`)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="s2-change", help="installed name or folder")
    parser.add_argument("--side", type=int, default=1024, help="side of the window in pixels, a multiple of 16")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--compiled", action="store_true", help="torch.compile too, which takes half a minute")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        try:
            print(json.dumps(one(json.loads(options.task))))
        except TubanError as error:
            sys.exit(str(error))
        return
    table = measure(resolve(options.bundle), options.side, options.runs, compiled=options.compiled)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
