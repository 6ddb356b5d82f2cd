"""Speed and memory of the overlay against `geopandas.overlay`, in one run, and one run at county size.

Usage: `python benchmarks/overlay.py [--slice 316] [--county 1000] [--repeats 3]`; the numbers are the sides of square
grids, so 316 is 100k x 100k and 1000 is 1 M x 1 M (0 leaves it out). Writes benchmarks/results/overlay.md.

Both sides give the common area of every change and parcel, twice: from frames in memory (`overlay`), and from the same
GeoPackage (`file`), which geopandas reads whole and tuban streams along a Hilbert curve, collecting the parcels under
each batch as `tuban check` does. Each side runs in a process of its own; imports are not counted.
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
    clock = Clock()
    left, right = gpd.read_file(path, layer="changes"), gpd.read_file(path, layer="DLTB")
    read = clock.took("read")
    result = gpd.overlay(left, right, how="intersection")
    overlaid = clock.took("overlay")
    file = {f"file_{unit}": read[f"read_{unit}"] + overlaid[f"overlay_{unit}"] for unit in ("s", "cpu")}
    return {"pieces": len(result), "area": float(result.area.sum()), **overlaid, **file}


def work_tuban(path: Path) -> dict[str, float]:
    """Collect from frames in memory, then from the file in batches."""
    from tuban.data.plan import PlanLayer
    from tuban.postprocess.overlay import OverlayCounts, collect

    left, right = gpd.read_file(path, layer="changes"), gpd.read_file(path, layer="DLTB")
    memory = PlanLayer(role="land_use_baseline", source=right, id_field="BSM", class_field="DLBM")
    clock = Clock()
    pieces = collect((memory,), np.asarray(left.geometry.values, dtype=object), left.crs, OverlayCounts())
    area = float(shapely.area(pieces.geometry).sum())
    overlaid = clock.took("overlay")
    streamed = stream(path, ellipsoidal=False)
    return {"area": area, **overlaid, **clock.took("file"), "pieces": streamed["pieces"]}


def stream(path: Path, *, ellipsoidal: bool = True) -> dict[str, float]:
    """Stream the changes and collect what lies under each batch; with ellipsoidal areas where asked."""
    from tuban.data.plan import PlanLayer
    from tuban.data.vector import VectorSettings, open_layer
    from tuban.postprocess.overlay import OverlayCounts, collect, measured

    clock = Clock()
    layer = PlanLayer(role="land_use_baseline", source=open_layer(path, "DLTB"), id_field="BSM", class_field="DLBM")
    source, counts = open_layer(path, "changes", settings=VectorSettings(batch_size=BATCH)), OverlayCounts()
    ellipsoid = 0.0
    for frame in source.batches(neighbours=True):
        pieces = collect((layer,), np.asarray(frame.geometry.values, dtype=object), source.crs, counts)
        if ellipsoidal:
            ellipsoid += float(measured(pieces.geometry, source.crs).sum())
    found = {"pieces": counts.plan_pieces, "ellipsoid": ellipsoid, "fallbacks": counts.topology_fallbacks}
    return {**found, **clock.took("file")}


class Clock:
    """Seconds and CPU seconds since the last look."""

    def __init__(self) -> None:
        self.now = time.perf_counter(), time.process_time()

    def took(self, name: str) -> dict[str, float]:
        """Return what has passed, as `name_s` and `name_cpu`."""
        before, self.now = self.now, (time.perf_counter(), time.process_time())
        return {f"{name}_s": self.now[0] - before[0], f"{name}_cpu": self.now[1] - before[1]}


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
    import tuban.data.plan
    import tuban.postprocess.overlay  # noqa: F401 - imported before the clocks start

    found = {"geopandas": work_geopandas, "tuban": work_tuban, "county": stream}[name](path)
    print(json.dumps({**found, "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


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
    best = [{key: min(pair[i][key] for pair in runs) for key in runs[0][i]} for i in (0, 1)]
    ours, theirs = best
    keys = ("overlay_s", "overlay_cpu", "file_s", "file_cpu", "gb", "pieces")
    rows = [
        f"| {name} | " + " | ".join(f"{side[key]:.{0 if key == 'pieces' else 2}f}" for key in keys) + " |"
        for name, side in (("tuban", ours), ("geopandas.overlay", theirs))
    ]
    ratios = [f"{theirs[key] / ours[key]:.2f}" for key in keys[:4]]
    verdict = "met" if theirs["overlay_s"] / ours["overlay_s"] >= TARGET_RATIO else "missed"
    gap = abs(ours["area"] / theirs["area"] - 1)
    head = f"{count} changes x {count} parcels; best of {len(runs)}, alternating."
    columns = "| | overlay, wall s | overlay, CPU s | with reading, wall s | with reading, CPU s | peak GB | pieces |"
    return [
        head, "", columns, "|---|---|---|---|---|---|---|", *rows, f"| ratio | {' | '.join(ratios)} | | |", "",
        f"Overlay at least {TARGET_RATIO} times as fast: {verdict}. Areas differ by {gap:.1e}.", "",
    ]  # fmt: skip


def _county_lines(found: dict[str, float], count: int) -> list[str]:
    verdict = "met" if found["gb"] <= TARGET_GB else "missed"
    said = (
        f"{count} changes in random order x {count} parcels, ellipsoidal areas included: {found['file_s']:.0f} s wall, "
        f"{found['file_cpu']:.0f} s CPU, peak {found['gb']:.2f} GB (at most {TARGET_GB:g}: {verdict}), "
        f"{found['pieces']:.0f} pieces, {found['fallbacks']:.0f} topology fallbacks."
    )
    return [said]


if __name__ == "__main__":
    main()
