"""Speed and memory of polygonising against `rasterio.features.shapes` + `shapely.geometry.shape`, in one run.

Usage: `python benchmarks/vectorize.py [--size 4096] [--repeats 3]`; writes benchmarks/results/vectorize.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
import shapely
from rasterio import Affine, features
from scipy import ndimage

from tuban.postprocess.vectorize import VectorizeSettings, iter_polygons

TARGET = 6.0


def class_map(size: int, *, classes: int = 6, sigma: float = 4.7, seed: int = 7) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a land-cover-like map: the sextiles of smoothed noise, with speckle, `(size, size)`."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), sigma)
    cuts = np.quantile(noise[::7, ::7], np.arange(1, classes) / classes)
    return (np.digitize(noise, cuts) + 1).astype(np.uint8)


def reference(path: Path) -> tuple[float, int]:
    """Time the whole-array way: every shape becomes a shapely polygon in a list."""
    with rasterio.open(path) as source:
        values = source.read(1)
        start = time.process_time()
        polygons = [
            shapely.geometry.shape(geometry) for geometry, _ in features.shapes(values, transform=source.transform)
        ]
        return time.process_time() - start, len(polygons)


def ours(path: Path, *, noded: bool) -> tuple[float, int]:
    """Time streaming, reading of the file included."""
    start = time.process_time()
    count = sum(len(batch.value) for batch in iter_polygons(path, settings=VectorizeSettings(noded=noded)))
    return time.process_time() - start, count


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classes.tif"
        profile = {"driver": "GTiff", "height": options.size, "width": options.size, "count": 1, "dtype": "uint8"}
        with rasterio.open(
            path,
            "w",
            **profile,
            crs="EPSG:32650",
            transform=Affine(10, 0, 5e5, 0, -10, 4e6),
            tiled=True,
            compress="deflate",
        ) as sink:
            sink.write(class_map(options.size), 1)
        runs = [(ours(path, noded=True), ours(path, noded=False), reference(path)) for _ in range(options.repeats)]
    counts = {run[i][1] for run in runs for i in range(3)}
    noded, plain, whole = (min(run[i][0] for run in runs) for i in range(3))
    lines = [
        "# Vectorising",
        "",
        f"{options.size} x {options.size} pixels, six classes, {'/'.join(map(str, sorted(counts)))} polygons.",
        f"Best CPU seconds of {options.repeats}, alternating, on {os.cpu_count()} cores ({platform.machine()}),",
        f"load {os.getloadavg()[0]:.1f}; memory of the process at the end {peak_mib():.0f} MiB.",
        "",
        "| way | CPU seconds | times as fast |",
        "|---|---|---|",
        f"| rasterio.features.shapes + shapely.geometry.shape, array in memory | {whole:.2f} | 1 |",
        f"| tuban, corners only, file read included | {plain:.2f} | {whole / plain:.1f} |",
        f"| tuban, shared vertices (default), file read included | {noded:.2f} | {whole / noded:.1f} |",
        "",
        f"Target: {TARGET:g} times.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "vectorize.md").write_text(text, encoding="utf-8")


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB where the platform tells, else the present one."""
    memory = psutil.Process().memory_info()
    return float(getattr(memory, "peak_wset", memory.rss)) / 2**20


if __name__ == "__main__":
    main()
