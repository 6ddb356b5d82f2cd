"""Speed and memory of polygonising, against `rasterio.features.shapes` + `shapely.geometry.shape`, in one run.

Usage: `python benchmarks/vectorize.py [--size 4096] [--repeats 3] [--memory 10000 40000]`; writes
benchmarks/results/vectorize.md. The two memory rasters take some minutes and 300 MB in the temporary folder; `--memory`
with nothing after it leaves them out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
import shapely
from rasterio import Affine, features
from scipy import ndimage

from tuban.postprocess.polygonize import iter_polygons
from tuban.postprocess.vectorize_settings import VectorizeSettings

if TYPE_CHECKING:
    from collections.abc import Callable

TARGET = 6.0
CACHE_MB = 64  # GDAL's block cache, which by default takes 5 % of the machine's memory
Classes = np.ndarray[Any, np.dtype[np.uint8]]


class Took(NamedTuple):
    """Seconds of a run, and how many polygons came out."""

    wall: float
    cpu: float
    polygons: int


def class_map(size: int, *, classes: int = 6, sigma: float = 4.49, seed: int = 7) -> Classes:
    """Return a land-cover-like map: the sextiles of smoothed noise, `(size, size)`; 167 thousand polygons at 4096."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), sigma)
    cuts = np.quantile(noise[::7, ::7], np.arange(1, classes) / classes)
    return (np.digitize(noise, cuts) + 1).astype(np.uint8)


def write(path: Path, size: int, band: Callable[[int, int], Classes], rows: int) -> None:
    """Write a tiled raster, `rows` at a time."""
    profile = {"driver": "GTiff", "height": size, "width": size, "count": 1, "dtype": "uint8"}
    grid = {"crs": "EPSG:32650", "transform": Affine(10, 0, 5e5, 0, -10, 4e6)}
    with rasterio.open(path, "w", **profile, **grid, tiled=True, compress="deflate", zlevel=1, bigtiff="yes") as sink:
        for row in range(0, size, rows):
            part = band(row, min(row + rows, size))
            sink.write(part, 1, window=((row, row + len(part)), (0, size)))


def large_map(size: int) -> Callable[[int, int], Classes]:
    """Return a map of any size by rows: the class map repeated with shifts, crossed by rivers and one large field.

    The rivers run from the first row to the last, so that they are unfinished in every strip.
    """
    tile = class_map(2048)
    cols = np.arange(size)

    def band(top: int, bottom: int) -> Classes:
        rows = np.arange(top, bottom)
        values = tile[rows % 2048][:, (cols + 577 * (top // 2048)) % 2048]
        bend = (300 * np.sin(rows / 900)).astype(int)
        values[(cols[None] + bend[:, None]) % 4000 < 12] = 6
        values[np.ix_((rows > size // 3) & (rows < size // 2), (cols > size // 3) & (cols < size // 2))] = 2
        return values

    return band


def timed(count: Callable[[], int]) -> Took:
    """Run and time."""
    wall, cpu = time.perf_counter(), time.process_time()
    polygons = count()
    return Took(time.perf_counter() - wall, time.process_time() - cpu, polygons)


def reference(path: Path) -> Took:
    """Time the whole-array way: every shape becomes a shapely polygon in a list. Reading does not count."""
    with rasterio.open(path) as source:
        values, transform = source.read(1), source.transform
    shapes = features.shapes
    return timed(lambda: len([shapely.geometry.shape(shape) for shape, _ in shapes(values, transform=transform)]))


def ours(path: Path, *, noded: bool) -> Took:
    """Time streaming, reading of the file included."""
    settings = VectorizeSettings(noded=noded)
    return timed(lambda: sum(len(batch.value) for batch in iter_polygons(path, settings=settings)))


def child(path: Path, **environment: str) -> dict[str, float]:
    """Trace a file in a process of its own and return what it says of itself."""
    command = [sys.executable, __file__, "--trace", str(path)]
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def trace(path: Path) -> None:
    """Trace a file and print time and peak memory; what a child process runs."""
    took = ours(path, noded=True)
    print(json.dumps(took._asdict() | {"peak_mib": peak_mib()}))


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB (Linux), 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def speed(folder: Path, size: int, repeats: int) -> list[str]:
    """Compare with the whole-array way, alternating."""
    path = folder / "classes.tif"
    values = class_map(size)
    write(path, size, lambda top, bottom: values[top:bottom], 512)
    ours(path, noded=True)  # compiles where that was not done before
    runs = [(reference(path), ours(path, noded=False), ours(path, noded=True)) for _ in range(repeats)]
    counts = {took.polygons for run in runs for took in run}
    best = [Took(min(r[i].wall for r in runs), min(r[i].cpu for r in runs), runs[0][i].polygons) for i in range(3)]
    names = (
        "rasterio.features.shapes + shapely.geometry.shape, array in memory",
        "tuban, corners only, file read included",
        "tuban, shared vertices (default), file read included",
    )
    return [
        f"{size} x {size} pixels, six classes, {'/'.join(map(str, sorted(counts)))} polygons. Best of {repeats},",
        f"alternating, on {os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}.",
        "",
        "| way | seconds | CPU seconds | times as fast | by CPU |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {b.wall:.2f} | {b.cpu:.2f} | {best[0].wall / b.wall:.1f} | {best[0].cpu / b.cpu:.1f} |"
            for name, b in zip(names, best, strict=True)
        ),
        "",
        f"Target: {TARGET:g} times.",
    ]


def first_run(folder: Path) -> list[str]:
    """Time a first and a second process on a tiny raster: what compiling costs."""
    path = folder / "tiny.tif"
    values = class_map(64)
    write(path, 64, lambda top, bottom: values[top:bottom], 64)
    first, second = (child(path, NUMBA_CACHE_DIR=str(folder / "code")) for _ in range(2))
    return [
        "",
        "## First run",
        "",
        f"A 64 x 64 raster takes {first['wall']:.1f} s ({first['cpu']:.1f} s CPU) in the first process after",
        f"installation, which compiles, and {second['wall']:.2f} s in later ones.",
    ]


def memory(folder: Path, sizes: list[int]) -> list[str]:
    """Measure peak memory of a process on maps of growing size."""
    lines = [
        "",
        "## Memory",
        "",
        "One process a raster; rivers run from the first row to the last, a field has a sixth of its height.",
        f"tuban uses one core; GDAL's block cache is held at {CACHE_MB} MB.",
        "",
        "| raster | polygons | seconds | CPU seconds | peak MiB |",
        "|---|---|---|---|---|",
    ]
    for size in sizes:
        path = folder / f"{size}.tif"
        write(path, size, large_map(size), 512)
        found = child(path, GDAL_CACHEMAX=str(CACHE_MB))
        path.unlink()
        lines.append(
            f"| {size} x {size} | {found['polygons']:.0f} | {found['wall']:.1f} | {found['cpu']:.1f} "
            f"| {found['peak_mib']:.0f} |"
        )
    return lines


def main() -> None:
    """Run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[10_000, 40_000])
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trace:
        trace(options.trace)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = ["# Vectorising", "", *speed(folder, options.size, options.repeats), *first_run(folder)]
        if options.memory:
            lines += memory(folder, options.memory)
    text = "\n".join(lines) + "\n"
    print(text)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "vectorize.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
