"""Speed and memory of the overlay against `geopandas.overlay`, in one run, and one run at county size.

Usage: `python benchmarks/overlay.py [--slice 316] [--county 1000] [--repeats 3]`; the numbers are the sides of square
grids, so 316 is 100k x 100k and 1000 is 1 M x 1 M (0 leaves it out). Writes benchmarks/results/overlay.md.

Both sides read the same GeoPackage and give the common area of every change and parcel. geopandas reads both layers and
overlays them; tuban streams the changes along a Hilbert curve and collects the parcels under each batch, as
`tuban check` does. Each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely

Array = npt.NDArray[Any]

TARGET_RATIO, TARGET_GB = 2.5, 8.0
WIDTH, HEIGHT, EDGE = 60.0, 80.0, 4  # metres of a parcel, and segments of each of its edges
ORIGIN = np.array([38_480_000.0, 3_400_000.0])  # EPSG:4526
BATCH = 5000


def parcels(columns: int, rows: int, seed: int) -> Array:
    """Return a tessellation of fields with bent common edges, `(columns * rows,)`."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(columns + 1) * WIDTH, np.arange(rows + 1) * HEIGHT, indexing="xy"), -1)
    nodes = grid + rng.uniform(-12, 12, grid.shape)
    across, along = _bent(nodes[:, :-1], nodes[:, 1:], rng), _bent(nodes[:-1], nodes[1:], rng)
    back, down = _turned(across[1:], nodes[1:, 1:]), _turned(along[:, :-1], nodes[1:, :-1])
    ring = np.concatenate([across[:-1], along[:, 1:], back, down], axis=2).reshape(columns * rows, 4 * EDGE, 2)
    return shapely.polygons(np.concatenate([ring, ring[:, :1]], axis=1) + ORIGIN)


def _bent(start: Array, end: Array, rng: np.random.Generator) -> Array:
    share = (np.arange(EDGE) / EDGE)[:, None]
    points = start[..., None, :] * (1 - share) + end[..., None, :] * share
    points[..., 1:, :] += rng.uniform(-2, 2, points[..., 1:, :].shape)
    return points


def _turned(edge: Array, end: Array) -> Array:
    return np.concatenate([end[..., None, :], edge[..., :0:-1, :]], axis=-2)


def changes(columns: int, rows: int, seed: int) -> Array:
    """Return one irregular change of 20 vertices near the middle of each cell, `(columns * rows,)`."""
    rng = np.random.default_rng(seed)
    count = columns * rows
    cells = np.stack(np.meshgrid((np.arange(columns) + 0.5) * WIDTH, (np.arange(rows) + 0.5) * HEIGHT), -1)
    middle = cells.reshape(count, 2) + rng.uniform(-30, 30, (count, 2))
    angle = np.sort(rng.uniform(0, 2 * np.pi, (count, 20)), axis=1)
    reach = rng.uniform(8, 28, (count, 1)) * rng.uniform(0.6, 1.0, angle.shape)
    ring = middle[:, None] + reach[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    shapes = shapely.polygons(np.concatenate([ring, ring[:, :1]], axis=1) + ORIGIN)
    knotted = ~shapely.is_valid(shapes)
    shapes[knotted] = shapely.convex_hull(shapes[knotted])
    return shapes


def make(path: Path, side: int) -> None:
    """Write the layers DLTB and changes; the changes in random order, which is the hard case."""
    codes = np.array(["0101", "0201", "0301", "0702"])
    for layer, shapes in (("DLTB", parcels(side, side, 1)), ("changes", changes(side, side, 2))):
        order = np.arange(len(shapes)) if layer == "DLTB" else np.random.default_rng(3).permutation(len(shapes))
        for start in range(0, len(order), 100_000):
            part = order[start : start + 100_000]
            frame = gpd.GeoDataFrame(
                {"BSM": part.astype(str), "DLBM": codes[part % 4]}, geometry=shapes[part], crs=4526
            )
            frame.to_file(path, layer=layer, mode="a" if start else "w")


def work_geopandas(path: Path) -> dict[str, float]:
    """Overlay both layers whole."""
    start = time.perf_counter()
    left, right = gpd.read_file(path, layer="changes"), gpd.read_file(path, layer="DLTB")
    read = time.perf_counter() - start
    result = gpd.overlay(left, right, how="intersection")
    return {"pieces": len(result), "area": float(result.area.sum()), "read": read}


def work_tuban(path: Path, *, ellipsoidal: bool = False) -> dict[str, float]:
    """Stream the changes and collect what lies under each batch; with ellipsoidal areas where asked."""
    from tuban.data.plan import PlanLayer
    from tuban.data.vector import VectorSettings, open_layer
    from tuban.postprocess.overlay import OverlayCounts, collect, measured

    layer = PlanLayer(role="land_use_baseline", source=open_layer(path, "DLTB"), id_field="BSM", class_field="DLBM")
    source, counts = open_layer(path, "changes", settings=VectorSettings(batch_size=BATCH)), OverlayCounts()
    area = ellipsoid = 0.0
    for frame in source.batches(neighbours=True):
        pieces = collect((layer,), np.asarray(frame.geometry.values, dtype=object), source.crs, counts)
        area += float(shapely.area(pieces.geometry).sum())
        if ellipsoidal:
            ellipsoid += float(measured(pieces.geometry, source.crs).sum())
    return {"pieces": counts.plan_pieces, "area": area, "ellipsoid": ellipsoid, "fallbacks": counts.topology_fallbacks}


def run(job: str, path: Path) -> dict[str, float]:
    """Run one side in its own process and return what it found, seconds, CPU seconds and peak memory."""
    command = [sys.executable, __file__, "--job", job, "--path", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(path: Path) -> Path:
    """Return where the results go; a folder that is not there is made."""
    path.parent.mkdir(exist_ok=True)
    return path


def job(name: str, path: Path) -> None:
    """Do one side and print what it found as JSON."""
    sides = {"geopandas": work_geopandas, "tuban": work_tuban, "county": lambda p: work_tuban(p, ellipsoidal=True)}
    start, cpu = time.perf_counter(), time.process_time()
    found = sides[name](path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**found, "s": time.perf_counter() - start, "cpu": time.process_time() - cpu, "gb": peak}))


