"""The jobs of `benchmarks/inference.py`, each run in a fresh process; the last line on stdout is its report.

python -m inference_parts.jobs JOB [ARGUMENTS]      # in the folder `benchmarks`
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from inference_parts import inputs, proofs
from inference_parts.running import predict, read, report, tiles

BARE_TILE = 512


def make(kind: str, path: str, size: str = "") -> None:
    """Write an input: `unet`, `stub`, `scene` or `pair`."""
    arguments = [int(size)] if size else []
    getattr(inputs, f"make_{kind}")(Path(path), *arguments)
    report()


def bare(bundle: str, kind: str, path: str) -> None:
    """Time only `session.run` over the pixels without overlap."""
    import onnxruntime

    from tuban.models.bundle import resolve

    model, source = resolve(bundle), read(kind, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model.onnx_path), options, providers=["CPUExecutionProvider"])
    names = inputs.DATES if model.task == "change" else ("image",)
    outputs = None if model.task == "change" else ["landcover_class", "landcover_confidence"]
    seconds = cpu = 0.0
    for window in tiles(source, BARE_TILE):
        data = source.read(window, model.bands)
        feeds = {name: getattr(data, name)[None] for name in names}
        started, spent = time.perf_counter(), time.process_time()
        session.run(outputs, feeds)
        seconds += time.perf_counter() - started
        cpu += time.process_time() - spent
    report(seconds=seconds, cpu=cpu)


def whole(bundle: str, kind: str, path: str, out: str, backend: str = "auto") -> None:
    """Run everything once, as a user would."""
    source = read(kind, path)
    model, made = predict(bundle, source, out, backend=backend)
    plan = made.details["plan"]
    report(
        model=model.model_id,
        backend=made.backend,
        window=[plan[f"core_{side}"] + 2 * plan["halo"] for side in ("height", "width")],
        halo=plan["halo"],
        fed=made.details["fed_px"] / (source.height * source.width),
        inside=made.seconds,
        trial=made.trial,
    )


def begin(bundle: str, size: str, out: str) -> None:
    """Plan and begin a run of any size; stop when some parts are done, and report the memory."""
    from tuban.inference.landcover import predict_landcover
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import resolve

    class EnoughError(Exception):
        pass

    done = 0

    def progress(_done: int, _total: int) -> None:
        nonlocal done
        done += 1
        if done == 50:
            raise EnoughError

    settings = InferenceSettings(backend="onnx")
    try:
        predict_landcover(inputs.Nothing(int(size)), resolve(bundle), out, settings=settings, progress=progress)
    except EnoughError:
        report(parts=done)


def loop(bundle: str, scene: str, out: str) -> None:
    """Do what is usually wired together: rasterio windows of 512 with half overlap, torch, averaged, then written."""
    import torch

    model = torch.jit.load(str(Path(bundle) / "model.pt")).eval()
    tile, step, classes = 512, 256, len(inputs.CLASSES)
    started = time.perf_counter()
    with rasterio.open(scene) as dataset, torch.inference_mode():
        total = np.zeros((classes, dataset.height, dataset.width), np.float32)
        count = np.zeros((dataset.height, dataset.width), np.float32)
        for row in range(0, dataset.height - step, step):
            for col in range(0, dataset.width - step, step):
                image = dataset.read(window=Window(col, row, tile, tile))
                place = np.s_[row : row + image.shape[1], col : col + image.shape[2]]
                total[:, *place] += model(torch.from_numpy(image)[None])[0].softmax(0).numpy()
                count[place] += 1
        chosen = (total / count).argmax(0).astype(np.uint8)
        profile = dataset.profile | {"count": 1, "dtype": "uint8"}
    with rasterio.open(out, "w", **profile) as target:
        target.write(chosen, 1)
    report(seconds=time.perf_counter() - started)


def geo(bundle: str, scene: str, out: str) -> None:
    """Run NRCan's geo-inference on the same weights, and see that it made what it was asked for."""
    from geo_inference.geo_inference import GeoInference

    Path(out).mkdir(exist_ok=True)
    classes = len(inputs.CLASSES)
    run = GeoInference(model=str(Path(bundle) / "model.pt"), work_dir=out, device="cpu", num_classes=classes)
    started = time.perf_counter()
    made = run(inference_input=scene, bands_requested=["1", "2", "3"], patch_size=1024, workers=2)
    seconds = time.perf_counter() - started
    with rasterio.open(Path(out) / made) as dataset:
        found = sorted(map(int, np.unique(dataset.read(1))))
    if len(found) < 2:
        raise SystemExit(f"geo-inference wrote nothing but {found}")
    report(seconds=seconds, values=found)


def gpu(bundle: str, pair: str, out: str, backend: str, device: str, card: str) -> None:
    """Time a backend on a device over the pixels without overlap, and the whole run by it."""
    from tuban.inference.backends import open_backend
    from tuban.inference.products import ChangeProduct
    from tuban.models.bundle import resolve

    model, source = resolve(bundle), inputs.pair(Path(pair))
    wanted, runner = ChangeProduct(model).wanted, open_backend(backend, model, device=device)
    seconds = 0.0
    for turn in range(2):  # the first compiles and allocates
        seconds = 0.0
        for window in tiles(source, model.tile)[: None if turn else 1]:
            data = source.read(window, model.bands)
            feeds = {name: getattr(data, name)[None] for name in inputs.DATES}
            started = time.perf_counter()
            runner.run(feeds, wanted)
            seconds += time.perf_counter() - started
    del runner
    _, made = predict(bundle, source, out, backend=backend, device=device)
    mpx = source.height * source.width / 1e6
    report(
        card=card,
        backend=made.backend,
        bare=mpx / seconds,
        whole=mpx / made.seconds,
        fed=made.details["fed_px"] / mpx / 1e6,
    )


def main() -> None:
    """Run the job named first."""
    job, *rest = sys.argv[1:]
    os.environ.setdefault("TUBAN_LOG", "error")
    (globals().get(job) or getattr(proofs, job))(*rest)


if __name__ == "__main__":
    main()
