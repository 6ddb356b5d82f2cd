"""Smaller forms of a bundle, measured against it on real imagery, and refused where they say something else."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.windows import Window

from tuban.data.pair import open_pair
from tuban.data.scene import Scene
from tuban.errors import ModelError, UsageError
from tuban.inference.change import predict_change
from tuban.inference.landcover import SceneReader, predict_landcover
from tuban.inference.settings import InferenceSettings
from tuban.inference.units import BYTE, rescale
from tuban.models.bundle import ONNX_NAME, Bundle, BundleSpec
from tuban.models.card import CARD_NAME, model_card
from tuban.models.export import bundle_folder
from tuban.models.mlm import write_mlm
from tuban.models.variant import METHODS, halved, quantised

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tuban.models.variant import Feeds, Kind

MOST_CLASS_DISAGREEMENT = 0.02
"""Share of the pixels whose land cover may be another than the float32 bundle's."""
LEAST_CHANGE_F1 = 0.95
"""F1 that the changed pixels must reach against those of the float32 bundle."""
_SIDE = 256
_WINDOWS = 8


def make_variant(bundle: Bundle, out: Path, *, kind: Kind, imagery: Path) -> Bundle:
    """Write a smaller form of a bundle and what it costs in accuracy.

    Args:
        bundle: in float32.
        out: folder of the variant, which is called `<name>-<kind>` and holds the graph only.
        kind: `int8` or `bf16`.
        imagery: of change, a folder with `before.tif` and `after.tif` or of such folders; of land cover, an image or a
            folder of images. Several are split in two: one half calibrates, the other is measured on.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: the variant differs too much, or cannot be made.
        OutputError: the folder cannot be written.
        UsageError: there is no such imagery.
    """
    if "variant" in bundle.training:
        raise UsageError(f"{bundle.name} is a variant already; make it from the float32 bundle")
    found = _found(imagery, bundle)
    half = len(found) // 2
    measured_on = found[half:] if half else found
    with bundle_folder(out) as scratch:
        if kind == "int8":
            samples = [feed for place in found[: max(half, 1)] for feed in _samples(place, bundle)][:_WINDOWS]
            quantised(bundle.onnx_path, scratch / ONNX_NAME, samples)
        else:
            halved(bundle.onnx_path, scratch / ONNX_NAME)
        name = f"{bundle.name}-{kind}"
        spec = {field: getattr(bundle, field) for field in BundleSpec.model_fields} | {"name": name}
        trial = _written(BundleSpec(**spec), scratch, bundle)
        measured = compared(bundle, trial, measured_on)
        if reason := too_far(measured):
            raise ModelError(f"{name} is not written: {reason}; ship {bundle.name} in float32")
        measured["megabytes"] = round(trial.onnx_path.stat().st_size / 1e6, 2)
        method = METHODS[kind] + ("" if half else "; measured on the imagery it was calibrated with")
        spec["training"] = bundle.training | {
            "variant": {"kind": kind, "of": bundle.model_id, "method": method, "measured": measured}
        }
        made = _written(BundleSpec(**spec), scratch, bundle)
        (scratch / CARD_NAME).write_text(model_card(made), encoding="utf-8")
    return Bundle.load(out)


def too_far(measured: dict[str, Any]) -> str:
    """Return what keeps a variant from being shipped, or ''."""
    if (share := measured.get("class_disagreement", 0.0)) > MOST_CLASS_DISAGREEMENT:
        return f"{share:.1%} of the pixels get another class, more than {MOST_CLASS_DISAGREEMENT:.0%}"
    if (f1 := measured.get("change_f1", 1.0)) < LEAST_CHANGE_F1:
        return f"its changed pixels reach F1 {f1:.3f} against those of float32, less than {LEAST_CHANGE_F1}"
    return ""


def compared(bundle: Bundle, variant: Bundle, places: Sequence[Path]) -> dict[str, Any]:
    """Run both bundles over places as users would, and count where they differ.

    Returns:
        `class_disagreement` (share of pixels) where there is land cover, `change_f1` and
        `probability_mean_difference` where there is change, `seconds` of both, and the number of `places`.
    """
    tally = dict.fromkeys(("classes", "differ", "both", "one", "probability", "pixels"), 0.0)
    seconds = [0.0, 0.0]
    for place in places:
        with tempfile.TemporaryDirectory() as folder:
            made = []
            for number, one in enumerate((bundle, variant)):
                paths, took = _run(one, place, Path(folder) / str(number))
                seconds[number] += took
                made.append({name: _raster(path) for name, path in paths.items()})
        _count(made[0], made[1], tally)
    result: dict[str, Any] = {}
    if tally["classes"]:
        result["class_disagreement"] = round(tally["differ"] / tally["classes"], 5)
    if tally["pixels"]:
        result["change_f1"] = round(2 * tally["both"] / max(tally["one"], 1.0), 4) if tally["one"] else 1.0
        result["probability_mean_difference"] = round(tally["probability"] / tally["pixels"], 5)
    return result | {"seconds": [round(value, 2) for value in seconds], "places": len(places)}


