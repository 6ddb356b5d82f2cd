"""Jobs that compare results: seams, runs that were killed, and Ray."""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from inference_parts import inputs
from inference_parts.running import predict, read, report

NAMES = ("change", "probability", "landcover_before", "landcover_after")


def seams(bundle: str, kind: str, path: str, halo: str) -> None:
    """Compare the class rasters of two ways to cut, and the probabilities the network gives, far from any rounding."""
    from tuban.inference.backends import open_backend
    from tuban.inference.predict import halo as rounded
    from tuban.inference.products import ChangeProduct, LandcoverProduct
    from tuban.inference.reading import read_window
    from tuban.inference.settings import InferenceSettings
    from tuban.inference.windows import plan_windows
    from tuban.models.bundle import resolve

    model, source = resolve(bundle), read(kind, path)
    wished = {"bundle": None, "exact": "exact"}.get(halo, halo)
    around = rounded(model, InferenceSettings(halo=wished))
    product = ChangeProduct(model) if model.task == "change" else LandcoverProduct(model)
    wanted = "change" if model.task == "change" else "landcover_confidence"
    sides = [2 * around + side for side in (256, 672)]
    backend, chances, classes = open_backend("onnx", model), [], []
    for tile in sides:
        with tempfile.TemporaryDirectory() as folder:
            predict(bundle, source, folder, tile=tile, backend="onnx", halo=wished)
            with rasterio.open(Path(folder) / f"{product.specs[0].name}.tif") as dataset:
                classes.append(dataset.read(1))
        plan = plan_windows(source.height, source.width, tile=tile, halo=around, stride=model.stride)
        chance = np.zeros((source.height, source.width), np.float32)
        for window in plan:
            loaded = read_window(source, model, plan, window, inputs=product.inputs)
            feeds = {name: image[None] for name, image in loaded.images.items()}
            core = np.s_[around : around + window.height, around : around + window.width]
            place = np.s_[window.row : window.row + window.height, window.col : window.col + window.width]
            chance[place] = backend.run(feeds, [wanted])[wanted][0][core]
        chances.append(chance)
    report(
        tiles=" and ".join(map(str, sides)),
        halo=around,
        exact=model.exact(around),
        differing=int((classes[0] != classes[1]).sum()),
        pixels=int(classes[0].size),
        probability=float(np.abs(chances[0] - chances[1]).max()),
    )


def resume(bundle: str, pair: str, out: str, kills: str) -> None:
    """Kill `pieces` at random moments and run it again, until done; compare the bytes."""
    folder, rng = Path(out), random.Random(0)  # noqa: S311 (moments, not secrets)

    def command(target: Path) -> list[str]:
        return [sys.executable, "-m", "inference_parts.jobs", "pieces", bundle, pair, str(target)]

    def digests(target: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(target.glob("*.tif"))}

    started = time.perf_counter()
    subprocess.run(command(folder / "whole"), check=True, capture_output=True)
    length, expected = time.perf_counter() - started, digests(folder / "whole")
    equal = again = finished = parts = 0
    for kill in range(int(kills)):
        target = folder / f"run{kill}"
        process = subprocess.Popen(command(target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.05, 1.0) * length)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = target / ".tuban-resume"
        before = len(list(left.glob("0*.tif")))
        # A run whose results are in place is finished, though it may have been killed while its parts were swept.
        complete = digests(target) == expected
        done = subprocess.run(command(target), check=True, capture_output=True, text=True)
        facts = json.loads(done.stdout.strip().splitlines()[-1])
        parts = facts["parts"]
        equal += digests(target) == expected
        finished += complete
        # What was made again although it was on the disk: 0 when nothing is done twice.
        again += 0 if complete else facts["made"] - (parts - before)
    report(kills=int(kills), equal=equal, parts=parts, again=again, finished=finished)


def pieces(bundle: str, pair: str, out: str) -> None:
    """Run a pair in small tiles, so that there are many parts to be killed between; report how many were made."""
    from tuban.inference import journal

    made = 0
    real = journal.Journal.add

    def add(self: Any, part: Any) -> None:
        nonlocal made
        made += 1
        real(self, part)

    journal.Journal.add = add  # type: ignore[method-assign]
    _, result = predict(bundle, inputs.pair(Path(pair)), out, tile=288, backend="onnx")
    report(made=made, parts=result.details["windows_run"] + result.details["windows_skipped"])


def ray(bundle: str, pair: str, workers: str, tile: str) -> None:
    """Run a pair in this process (0 workers) or on Ray workers with one thread each."""
    from tuban.data.pair import PairSettings, open_pair

    folder = Path(pair)
    plain = PairSettings.model_validate({"registration": {"enabled": False}, "radiometry": {"enabled": False}})
    settings = {"backend": "onnx", "threads": 1, "workers": int(workers), "tile": int(tile)}
    files = [folder / f"{date}.tif" for date in inputs.DATES]
    with open_pair(*files, settings=plain) as source, tempfile.TemporaryDirectory(dir=folder) as out:
        _, made = predict(bundle, source, out, **settings)
        digest = hashlib.sha256(b"".join(getattr(made, name).read_bytes() for name in NAMES)).hexdigest()
    found = re.search(r"(\d+) tasks in ([\d.]+) s", made.history[-1]) if int(workers) else None
    report(
        inside=made.seconds,
        work=float(found[2]) if found else 0.0,
        tasks=int(found[1]) if found else 0,
        hash=digest,
        model=made.details["model"],
        windows=made.details["windows_run"],
    )
