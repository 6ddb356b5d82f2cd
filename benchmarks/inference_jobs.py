"""The jobs of `inference.py`, each run in a fresh process; the last line on stdout is its report."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

BARE_TILE = 512
CLASSES = (1, 4, 7, 9, 10)
HALO = 64
# ru_maxrss is in kB on Linux and in bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
GRID = {"crs": "EPSG:32650", "transform": Affine(10, 0, 500000, 0, -10, 4000000)}


class Files:
    """GeoTIFFs of one grid, read as they are: the cost of reading without warping or normalising."""

    def __init__(self, scale: float, **paths: Path) -> None:
        """Open the files, named as the network's inputs."""
        self._files = {name: rasterio.open(path) for name, path in paths.items()}
        self._scale = np.float32(scale)
        first = next(iter(self._files.values()))
        self.height, self.width, self.crs, self.transform = first.height, first.width, first.crs, first.transform

    def read(self, window: Any, names: Sequence[str]) -> SimpleNamespace:
        """Return scaled values and which pixels are not 0."""
        indices = list(range(1, len(names) + 1))
        valid, images = None, {}
        for name, file in self._files.items():
            stored = file.read(indices, window=window)
            seen = stored[0] != 0
            valid = seen if valid is None else valid & seen
            images[name] = np.multiply(stored, self._scale, dtype=np.float32)
        return SimpleNamespace(valid=valid, **images)


class Nothing:
    """A scene of any size that costs neither disk nor time: a pattern that is repeated."""

    crs, transform = rasterio.CRS.from_epsg(32650), GRID["transform"]
    _PERIOD = 512

    def __init__(self, size: int) -> None:
        """Of `size` pixels a side."""
        self.height = self.width = size
        side = np.arange(5 * self._PERIOD, dtype=np.float32) % self._PERIOD
        self._pattern = np.repeat((side[:, None] * side % 255 / 255)[None], 3, axis=0)

    def read(self, window: Any, names: Sequence[str]) -> SimpleNamespace:
        """Return the pattern, valid everywhere; at most four periods a side."""
        top, left = window.row_off % self._PERIOD, window.col_off % self._PERIOD
        image = self._pattern[: len(names), top : top + window.height, left : left + window.width]
        return SimpleNamespace(image=image, valid=np.ones(image.shape[1:], np.bool_))


