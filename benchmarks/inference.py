"""Speed and memory of change inference: whole-process time over bare ONNX Runtime time for the same pixels.

    python benchmarks/inference.py [--bundle s2-change] [--size 2048] [--tile 1024]

Both are measured in fresh processes, one after the other, on this machine: the bare time is only `session.run` over
the pixels without any overlap; the whole time is everything from the start of Python to the last COG in place.
Results go to `benchmarks/results/inference.md`.
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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results" / "inference.md"
BARE_TILE = 512
OUTPUTS = ("landcover_before", "landcover_after", "change")
# ru_maxrss is in kB on Linux and in bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class FilePair:
    """Two GeoTIFFs of one grid, read as they are: the cost of reading without warping or normalising."""

    def __init__(self, folder: Path) -> None:
        """Open `before.tif` and `after.tif`."""
        self._dates = [rasterio.open(folder / f"{date}.tif") for date in ("before", "after")]
        first = self._dates[0]
        self.height, self.width, self.crs, self.transform = first.height, first.width, first.crs, first.transform

    def read(self, window: Any, names: Sequence[str]) -> FileWindow:
        """Return reflectance of both dates."""
        indices = list(range(1, len(names) + 1))
        before, after = (
            date.read(indices, window=window).astype(np.float32) * np.float32(1e-4) for date in self._dates
        )
        return FileWindow(before, after, (before[0] > 0) & (after[0] > 0))


class FileWindow(NamedTuple):
    """Values `(bands, h, w)` of both dates, and which pixels are valid."""

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    valid: NDArray[np.bool_]


def write_pair(folder: Path, size: int, bands: int) -> None:
    """Write two smooth random scenes, compressed as real ones are."""
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "dtype": "uint16", "count": bands, "height": size, "width": size, "nodata": 0,
        "crs": "EPSG:32650", "transform": Affine(10, 0, 500000, 0, -10, 4000000),
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "interleave": "pixel",
    }  # fmt: skip
    for date in ("before", "after"):
        with rasterio.open(folder / f"{date}.tif", "w", **profile) as dataset:
            for _, window in dataset.block_windows(1):
                coarse = rng.integers(400, 4000, (bands, 32, 32), dtype=np.uint16).repeat(16, 1).repeat(16, 2)
                noise = rng.integers(0, 64, coarse.shape, dtype=np.uint16)
                dataset.write((coarse + noise)[:, : window.height, : window.width], window=window)


def whole(bundle: str, folder: Path, tile: int | None) -> dict[str, Any]:
    """Run everything once; called in a fresh process."""
    from tuban.inference.change import predict_change
from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import resolve

    result = predict_change(FilePair(folder), resolve(bundle), folder / "out", settings=InferenceSettings(tile=tile))
    plan = result.details["plan"]
    fed = (plan["core_height"] + 2 * plan["halo"]) * (plan["core_width"] + 2 * plan["halo"])
    return {"valid_px": result.valid_px, "fed_px": fed * result.details["windows_run"]}


def bare(bundle: str, folder: Path) -> dict[str, Any]:
    """Time only `session.run` over the same pixels without overlap; called in a fresh process."""
    from rasterio.windows import Window

    from tuban.inference.backends import OnnxBackend
    from tuban.models.bundle import resolve

    model, pair = resolve(bundle), FilePair(folder)
    backend, seconds = OnnxBackend(model), 0.0
    for row in range(0, pair.height, BARE_TILE):
        for col in range(0, pair.width, BARE_TILE):
            data = pair.read(Window(col, row, BARE_TILE, BARE_TILE), model.bands)
            started = time.perf_counter()
            backend.run({"before": data.before[None], "after": data.after[None]}, OUTPUTS)
            seconds += time.perf_counter() - started
    return {"seconds": seconds}


def child(*arguments: str) -> dict[str, Any]:
    """Run this file in a fresh process; return what it reports and its wall time."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return {"wall": time.perf_counter() - started, **json.loads(done.stdout)}


def main() -> None:
    """Measure and write the table, or do one part in a fresh process (`--part`)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="s2-change", help="installed name or folder")
    parser.add_argument("--size", type=int, nargs="+", default=[1024, 2048], help="sides in pixels, multiples of 512")
    parser.add_argument("--tile", type=int, nargs="+", default=[0], help="sides fed to the network; 0: the bundle's")
    parser.add_argument("--part", choices=["whole", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if any(size < BARE_TILE or size % BARE_TILE for size in options.size):
        parser.error(f"--size must be multiples of {BARE_TILE}")
    if options.part == "bare":
        report = bare(options.bundle, options.folder)
    elif options.part == "whole":
        report = whole(options.bundle, options.folder, options.tile[0] or None)
    else:
        table = measure(options.bundle, options.size, options.tile)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(table, encoding="utf-8")
        print(table)
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    print(json.dumps({**report, "peak_mb": peak / 1e6}))


def measure(bundle: str, sizes: list[int], tiles: list[int]) -> str:
    """Return the Markdown table."""
    from tuban.inference.backends import available_cores
    from tuban.models.bundle import resolve

    model = resolve(bundle)
    lines = [
        f"# Inference of `{model.model_id}`",
        "",
        (
            f"{platform.processor() or platform.machine()}, {available_cores()} cores; halo {model.halo} px. "
            "Bare: `session.run` only, no overlap. Whole: a fresh process from start to four COGs. "
            "Fed: pixels run through the network per pixel of the scene (the price of the halo)."
        ),
        "",
        "| side px | tile px | bare s | whole s | whole / bare | fed | (whole / bare) / fed | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            write_pair(Path(name), size, len(model.bands))
            common = ("--bundle", str(model.path), "--folder", name)
            base = child("--part", "bare", *common)["seconds"]
            for tile in tiles:
                run = child("--part", "whole", *common, "--tile", str(tile))
                ratio, fed = run["wall"] / base, run["fed_px"] / size**2
                lines.append(
                    f"| {size} | {tile or model.tile} | {base:.1f} | {run['wall']:.1f} | {ratio:.2f} | {fed:.2f} | "
                    f"{ratio / fed:.2f} | {run['peak_mb']:.0f} |"
                )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
