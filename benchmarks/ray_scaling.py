"""Scaling on Ray: how much faster two single-core workers are than one, and whether the results are the same.

    python benchmarks/ray_scaling.py [--windows 6] [--repeat 2]

Each run is a fresh process with a Ray of its own. Work: from the start of the first worker to the last part on disk.
Whole: from the call of `predict_change` to the last COG, with the start and end of Ray and the writing of the COGs,
which is the driver's. Efficiency is the time of one worker over twice that of two, each the best of its runs. The two
workers need two idle cores: the load before each run stands in the table. Results go to
`benchmarks/results/ray_scaling.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

RESULTS = Path(__file__).parent / "results" / "ray_scaling.md"
TARGET = 0.85
NAMES = ("change", "probability", "landcover_before", "landcover_after")


def write_pair(folder: Path, size: int, bands: tuple[str, ...]) -> None:
    """Write two smooth random scenes in reflectance × 10⁴, compressed as real ones are."""
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "dtype": "uint16", "count": len(bands), "height": size, "width": size, "nodata": 0,
        "crs": "EPSG:32650", "transform": Affine(10, 0, 500000, 0, -10, 4000000),
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "interleave": "pixel",
    }  # fmt: skip
    for date in ("before", "after"):
        with rasterio.open(folder / f"{date}.tif", "w", **profile) as dataset:
            dataset.descriptions = bands
            dataset.scales = [1e-4] * len(bands)
            for _, window in dataset.block_windows(1):
                coarse = rng.integers(400, 4000, (len(bands), 32, 32), dtype=np.uint16).repeat(16, 1).repeat(16, 2)
                noise = rng.integers(0, 64, coarse.shape, dtype=np.uint16)
                dataset.write((coarse + noise)[:, : window.height, : window.width], window=window)


def run(folder: Path, workers: int, tile: int) -> None:
    """Run once in this process and print what was measured as JSON."""
    from tuban.data.pair import PairSettings, open_pair
    from tuban.inference.change import predict_change
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import resolve

    plain = PairSettings.model_validate({"registration": {"enabled": False}, "radiometry": {"enabled": False}})
    settings = InferenceSettings(backend="onnx", threads=1, workers=workers, tile=tile)
    with (
        open_pair(folder / "before.tif", folder / "after.tif", settings=plain) as pair,
        tempfile.TemporaryDirectory(dir=folder) as out,
    ):
        started = time.perf_counter()
        made = predict_change(pair, resolve("s2-change"), out, settings=settings)
        whole = time.perf_counter() - started
        digest = hashlib.sha256(b"".join(getattr(made, name).read_bytes() for name in NAMES)).hexdigest()
    found = re.search(r"(\d+) tasks in ([\d.]+) s", made.history[-1]) if workers else None
    print(
        json.dumps(
            {
                "whole": whole,
                "work": float(found[2]) if found else 0.0,
                "tasks": int(found[1]) if found else 0,
                "hash": digest,
                "model": made.details["model"],
                "windows": made.details["windows_run"],
            }
        )
    )


def measured(folder: Path, workers: int, tile: int) -> dict[str, Any]:
    """Run in a fresh process."""
    load = os.getloadavg()[0]
    command = [sys.executable, __file__, "--run", str(folder), "--workers", str(workers), "--tile", str(tile)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{workers} workers: work {found['work']:.1f} s, whole {found['whole']:.1f} s, load before {load:.1f}")
    return found | {"load": load}


def best(runs: list[dict[str, Any]], what: str) -> float:
    """Return the shortest time."""
    return float(min(one[what] for one in runs))


def table(size: int, runs: dict[int, list[dict[str, Any]]]) -> str:
    """Return the Markdown of the results."""
    first = runs[1][0]
    same = len({one["hash"] for group in runs.values() for one in group}) == 1
    efficiency = {what: best(runs[1], what) / (2 * best(runs[2], what)) for what in ("work", "whole")}
    how = (
        f"`python benchmarks/ray_scaling.py`; {platform.machine()}, {len(os.sched_getaffinity(0))} cores; Ray "
        f"{version('ray')}; `{first['model']}`, pair of {size}² px, {first['windows']} windows, ONNX Runtime with one "
        f"thread a worker; best of {len(runs[1])} runs each. Work: from the start of the first worker to the last "
        "part. Whole: with the start and end of Ray and the writing of the COGs."
    )
    verdict = (
        f"Efficiency from one to two workers: **{efficiency['work']:.2f}** of the work (target ≥ {TARGET}), "
        f"{efficiency['whole']:.2f} of the whole. Hashes of all runs are {'equal' if same else '**not equal**'}."
    )
    lines = ["# Scaling on Ray", "", how, "", "| workers | work s | whole s | tasks | load before the runs |"]
    lines.append("|---|---|---|---|---|")
    for workers, group in runs.items():
        times = (
            " | ".join(f"{best(group, what):.1f}" for what in ("work", "whole"))
            if workers
            else (f"– | {best(group, 'whole'):.1f}")
        )
        loads = ", ".join(f"{one['load']:.1f}" for one in group)
        lines.append(f"| {workers or 'this process alone'} | {times} | {group[0]['tasks'] or '–'} | {loads} |")
    lines += ["", verdict]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure none, one and two workers in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=6, help="windows along a side of the pair")
    parser.add_argument("--tile", type=int, default=1024, help="tile in pixels")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        run(options.run, options.workers, options.tile)
        return
    from tuban.inference.predict import halo
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import resolve

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = resolve("s2-change")
        # Whole windows, an even number of them: as many for each of two workers.
        size = options.windows * ((options.tile - 2 * halo(bundle, InferenceSettings())) // 16 * 16)
        write_pair(folder, size, tuple(bundle.bands))
        runs: dict[int, list[dict[str, Any]]] = {0: [], 1: [], 2: []}
        for _ in range(options.repeat):  # in turn, so that a load that comes and goes meets all alike
            for workers, group in runs.items():
                group.append(measured(folder, workers, options.tile))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(table(size, runs), encoding="utf-8")
    print(table(size, runs))


if __name__ == "__main__":
    main()
