"""From a training run and its cross-validation to the bundle that is shipped."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tuban.errors import UsageError
from tuban.models.export import export_bundle, export_landcover, read_run

if TYPE_CHECKING:
    from tuban.models.bundle import Bundle

_METHOD = (
    "Cross-validation by place in {folds} folds ({places}); every place is measured by a network that saw neither it "
    "nor its neighbours, at a threshold and a calibration chosen on the other folds. The shipped weights were then "
    "trained with the same settings on all places. Intervals: 95 % bootstrap over places. The difference image is the "
    "root mean square of the standardised band differences of the same registered and normalised pair, with its "
    "background taken off and its threshold chosen in the same way."
)

_CALIBRATION = (
    "The score is taken relative to the pair's background (its 90 % quantile: less than a tenth of a pair changes); "
    "Platt scaling and threshold (best pooled F1) were fitted on the held-out predictions."
)


def release(run: Path, crossval: Path, out: Path, *, card: str) -> Bundle:
    """Export a run as a bundle whose threshold, calibration and metrics are those of a cross-validation.

    Args:
        run: folder that `tuban train` wrote, trained on every place.
        crossval: `crossval.json`, or the folder that holds it.
        out: the bundle's folder.
        card: name under `configs/release`, or the path of such a YAML file.

    Raises:
        UsageError: a file is missing or lacks a field.
        ModelError: the run is incomplete, or the exported graph differs from torch.
    """
    facts = _card(card)
    measured = _read_json(crossval / "crossval.json" if crossval.is_dir() else crossval)
    trained = _read_json(run / "train.json")
    task = facts.pop("task", "change")
    try:
        name, version = facts.pop("name"), str(facts.pop("version"))
        if task == "landcover":
            facts["metrics"] = measured["landcover_agreement"] | {"folds": len(measured["folds"])}
            facts["training"] |= {"places": trained["places"], "seed": trained["settings"]["seed"]}
            return export_landcover(run, out, name=name, version=version, facts=facts)
        facts["metrics"] = metrics(measured)
        facts["threshold"] = measured["threshold"]
        facts["calibration"] = {
            **measured["calibration"],
            "method": _CALIBRATION,
        }
        parameters = sum(parameter.numel() for parameter in read_run(run).parameters())
        facts["training"] |= {
            "places": trained["places"],
            "seconds": trained["seconds"],
            "seed": trained["settings"]["seed"],
            "steps": trained["settings"]["optim"]["steps"],
            "parameters_m": round(parameters / 1e6, 2),
        }
        return export_bundle(run, out, name=name, version=version, facts=facts)
    except KeyError as error:
        raise UsageError(f"{card}, {crossval} or {run} lacks {error}; make them again with this version") from error


def metrics(measured: dict[str, Any]) -> dict[str, Any]:
    """Return what a bundle declares of a `crossval.json`."""
    shared = ("f1", "f1_95", "precision", "recall", "average_precision", "auc")
    folds = "; ".join(", ".join(places) for places in measured["folds"].values())
    network, baseline = measured["network"], measured["difference_baseline"]
    return {
        "method": _METHOD.format(folds=len(measured["folds"]), places=folds),
        **{key: network[key] for key in (*shared, "ece", "places")},
        **{f"baseline_{key}": baseline[key] for key in shared},
        "object_recall": measured["objects"]["recall"],
        "object_precision": measured["objects"]["precision"],
        "recall_by_size_m2": measured["recall_by_size_m2"],
        "landcover_agreement": measured["landcover_agreement"]["overall"],
    }


def _card(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        source = files("tuban.configs").joinpath("release").joinpath(f"{name}.yaml")
        if not source.is_file():
            raise UsageError(f"no release card {name!r}; give a name under configs/release or the path of a YAML file")
        text = source.read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; run tuban train (and its cross-validation) first") from error
    return content