def report(**facts: Any) -> None:
    """Print the report of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 1e6
    print(json.dumps({**facts, "peak_mb": peak}))


def smooth(rng: np.random.Generator, bands: int, side: int, low: int, high: int, dtype: str) -> np.ndarray[Any, Any]:
    """Return a block of patches with a little noise, compressible as real scenes are."""
    coarse = rng.integers(low, high, (bands, side // 16, side // 16)).repeat(16, 1).repeat(16, 2)
    return (coarse + rng.integers(0, (high - low) // 16, coarse.shape)).astype(dtype)


def write(path: Path, size: int, bands: int, low: int, high: int, dtype: str, seed: int) -> None:
    """Write a random scene block by block."""
    rng = np.random.default_rng(seed)
    profile = {
        "driver": "GTiff", "dtype": dtype, "count": bands, "height": size, "width": size, "nodata": 0, **GRID,
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1, "interleave": "pixel",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        for _, window in dataset.block_windows(1):
            values = smooth(rng, bands, 512, low, high, dtype)
            dataset.write(values[:, : int(window.height), : int(window.width)], window=window)


def make_bundle(folder: Path, model: Any, *, tile: int, halo: int, stride: int, reach: int, bands: int) -> None:
    """Write a land-cover bundle of a network that maps `(n, bands, h, w)` to logits."""
    from datetime import UTC, datetime

    import torch

    from tuban.models.bundle import BundleSpec
    from tuban.models.deploy import DeployedLandcover
    from tuban.models.export import export_onnx
    from tuban.models.mlm import write_mlm

    folder.mkdir(parents=True, exist_ok=True)
    deployed = DeployedLandcover(model, (0.5,) * bands, (0.25,) * bands)
    export_onnx(deployed, folder / "model.onnx", bands=bands)
    # For the peers: the same weights as they take them, logits out.
    torch.jit.trace(model.eval(), torch.rand(1, bands, 512, 512)).save(str(folder / "model.pt"))
    names = ("B04", "B03", "B02")[:bands]
    spec = BundleSpec(
        name="bench", version="1", task="landcover", bands=names, required_bands=names, gsd_m=(1, 30),
        mean=(0.5,) * bands, std=(0.25,) * bands, classes=CLASSES, tile=tile, halo=halo, stride=stride,
        receptive_reach=reach, threshold=0.5,
    )  # fmt: skip
    created = datetime(2026, 1, 1, tzinfo=UTC)
    write_mlm(spec, folder, architecture="benchmark", created=created, framework_version=torch.__version__)


def make_unet(folder: str) -> None:
    """Write the U-Net; ImageNet weights in the encoder, the rest as initialised: speed does not depend on it."""
    import segmentation_models_pytorch as smp
    import torch

    from tuban.models.initialise import load_imagenet

    torch.manual_seed(0)
    model = smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, in_channels=3, classes=len(CLASSES)).eval()
    load_imagenet(model.encoder.model, ("B04", "B03", "B02"))
    # Five levels see several hundred pixels; how much of that matters is measured by the job `seams`.
    make_bundle(Path(folder), model, tile=1408, halo=HALO, stride=32, reach=640, bands=3)
    report()


def make_stub(folder: str) -> None:
    """Write a network that costs next to nothing: memory and time are then those of the engine."""
    import torch

    model = torch.nn.Conv2d(3, len(CLASSES), 1)
    make_bundle(Path(folder), model, tile=1024, halo=16, stride=16, reach=0, bands=3)
    report()


def make_scene(path: str, size: str) -> None:
    """Write a 3-band uint8 scene."""
    write(Path(path), int(size), 3, 8, 240, "uint8", 0)
    report()


def make_pair(folder: str, size: str) -> None:
    """Write two 10-band uint16 scenes."""
    Path(folder).mkdir(exist_ok=True)
    for seed, date in enumerate(("before", "after")):
        write(Path(folder) / f"{date}.tif", int(size), 10, 400, 4000, "uint16", seed)
    report()


def bare(bundle: str, **paths: Path) -> None:
    """Time only `session.run` over the pixels without overlap."""
    import onnxruntime

    from tuban.models.bundle import resolve

    model = resolve(bundle)
    files = Files(1 / 255 if len(paths) == 1 else 1e-4, **paths)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model.onnx_path), options, providers=["CPUExecutionProvider"])
    outputs = ["landcover_class", "landcover_confidence"] if len(paths) == 1 else None
    seconds = 0.0
    for row in range(0, files.height, BARE_TILE):
        for col in range(0, files.width, BARE_TILE):
            data = files.read(Window(col, row, BARE_TILE, BARE_TILE), model.bands)
            feeds = {name: getattr(data, name)[None] for name in paths}
            started = time.perf_counter()
            session.run(outputs, feeds)
            seconds += time.perf_counter() - started
    report(seconds=seconds)


def _whole(bundle: str, source: Any, out: str, **settings: Any) -> Any:
    from tuban.inference.change import predict_change
    from tuban.inference.landcover import predict_landcover
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import resolve

    model = resolve(bundle)
    run = predict_change if model.task == "change" else predict_landcover
    return model, run(source, model, out, settings=InferenceSettings(**settings))


def whole(bundle: str, source: Any, out: str) -> None:
    """Run everything once, as a user would."""
    model, made = _whole(bundle, source, out)
    plan = made.details["plan"]
    report(
        model=model.model_id,
        backend=made.backend,
        tile=plan["core_height"] + 2 * plan["halo"],
        halo=plan["halo"],
        fed=made.details["fed_px"] / (source.height * source.width),
        inside=made.seconds,
        trial=made.trial,
    )


def loop(bundle: str, scene: str, out: str) -> None:
    """Do what is usually wired together: rasterio windows of 512 with half overlap, torch, averaged, then written."""
    import torch

    model = torch.jit.load(str(Path(bundle) / "model.pt")).eval()
    tile, step = 512, 256
    with rasterio.open(scene) as dataset, torch.inference_mode():
        total = np.zeros((len(CLASSES), dataset.height, dataset.width), np.float32)
        count = np.zeros((dataset.height, dataset.width), np.float32)
        for row in range(0, dataset.height - step, step):
            for col in range(0, dataset.width - step, step):
                image = dataset.read(window=Window(col, row, tile, tile)).astype(np.float32) / 255
                place = np.s_[row : row + image.shape[1], col : col + image.shape[2]]
                total[:, *place] += model(torch.from_numpy(image)[None])[0].softmax(0).numpy()
                count[place] += 1
        classes = (total / count).argmax(0).astype(np.uint8)
        profile = dataset.profile | {"count": 1, "dtype": "uint8"}
    with rasterio.open(out, "w", **profile) as target:
        target.write(classes, 1)
    report()


def halos(bundle: str, scene: str) -> None:
    """Measure what smaller halos cost, and name the least that is good enough."""
    from tuban.inference.backends import open_backend
    from tuban.inference.products import LandcoverProduct
    from tuban.inference.seams import least_halo, measure_seams
    from tuban.models.bundle import resolve

    model = resolve(bundle)
    tried = [halo for halo in (32, 64, 96, 128, 192, 256) if halo < model.reach]
    found = measure_seams(
        Files(1 / 255, image=Path(scene)), model, open_backend("onnx", model), LandcoverProduct(model), tried
    )
    report(shares={seam.halo: seam.share for seam in found}, least=least_halo(found, reach=model.reach))


def geo(bundle: str, scene: str, out: str) -> None:
    """Run NRCan's geo-inference on the same weights."""
    from geo_inference.geo_inference import GeoInference

    Path(out).mkdir(exist_ok=True)
    run = GeoInference(model=str(Path(bundle) / "model.pt"), work_dir=out, device="cpu", num_classes=len(CLASSES))
    run(inference_input=scene, bands_requested=["1", "2", "3"], patch_size=1024, workers=2)
    report()