def main() -> None:
    """Run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slice", type=int, default=316)
    parser.add_argument("--county", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--job")
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    if options.job:
        job(options.job, options.path)
        return
    lines = [
        "# Overlay",
        "",
        f"{len(os.sched_getaffinity(0))} cores ({platform.machine()}); load {os.getloadavg()[0]:.1f}.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slice.gpkg"
        make(path, options.slice)
        runs = [(run("tuban", path), run("geopandas", path)) for _ in range(options.repeats)]
        lines += _slice_lines(runs, options.slice**2)
        path.unlink()
        if options.county:
            path = Path(folder) / "county.gpkg"
            make(path, options.county)
            lines += _county_lines(run("county", path), options.county**2)
    text = "\n".join(lines) + "\n"
    print(text)
    report(Path(__file__).parent / "results" / "overlay.md").write_text(text, encoding="utf-8")


def _slice_lines(runs: list[tuple[dict[str, float], dict[str, float]]], count: int) -> list[str]:
    ours, theirs = (min((pair[i] for pair in runs), key=lambda r: r["s"]) for i in (0, 1))
    gap = abs(ours["area"] / theirs["area"] - 1)
    rows = [
        f"| {name} | {r['s']:.2f} | {r['cpu']:.2f} | {r['gb']:.2f} | {r['pieces']:.0f} |"
        for name, r in (("tuban", ours), ("geopandas.overlay", theirs))
    ]
    verdict = "met" if theirs["s"] / ours["s"] >= TARGET_RATIO else "missed"
    bare = theirs["s"] - theirs["read"]
    said = (
        f"Ratio {theirs['s'] / ours['s']:.2f} wall, {theirs['cpu'] / ours['cpu']:.2f} CPU; at least {TARGET_RATIO}: "
        f"{verdict}. Without reading, geopandas took {bare:.2f} s: ratio {bare / ours['s']:.2f} to all of tuban's. "
        f"Areas differ by {gap:.1e}."
    )
    head = f"{count} changes x {count} parcels, from the file to the pieces; best of {len(runs)}, alternating."
    return [head, "", "| | wall s | CPU s | peak GB | pieces |", "|---|---|---|---|---|", *rows, "", said, ""]


def _county_lines(found: dict[str, float], count: int) -> list[str]:
    verdict = "met" if found["gb"] <= TARGET_GB else "missed"
    said = (
        f"{count} changes in random order x {count} parcels, ellipsoidal areas included: {found['s']:.0f} s wall, "
        f"{found['cpu']:.0f} s CPU, peak {found['gb']:.2f} GB (at most {TARGET_GB:g}: {verdict}), "
        f"{found['pieces']:.0f} pieces, {found['fallbacks']:.0f} topology fallbacks."
    )
    return [said]


if __name__ == "__main__":
    main()