def _count(first: dict[str, NDArray[Any]], second: dict[str, NDArray[Any]], tally: dict[str, float]) -> None:
    for name, a in first.items():
        b = second[name]
        if name.startswith("landcover"):
            tally["classes"] += float((a > 0).sum())
            tally["differ"] += float(((a != b) & (a > 0)).sum())
        elif name == "change":
            tally["both"] += float(((a == 1) & (b == 1)).sum())
            tally["one"] += float((a == 1).sum() + (b == 1).sum())
        elif name == "probability":
            valid = (a != 255) & (b != 255)
            tally["probability"] += float(np.abs(a[valid].astype(float) - b[valid]).sum()) / 254
            tally["pixels"] += float(valid.sum())


def _run(bundle: Bundle, place: Path, out: Path) -> tuple[dict[str, Path], float]:
    settings = InferenceSettings(backend="onnx")
    with _opened(place, bundle) as source:
        if bundle.task == "landcover":
            made = predict_landcover(source, bundle, out, settings=settings)
            return {"landcover": made.paths["landcover"]}, made.seconds
        rasters = predict_change(source, bundle, out, settings=settings)
    names = ("change", "probability", "landcover_before", "landcover_after")
    paths = {name: path for name in names if (path := getattr(rasters, name)) is not None}
    return paths, rasters.seconds


@contextmanager
def _opened(place: Path, bundle: Bundle) -> Iterator[Any]:
    """Yield what inference reads of a place."""
    with ExitStack() as stack:
        if bundle.task == "landcover":
            yield SceneReader(stack.enter_context(Scene.open(place)))
            return
        pair = stack.enter_context(open_pair(place / "before.tif", place / "after.tif"))
        yield pair if pair.before.radiometry == "reflectance" else rescale(pair, bundle)


def _samples(place: Path, bundle: Bundle) -> Iterator[Feeds]:
    """Yield windows spread over a place as the graph is fed them."""
    side = -(-_SIDE // bundle.stride) * bundle.stride
    names = ("image",) if bundle.task == "landcover" else ("before", "after")
    with _opened(place, bundle) as source:
        byte = bundle.task == "landcover" and bundle.units == "byte" and source.scene.radiometry == "dn"
        size = [min(side, length // bundle.stride * bundle.stride) for length in (source.height, source.width)]
        for share in (0.5, 0.1, 0.9, 0.3):
            row, col = (int(share * (n - s)) for n, s in zip((source.height, source.width), size, strict=True))
            read = source.read(Window(col, row, size[1], size[0]), bundle.bands)
            if not read.valid.any():
                continue
            feeds = {}
            for name in names:
                values = np.array(getattr(read, name), np.float32) * np.float32(BYTE if byte else 1.0)
                values[:, ~read.valid] = np.nan
                feeds[name] = values[None]
            yield feeds


def _found(imagery: Path, bundle: Bundle) -> list[Path]:
    if bundle.task == "landcover":
        images = [imagery] if imagery.is_file() else sorted(imagery.glob("*.tif"))
        if not images:
            raise UsageError(f"{imagery}: no image; give one or a folder of .tif files")
        return images
    places = [folder for folder in (imagery, *sorted(imagery.glob("*/"))) if (folder / "after.tif").is_file()]
    if not places:
        raise UsageError(f"{imagery}: no place; give a folder with before.tif and after.tif, or a folder of such")
    return places


def _raster(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as source:
        values: NDArray[Any] = source.read(1)
    return values


def _written(spec: BundleSpec, folder: Path, of: Bundle) -> Bundle:
    import onnxruntime

    return write_mlm(
        spec,
        folder,
        architecture=f"{of.name}, {spec.name.rsplit('-', 1)[-1]}",
        created=datetime.now(tz=UTC).replace(microsecond=0),
        framework_version=f"onnxruntime {onnxruntime.__version__}",
    )
