"""`tuban evaluate`: a bundle measured on labelled places by the same inference that users run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.data.oscd import city_folders
from tuban.errors import OutputError, PairError, SceneError, UsageError
from tuban.training.change_accuracy import CoverCounts, PlaceResult, change_summary, measure_place
from tuban.training.evaluation_report import lines, page
from tuban.training.landcover_accuracy import landcover_summary
from tuban.training.robustness import robustness

__all__ = ["evaluate", "lines"]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle
    from tuban.training.perturbation import Perturbation

    Progress = Callable[[str, int, int], None]


def evaluate(
    bundle: Bundle,
    root: Path,
    out: Path,
    *,
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
        root: folder of `<place>/{before,after,change}.tif`, and `<date>_dynamicworld.tif` for land cover.
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
        SceneError: no place under `root` has labels.
        UsageError: `places` names one that is not there, or an option needs a change bundle.
        PairError: every pair was refused.
        OutputError: the results cannot be written.
    """
    folders = _chosen(root, places)
    pictures: dict[str, bytes] = {}
    if bundle.task == "landcover":
        if precision is not None or perturbations or seeds:
            raise UsageError(f"{bundle.name} maps land cover; precision, robustness and seeds need a change bundle")
        result = landcover_summary(bundle, folders, settings, progress)
    else:
        labelled = [folder for folder in folders if (folder / "change.tif").is_file()]
        if not labelled:
            raise SceneError(f"{root}: no place has a change.tif; there is nothing to measure against")
        cover = CoverCounts(bundle) if len(bundle.classes) > 1 else None
        results, refused = _measured(bundle, labelled, settings, cover, progress)
        result = change_summary(bundle, results, precision=precision) | {"refused": refused}
        pictures = {name: place.picture for name, place in results.items()}
        if cover is not None:
            result["landcover"] = cover.as_dict()
        if seeds:
            others = [_f1(other, labelled, settings) for other in seeds]
            result["seeds"] = seed_spread({bundle.model_id: result["f1"], **dict(others)})
        if perturbations:
            kept = [folder for folder in labelled if folder.name in results]
            result["robustness"] = robustness(
                bundle, kept, perturbations=perturbations, settings=settings, progress=progress
            )
    trained = [str(place) for place in bundle.training.get("places", [])]  # type: ignore[union-attr]
    result["seen_in_training"] = sorted(set(result["places"]) & set(trained))
    files = {
        "evaluation.json": json.dumps(result, indent=2, ensure_ascii=False) + "\n",
        "evaluation.md": "\n".join(lines(result)) + "\n",
        "evaluation.html": page(result, pictures),
    }
    for name, text in files.items():
        _write(out / name, text)
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


def _chosen(root: Path, places: Sequence[str] | None) -> list[Path]:
    folders = list(city_folders(root))
    if places is None:
        return folders
    if missing := sorted(set(places) - {folder.name for folder in folders}):
        raise UsageError(f"{root} has no place {missing[0]}; it has {', '.join(folder.name for folder in folders)}")
    return [folder for folder in folders if folder.name in set(places)]


def _measured(
    bundle: Bundle,
    folders: Sequence[Path],
    settings: InferenceSettings | None,
    cover: CoverCounts | None,
    progress: Progress | None,
) -> tuple[dict[str, PlaceResult], dict[str, str]]:
    """Measure every place; a refused pair is named with its reason and left out."""
    results: dict[str, PlaceResult] = {}
    refused: dict[str, str] = {}
    for number, folder in enumerate(folders):
        try:
            results[folder.name] = measure_place(bundle, folder, settings, cover)
        except PairError as error:
            refused[folder.name] = str(error)
        if progress is not None:
            progress("evaluate", number + 1, len(folders))
    if not results:
        raise PairError(f"every pair was refused; the first: {next(iter(refused.values()))}")
    return results, refused


def _f1(bundle: Bundle, folders: Sequence[Path], settings: InferenceSettings | None) -> tuple[str, float]:
    results, _ = _measured(bundle, folders, settings, None, None)
    return bundle.model_id, float(change_summary(bundle, results)["f1"])


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; check that the folder can be written to") from error