def begin(bundle: str, size: str, out: str) -> None:
    """Plan and begin a run of any size; stop when some parts are done, and report the memory."""

    class EnoughError(Exception):
        pass

    done = 0

    def progress(_done: int, _total: int) -> None:
        nonlocal done
        done += 1
        if done == 50:
            raise EnoughError

    from tuban.inference.landcover import predict_landcover
    from tuban.models.bundle import resolve

    try:
        predict_landcover(Nothing(int(size)), resolve(bundle), out, progress=progress)
    except EnoughError:
        report(parts=done)


def seams(bundle: str, source: Any, names: tuple[str, str]) -> None:
    """Compare the class rasters of two ways to cut, and the probabilities the network gives, far from any rounding."""
    import tempfile

    from tuban.inference.backends import open_backend
    from tuban.inference.products import ChangeProduct, LandcoverProduct
    from tuban.inference.reading import read_window
    from tuban.inference.windows import plan_windows
    from tuban.models.bundle import resolve

    model = resolve(bundle)
    product = ChangeProduct(model) if model.task == "change" else LandcoverProduct(model)
    tiles = [2 * model.halo + side for side in (256, 672)]
    backend, chances, classes = open_backend("onnx", model), [], []
    for tile in tiles:
        with tempfile.TemporaryDirectory() as folder:
            _, made = _whole(bundle, source, folder, tile=tile, backend="onnx")
            paths = getattr(made, "paths", None) or {name: getattr(made, name) for name in names}
            with rasterio.open(paths[names[0]]) as dataset:
                classes.append(dataset.read(1))
        plan = plan_windows(source.height, source.width, tile=tile, halo=model.halo, stride=model.stride)
        chance = np.zeros((source.height, source.width), np.float32)
        for window in plan:
            loaded = read_window(source, model, plan, window, inputs=product.inputs)
            feeds = {name: image[None] for name, image in loaded.images.items()}
            wanted = "change" if model.task == "change" else "landcover_confidence"
            core = np.s_[model.halo : model.halo + window.height, model.halo : model.halo + window.width]
            place = np.s_[window.row : window.row + window.height, window.col : window.col + window.width]
            chance[place] = backend.run(feeds, [wanted])[wanted][0][core]
        chances.append(chance)
    report(
        tiles=" and ".join(map(str, tiles)),
        exact=model.halo >= model.reach,
        differing=int((classes[0] != classes[1]).sum()),
        pixels=int(classes[0].size),
        probability=float(np.abs(chances[0] - chances[1]).max()),
    )


