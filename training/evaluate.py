"""`tuban evaluate`: a bundle measured on labelled places by the same inference that users run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.windows import Window

from tuban.data.oscd import city_folders
from tuban.data.pair import open_pair
from tuban.data.place import IGNORE
from tuban.errors import SceneError
from tuban.inference.change import predict_change
from tuban.inference.units import rescale
from tuban.training.accuracy import BINS, Histogram, bootstrap, objects, pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle


def evaluate(
    bundle: Bundle,
    root: Path,
    out: Path,
    *,
    settings: InferenceSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure change detection on every labelled place under `root`.

    Args:
        bundle: the model, at its own threshold.
        root: folder of `<place>/{before,after,change}.tif`.
        out: folder for `evaluation.json` and `evaluation.md`.
        settings: how inference runs.
        progress: called with stage, done and total places.

    Returns:
        The content of `evaluation.json`. Places that the model was trained on are named in `seen_in_training`: their
        numbers are no accuracy.

    Raises:
        SceneError: no place under `root` has labels.
    """
    folders = [folder for folder in city_folders(root) if (folder / "change.tif").is_file()]
    if not folders:
        raise SceneError(f"{root}: no place has a change.tif; there is nothing to measure against")
    threshold = int(np.ceil(bundle.threshold * BINS))
    histograms: dict[str, Histogram] = {}
    counted = dict.fromkeys(("truth", "found", "called", "right"), 0)
    for number, folder in enumerate(folders):
        probability, label = _predict(bundle, folder, settings)
        histograms[folder.name] = Histogram.of(probability, label)
        for key, value in objects(probability >= bundle.threshold, label).items():
            counted[key] += value
        if progress is not None:
            progress("evaluate", number + 1, len(folders))
    places = [str(place) for place in bundle.training.get("places", [])]  # type: ignore[union-attr]
    result = _summary(bundle, histograms, threshold, counted) | {
        "seen_in_training": sorted(set(histograms) & set(places)),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (out / "evaluation.md").write_text("\n".join(lines(result)) + "\n", encoding="utf-8")
    return result


def _predict(
    bundle: Bundle, folder: Path, settings: InferenceSettings | None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return probability float32 `(h, w)`, NaN where unseen, and the label on the same grid."""
    with open_pair(folder / "before.tif", folder / "after.tif") as pair, tempfile.TemporaryDirectory() as scratch:
        reader = pair if pair.before.radiometry == "reflectance" else rescale(pair, bundle)
        rasters = predict_change(reader, bundle, Path(scratch), settings=settings)
        with rasterio.open(rasters.probability) as source:
            coded = source.read(1)
        inverse = ~pair.before.transform
        column = round(inverse.a * pair.transform.c + inverse.b * pair.transform.f + inverse.c)
        row = round(inverse.d * pair.transform.c + inverse.e * pair.transform.f + inverse.f)
        with rasterio.open(folder / "change.tif") as source:
            label = source.read(1, window=Window(column, row, pair.width, pair.height))
    probability = np.where(coded == 255, np.nan, coded / np.float32(254)).astype(np.float32)
    return probability, np.where(np.isnan(probability), IGNORE, label).astype(np.uint8)


def _summary(
    bundle: Bundle, histograms: dict[str, Histogram], threshold: int, counted: dict[str, int]
) -> dict[str, Any]:
    names = list(histograms)

    def f1(index: NDArray[np.int64]) -> float:
        return pool([histograms[names[i]] for i in index]).at(threshold)["f1"]

    everything = pool(list(histograms.values()))
    low, high = bootstrap(len(names), f1, draws=500)
    return {
        "model": bundle.model_id,
        "threshold": bundle.threshold,
        **{key: round(value, 4) for key, value in everything.at(threshold).items()},
        "f1_95": [round(low, 4), round(high, 4)],
        "average_precision": round(everything.average_precision(), 4),
        "auc": round(everything.auc(), 4),
        "ece": round(everything.ece(), 4),
        "objects": counted
        | {
            "recall": round(counted["found"] / max(counted["truth"], 1), 4),
            "precision": round(counted["right"] / max(counted["called"], 1), 4),
        },
        "places": {
            name: {key: round(value, 4) for key, value in histogram.at(threshold).items()}
            for name, histogram in histograms.items()
        },
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Return the measurement as Markdown, one line an element."""
    seen, found = result["seen_in_training"], result["objects"]
    low, high = result["f1_95"]
    warning = f"**Trained on {', '.join(seen)}: these numbers are no accuracy of places never seen.**" if seen else ""
    table = [f"| {n} | {p['f1']} | {p['precision']} | {p['recall']} |" for n, p in result["places"].items()]
    summary = (
        f"F1 {result['f1']} (95 % over places {low}–{high}), precision {result['precision']}, "
        f"recall {result['recall']}, AUC {result['auc']}, ECE {result['ece']}, at threshold {result['threshold']}."
    )
    large = f"Objects of 2,000 m² and more: recall {found['recall']}, precision {found['precision']}."
    head = ["| place | F1 | precision | recall |", "|---|---|---|---|"]
    return [f"# {result['model']}", warning, summary, large, "", *head, *table]
