"""What the held-out predictions of a cross-validation say: accuracy, threshold, calibration, against a baseline."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.data.place import IGNORE
from tuban.data.replacing import write_text
from tuban.errors import UsageError
from tuban.training.accuracy import BINS, Histogram, best_threshold, bootstrap, objects, pool
from tuban.training.calibration import fit_platt
from tuban.training.change_accuracy import object_summary
from tuban.training.matching import overlaps
from tuban.training.validation import BACKGROUND_QUANTILE, relative

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# Size classes of labelled objects, pixels of 100 m²: from, below.
SIZES = ((1, 4), (4, 10), (10, 20), (20, 50), (50, math.inf))


def report(folder: Path, planned: Collection[str] | None = None) -> dict[str, Any]:
    """Measure the held-out predictions under `folder` and write `crossval.json`.

    The threshold that a fold is measured at is the one that is best on the other folds, so no place helps to
    choose its own threshold; the calibration of a fold is likewise fitted on the others.

    Args:
        folder: one folder for each fold, as `tuban train` leaves it.
        planned: names of the folds; others there are of another cross-validation and do not count. All by default.

    Raises:
        UsageError: there are fewer than two complete folds, or a place has no prediction.
        OutputError: the record cannot be written.
    """
    records = _records(folder, planned)
    folds = stored_folds(folder, planned)
    result: dict[str, Any] = {"folds": {fold: list(places) for fold, places in folds.items()}}
    if _predict_change(folder, folds):
        result |= _change_report(folder, folds)
    result |= {
        "landcover_agreement": _landcover(folder, folds),
        "seconds": {p.parent.name: json.loads(p.read_text(encoding="utf-8"))["seconds"] for p in records},
    }
    write_json(folder / "crossval.json", result)
    return result


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record, under its name once it is complete.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def _records(folder: Path, planned: Collection[str] | None) -> list[Path]:
    return [path for path in sorted(folder.glob("*/train.json")) if planned is None or path.parent.name in planned]


def stored_folds(folder: Path, planned: Collection[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Return the places that each fold of a cross-validation in `folder` predicted and that have labels.

    Args:
        folder: as for `report`.
        planned: the same.

    Raises:
        UsageError: there are fewer than two complete folds, or a place has no prediction.
    """
    folds: dict[str, tuple[str, ...]] = {}
    for record in _records(folder, planned):
        held_out = json.loads(record.read_text(encoding="utf-8")).get("holdout")
        names = sorted(path.stem for path in record.parent.glob("*.npz")) if held_out is None else held_out
        for name in names:
            if not (record.parent / f"{name}.npz").is_file():
                raise UsageError(f"{record.parent / name}.npz is missing; run the cross-validation to its end first")
        if labelled := tuple(name for name in names if _labelled(record.parent / f"{name}.npz")):
            folds[record.parent.name] = labelled
    if len(folds) < 2:
        raise UsageError(f"{folder} holds {len(folds)} complete folds; run the cross-validation to its end first")
    return folds


def _labelled(path: Path) -> bool:
    with np.load(path) as stored:
        return bool(((stored["change"] if "change" in stored else stored["weak"]) != IGNORE).any())


def _predict_change(folder: Path, folds: Mapping[str, Sequence[str]]) -> bool:
    fold, places = next(iter(folds.items()))
    with np.load(folder / fold / f"{places[0]}.npz") as stored:
        return "logit" in stored


def _change_report(folder: Path, folds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    logits, labels, differences = _load(folder, folds)
    names = sorted(logits)
    fold_of = {place: fold for fold, places in folds.items() for place in places}
    calibrated, thresholds = _held_out(logits, labels, fold_of)
    network = {name: Histogram.of(calibrated[name], labels[name]) for name in names}
    # The baseline's score is mapped to 0–1 by a fixed monotone function, which leaves every threshold metric alone.
    baseline = {name: Histogram.of(_sigmoid(4 * differences[name]), labels[name]) for name in names}
    slope, intercept = fit_platt([logits[name] for name in names], [labels[name] for name in names])
    final = {name: Histogram.of(_sigmoid(slope * logits[name] + intercept), labels[name]) for name in names}
    fixed = best_threshold(pool(list(final.values())))
    called = {name: calibrated[name] >= thresholds[name] / BINS for name in names}
    return {
        "network": _measure(network, thresholds),
        "difference_baseline": _measure(baseline, _thresholds(baseline, fold_of)),
        "one_threshold": _at_one(final, fixed),
        "objects": _objects(called, labels),
        "object_matching": object_summary([overlaps(called[name], labels[name]) for name in names]),
        "recall_by_size_m2": _recall_by_size(called, labels),
        "calibration": {
            "slope": round(slope, 4),
            "intercept": round(intercept, 4),
            "background_quantile": BACKGROUND_QUANTILE,
        },
        "threshold": round(fixed / BINS, 4),
    }


def _sigmoid(x: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))), dtype=np.float32)


def _load(
    folder: Path, folds: Mapping[str, Sequence[str]]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.uint8]], dict[str, NDArray[Any]]]:
    logits, labels, differences = {}, {}, {}
    for fold, places in folds.items():
        for place in places:
            with np.load(folder / fold / f"{place}.npz") as stored:
                labels[place] = stored["change"]
                known = labels[place] != IGNORE
                logits[place] = relative(stored["logit"].astype(np.float32), known)
                differences[place] = relative(np.log1p(stored["difference"].astype(np.float32)), known)
    return logits, labels, differences