def resume(pair: str, out: str, kills: str) -> None:
    """Kill `whole-pair` at random moments and run it again, until done; compare the bytes."""
    folder, rng = Path(out), random.Random(0)  # noqa: S311 (moments, not secrets)

    def command(target: Path) -> list[str]:
        return [sys.executable, __file__, "small-pair", "s2-change", pair, str(target)]

    def digests(target: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(target.glob("*.tif"))}

    started = time.perf_counter()
    subprocess.run(command(folder / "whole"), check=True, capture_output=True)
    length, expected = time.perf_counter() - started, digests(folder / "whole")
    equal = made = lost = 0
    parts = 0
    for kill in range(int(kills)):
        target = folder / f"run{kill}"
        process = subprocess.Popen(command(target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.05, 1.0) * length)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = target / ".tuban-resume"
        before = len(list(left.glob("0*.tif"))) if left.exists() else 0
        finished = bool(digests(target)) and not left.exists()
        done = subprocess.run(command(target), check=True, capture_output=True, text=True)
        facts = json.loads(done.stdout.strip().splitlines()[-1])
        parts = facts["parts"]
        again = facts["made"]
        equal += digests(target) == expected
        made += again
        if not finished:
            # What was made again although it was on the disk: 0 when nothing is done twice.
            lost = max(lost, again - (parts - before))
    report(kills=int(kills), equal=equal, made=made, parts=parts, most_lost=lost)


def small_pair(bundle: str, pair: str, out: str) -> None:
    """Run a pair in small tiles, so that there are many parts to be killed between; report how many were made."""
    from tuban.inference import journal

    made = 0
    real = journal.Journal.add

    def add(self: Any, part: Any) -> None:
        nonlocal made
        made += 1
        real(self, part)

    journal.Journal.add = add  # type: ignore[method-assign]
    folder = Path(pair)
    files = Files(1e-4, before=folder / "before.tif", after=folder / "after.tif")
    _, result = _whole(bundle, files, out, tile=288, backend="onnx")
    report(made=made, parts=result.details["windows_run"] + result.details["windows_skipped"])


def main() -> None:
    """Run the job named first."""
    job, *rest = sys.argv[1:]
    os.environ.setdefault("TUBAN_LOG", "error")

    def pair(folder: str) -> dict[str, Path]:
        return {date: Path(folder) / f"{date}.tif" for date in ("before", "after")}

    match job:
        case "bare":
            bare(rest[0], image=Path(rest[1]))
        case "bare-pair":
            bare(rest[0], **pair(rest[1]))
        case "whole":
            whole(rest[0], Files(1 / 255, image=Path(rest[1])), rest[2])
        case "whole-pair":
            whole(rest[0], Files(1e-4, **pair(rest[1])), rest[2])
        case "whole-empty":
            whole(rest[0], Nothing(int(rest[1])), rest[2])
        case "begin-empty":
            begin(*rest)
        case "seams":
            seams(rest[0], Files(1 / 255, image=Path(rest[1])), ("landcover", "confidence"))
        case "seams-pair":
            seams(rest[0], Files(1e-4, **pair(rest[1])), ("change", "probability"))
        case _:
            globals()[job.replace("-", "_")](*rest)


if __name__ == "__main__":
    main()
