"""`tuban evaluate`: a bundle measured on labelled places by the same inference that users run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

import tuban
from tuban.data.replacing import write_text
from tuban.errors import PairError, UsageError
from tuban.training.calibration import require_precision
from tuban.training.change_accuracy import CoverCounts, PlaceResult, change_summary, measure_place
from tuban.training.evaluation_report import lines, page
from tuban.training.labelled import against, labelled_items, require_bands, with_change
from tuban.training.landcover_accuracy import landcover_summary
from tuban.training.places import item_name
from tuban.training.robustness import robustness

__all__ = ["evaluate", "lines"]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle
    from tuban.training.labelled import LabelledItem
    from tuban.training.perturbation import Perturbation

    Progress = Callable[[str, int, int], None]


def evaluate(
    bundle: Bundle,
    root: Path,
    out: Path,
    *,
    dataset: str | None = None,
    settings: InferenceSettings | None = None,
    progress: Progress | None = None,
    places: Sequence[str] | None = None,
    precision: float | None = None,
    perturbations: Sequence[Perturbation] = (),
    seeds: Sequence[Bundle] = (),
) -> dict[str, Any]:
    """Measure a bundle, for change or for land cover, on every labelled place under `root`.

    Args:
        bundle: the model, at its own threshold.
        root: folder of a data set, public or of one's own.
        dataset: its id or YAML file; by default recognised, or described in `dataset.yaml`.
        out: folder for `evaluation.json`, `evaluation.md` and `evaluation.html`.
        settings: how inference runs.
        progress: called with stage, done and total.
        places: names of the places to measure on; None takes all.
        precision: choose thresholds for this precision too, each place's on the other places.
        perturbations: injected into the later images, one at a time; none leaves robustness out.
        seeds: bundles of the same training from other seeds, whose spread is reported.

    Returns:
        The content of `evaluation.json`. Places that the model was trained on are named in `seen_in_training`: their
        numbers are no accuracy. Places whose pair was refused are named in `refused`.

    Raises:
        SceneError: the folder is not recognised, or no place has labels.
        UsageError: `places` names one that is not there, `precision` is no share, an option needs a change bundle, or
            the bundle needs a band that the data set lacks.
        PairError: every pair was refused.
        OutputError: the results cannot be written.
    """
    if precision is not None:
        require_precision(precision)
    items = labelled_items(root, dataset, places)
    require_bands(bundle, items)
    pictures: dict[str, bytes] = {}
    if bundle.task == "landcover":
        if precision is not None or perturbations or seeds:
            raise UsageError(f"{bundle.name} maps land cover; precision, robustness and seeds need a change bundle")
        result = landcover_summary(bundle, items, settings, progress)
    else:
        labelled = with_change(items)
        cover = CoverCounts(bundle, against(labelled)) if len(bundle.classes) > 1 else None
        results, refused = _measured(bundle, labelled, settings, cover, progress)
        result = change_summary(bundle, results, precision=precision) | {"refused": refused}
        pictures = {name: place.picture for name, place in results.items()}
        if cover is not None:
            result["landcover"] = cover.as_dict()
        if seeds:
            others = [_f1(other, labelled, settings) for other in seeds]
            result["seeds"] = seed_spread({bundle.model_id: result["f1"], **dict(others)})
        if perturbations:
            kept = [item for item in labelled if item.name in results]
            result["robustness"] = robustness(
                bundle, kept, perturbations=perturbations, settings=settings, progress=progress
            )
    result["data"] = {"folder": str(root), "dataset": items[0].folder.dataset.id, "tuban": tuban.__version__}
    result["seen_in_training"] = sorted(set(result["places"]) & _trained_on(bundle))
    files = {
        "evaluation.json": json.dumps(result, indent=2, ensure_ascii=False) + "\n",
        "evaluation.md": "\n".join(lines(result)) + "\n",
        "evaluation.html": page(result, pictures),
    }
    for name, text in files.items():
        write_text(out / name, text)
    return result


def seed_spread(f1: dict[str, float]) -> dict[str, Any]:
    """Return F1 of the same training from several seeds: mean, standard deviation (n - 1), least and most."""
    values = np.array(list(f1.values()))
    return {
        "f1": f1,
        "mean": round(float(values.mean()), 4),
        "sd": round(float(values.std(ddof=1)), 4) if len(values) > 1 else None,
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _trained_on(bundle: Bundle) -> set[str]:
    """Return the items that a bundle was trained on; one of several members may list them by member."""
    listed: Any = bundle.training.get("places", [])
    return {item_name(str(name)) for part in listed for name in (part if isinstance(part, list) else [part])}


def _measured(
    bundle: Bundle,
    items: Sequence[LabelledItem],
    settings: InferenceSettings | None,
    cover: CoverCounts | None,
    progress: Progress | None,
) -> tuple[dict[str, PlaceResult], dict[str, str]]:
    """Measure every place; a refused pair is named with its reason and left out."""
    results: dict[str, PlaceResult] = {}
    refused: dict[str, str] = {}
    for number, item in enumerate(items):
        try:
            results[item.name] = measure_place(bundle, item, settings, cover)
        except PairError as error:
            refused[item.name] = str(error)
        if progress is not None:
            progress("evaluate", number + 1, len(items))
    if not results:
        raise PairError(f"every pair was refused; the first: {next(iter(refused.values()))}")
    return results, refused


def _f1(bundle: Bundle, items: Sequence[LabelledItem], settings: InferenceSettings | None) -> tuple[str, float]:
    results, _ = _measured(bundle, items, settings, None, None)
    return bundle.model_id, float(change_summary(bundle, results)["f1"])