def _held_out(
    logits: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[np.uint8]], fold_of: Mapping[str, str]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, int]]:
    """Calibrate each fold by a fit on the others, and choose its threshold on the others under that same fit."""
    calibrated: dict[str, NDArray[np.float32]] = {}
    thresholds: dict[str, int] = {}
    for fold in dict.fromkeys(fold_of.values()):
        others = [name for name in logits if fold_of[name] != fold]
        slope, intercept = fit_platt([logits[name] for name in others], [labels[name] for name in others])
        chosen = best_threshold(
            pool([Histogram.of(_sigmoid(slope * logits[name] + intercept), labels[name]) for name in others])
        )
        for name in (name for name in logits if fold_of[name] == fold):
            calibrated[name] = _sigmoid(slope * logits[name] + intercept)
            thresholds[name] = chosen
    return calibrated, thresholds


def _thresholds(histograms: Mapping[str, Histogram], fold_of: Mapping[str, str]) -> dict[str, int]:
    """Return for each place the threshold that is best on the other folds."""
    by_fold = {
        fold: best_threshold(pool([h for name, h in histograms.items() if fold_of[name] != fold]))
        for fold in dict.fromkeys(fold_of.values())
    }
    return {name: by_fold[fold_of[name]] for name in histograms}


def _measure(histograms: Mapping[str, Histogram], thresholds: Mapping[str, int]) -> dict[str, Any]:
    names = list(histograms)
    # Thresholds differ between folds, so places are pooled as 2 x 2 counts.
    counts = np.array([_counts(histograms[name], thresholds[name]) for name in names], dtype=float)

    def f1(index: NDArray[np.int64]) -> float:
        tp, fp, fn = counts[index].sum(axis=0)
        return float(2 * tp / max(2 * tp + fp + fn, 1))

    tp, fp, fn = counts.sum(axis=0)
    everything = pool(list(histograms.values()))
    low, high = bootstrap(len(names), f1)
    return {
        "f1": round(f1(np.arange(len(names))), 4),
        "f1_95": [round(low, 4), round(high, 4)],
        "precision": round(tp / max(tp + fp, 1), 4),
        "recall": round(tp / max(tp + fn, 1), 4),
        "average_precision": round(everything.average_precision(), 4),
        "auc": round(everything.auc(), 4),
        "ece": round(everything.ece(), 4),
        "places": {
            name: {key: round(value, 4) for key, value in histograms[name].at(thresholds[name]).items()}
            | {"auc": round(histograms[name].auc(), 4), "threshold": round(thresholds[name] / BINS, 4)}
            for name in names
        },
    }


def _counts(histogram: Histogram, threshold: int) -> tuple[int, int, int]:
    tp, fp = int(histogram.changed[threshold:].sum()), int(histogram.unchanged[threshold:].sum())
    return tp, fp, int(histogram.changed.sum()) - tp


def _at_one(histograms: Mapping[str, Histogram], threshold: int) -> dict[str, Any]:
    """Return what the one threshold that is shipped gives; it was chosen on the very places it is measured on."""
    places = list(histograms.values())

    def f1(index: NDArray[np.int64]) -> float:
        return pool([places[i] for i in index]).at(threshold)["f1"]

    measured = {key: round(value, 4) for key, value in pool(places).at(threshold).items()}
    return measured | {"f1_95": [round(value, 4) for value in bootstrap(len(places), f1)]}


def _objects(called: Mapping[str, NDArray[np.bool_]], labels: Mapping[str, NDArray[np.uint8]]) -> dict[str, Any]:
    """Return the lenient counts of objects of 2,000 m² and more: a quarter of it lies on the other side."""
    total = dict.fromkeys(("truth", "found", "called", "right"), 0)
    for name, mask in called.items():
        for key, value in objects(mask, labels[name]).items():
            total[key] += value
    return total | {
        "min_area_m2": 2000,
        "recall": round(total["found"] / max(total["truth"], 1), 4),
        "precision": round(total["right"] / max(total["called"], 1), 4),
    }


def _recall_by_size(
    called: Mapping[str, NDArray[np.bool_]], labels: Mapping[str, NDArray[np.uint8]]
) -> dict[str, dict[str, float]]:
    """Return how many labelled objects of each size class were found, sizes in m² of 10 m pixels."""
    result = {}
    for low, high in SIZES:
        counted = [objects(mask, labels[name], min_pixels=low, below=high) for name, mask in called.items()]
        truth, found = (sum(count[key] for count in counted) for key in ("truth", "found"))
        name = f"{100 * low}-{100 * high:.0f}" if high < math.inf else f"{100 * low}+"
        result[name] = {"truth": truth, "found": found, "recall": round(found / max(truth, 1), 4)}
    return result


def _landcover(folder: Path, folds: Mapping[str, Sequence[str]], minimum: int = 153) -> dict[str, Any]:
    """Return agreement with weak labels of at least 60 % confidence: no accuracy, since those maps are not truth."""
    confusion = np.zeros((256, 256), dtype=np.int64)
    for path in (folder / fold / f"{name}.npz" for fold, names in folds.items() for name in names):
        with np.load(path) as stored:
            if "landcover" not in stored:
                continue
            known = (stored["weak"] != 255) & (stored["confidence"] >= minimum)
            np.add.at(confusion, (stored["weak"][known], stored["landcover"][known]), 1)
    present = [int(i) for i in np.flatnonzero(confusion.sum(axis=1))]
    f1 = {i: 2 * confusion[i, i] / max(confusion[i].sum() + confusion[:, i].sum(), 1) for i in present}
    agreement = float(np.trace(confusion) / max(confusion.sum(), 1))
    return {"overall": round(agreement, 4), "f1_by_class_index": {str(i): round(float(v), 4) for i, v in f1.items()}}
