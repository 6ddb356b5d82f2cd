"""From a training run and what was measured of it to the bundle that is shipped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from tuban.configs.shipped import named_text
from tuban.errors import UsageError
from tuban.models.export import export_bundle
from tuban.models.run import read_run
from tuban.training.crossval import ENSEMBLE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tuban.models.bundle import Bundle

_METHOD = (
    "Cross-validation by place in {folds} folds ({places}); every place is measured by {networks} that saw neither it "
    "nor its neighbours, at a threshold and a calibration chosen on the other folds. The shipped weights were then "
    "trained with the same settings on all places. Intervals: 95 % bootstrap over places. The difference image is the "
    "root mean square of the standardised band differences of the same registered and normalised pair, with its "
    "background taken off and its threshold chosen in the same way."
)
_RELATIVE = (
    "The score is taken relative to the pair's background (its {quantile:.0%} quantile: less than that share of the "
    "rest of a pair changes); "
)
_MEMBERS = "the mean of {members} networks (seeds {seeds}){smoothed}"
_FITTED = "Platt scaling and threshold (best pooled F1) were fitted on the held-out predictions."
_UNMEASURED = "Nothing was held out: probability and threshold are the network's own, not calibrated."
# Objects are counted in pixels of 10 m; of finer imagery their sizes would be wrong.
_OBJECT_GSD_M = 10.0


def release(runs: Sequence[Path], measured: Path | None, out: Path, *, card: str) -> Bundle:
    """Export a run, or several as members of one network, as a bundle.

    Args:
        runs: folders that `tuban train` wrote, trained on every place.
        measured: where threshold, calibration and metrics come from: a `crossval.json` of the same settings or the
            folder that holds it, or any JSON object with `threshold`, `calibration` (`slope`, `intercept`, perhaps
            `background_quantile` and `method`) and what else was measured; None: what the run found on its own
            validation places, if it had any.
        out: the bundle's folder.
        card: name under `configs/release`, or the path of such a YAML file.

    Raises:
        UsageError: a file is missing or lacks a field, or something else was measured than is exported.
        ModelError: a run is incomplete, runs do not fit together, or the exported graph differs from torch.
    """
    facts = _card(card)
    trained = [_read_json(run / "train.json") for run in runs]
    if measured is not None:
        found = _read_json(measured / "crossval.json" if measured.is_dir() else measured)
    else:
        found = trained[0].get("chosen", {}) if len(trained) == 1 and facts.get("task") != "landcover" else {}
    smooth = None if facts.get("task") == "landcover" else float(facts.get("smooth", 0.0))
    found = _of_these(found, len(runs), smooth, measured)
    try:
        name, version = facts.pop("name"), str(facts.pop("version"))
        facts["training"] |= _trained(trained) | {"parameters_m": _parameters_m(runs, facts.get("task"))}
        facts |= _landcover(found) if facts.get("task") == "landcover" else _change(found, facts["gsd_m"])
        return export_bundle(runs, out, name=name, version=version, facts=facts)
    except KeyError as error:
        there = ", ".join(map(str, runs))
        raise UsageError(f"{card}, {measured} or {there} lacks {error}; make them again with this version") from error


def _of_these(found: dict[str, Any], members: int, smooth: float | None, source: Path | None) -> dict[str, Any]:
    """Return what a cross-validation measured of a network of so many members, smoothed by so many pixels (or any).

    Raises:
        UsageError: it measured another.
    """
    if "folds" not in found or (members == 1 and not smooth):
        return found
    ensemble: dict[str, Any] = found.get(ENSEMBLE, {"members": 1, "smooth": 0.0})
    was = ensemble["smooth"]
    if ensemble["members"] != members or smooth not in {None, was}:
        raise UsageError(
            f"{source} measured {ensemble['members']} members smoothed by {was:g} px, and the export has {members} "
            f"smoothed by {smooth or 0.0:g} px; cross-validate with as many crossval.seeds and the card's smooth"
        )
    return ensemble | {key: found[key] for key in ("spread",) if key in found}


def _trained(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a bundle declares of `train.json`, as far as it is told there; of members what they share once."""
    settings = [record.get("settings", record.get("args", {})) for record in records]
    told = {
        "places": [record.get("places") for record in records],
        "seconds": [record.get("seconds") for record in records],
        "machine": [record.get("machine") for record in records],
        "seed": [one.get("seed") for one in settings],
        "steps": [
            record.get("steps", one.get("optim", one).get("steps"))
            for record, one in zip(records, settings, strict=True)
        ],
    }
    return {
        key: values[0] if all(value == values[0] for value in values) else values
        for key, values in told.items()
        if None not in values
    }


def _parameters_m(runs: Sequence[Path], task: Any) -> float:
    networks = (read_run(run, task) for run in runs)
    return round(sum(parameter.numel() for network in networks for parameter in network.parameters()) / 1e6, 2)


def _landcover(found: dict[str, Any]) -> dict[str, Any]:
    if "landcover_agreement" in found:
        return {"metrics": found["landcover_agreement"] | {"folds": len(found["folds"])}}
    return {"metrics": found}


def _change(found: dict[str, Any], gsd_m: list[float]) -> dict[str, Any]:
    calibration = dict(found.get("calibration") or {"slope": 1.0, "intercept": 0.0})
    quantile = calibration.get("background_quantile")
    fitted = (_RELATIVE.format(quantile=quantile) if quantile else "") + _FITTED
    calibration.setdefault("method", fitted if "calibration" in found else _UNMEASURED)
    return {
        "threshold": found.get("threshold", 0.5),
        "calibration": calibration,
        "metrics": metrics(found, objects=gsd_m[1] >= _OBJECT_GSD_M)
        if "network" in found
        else {key: value for key, value in found.items() if key not in {"threshold", "calibration"}},
    }


def metrics(measured: dict[str, Any], *, objects: bool = True) -> dict[str, Any]:
    """Return what a bundle declares of a `crossval.json`; `objects`: with those counted at 10 m."""
    shared = ("f1", "f1_95", "precision", "recall", "average_precision", "auc")
    folds = "; ".join(", ".join(places) for places in measured["folds"].values())
    network, baseline = measured["network"], measured["difference_baseline"]
    counted = {
        "object_recall": measured["objects"]["recall"],
        "object_precision": measured["objects"]["precision"],
        "recall_by_size_m2": measured["recall_by_size_m2"],
    }
    if matching := measured.get("object_matching"):
        told = ("recall", "recall_95", "precision", "precision_95")
        counted["object_matching"] = {key: matching[key] for key in told}
    return {
        "method": _METHOD.format(folds=len(measured["folds"]), places=folds, networks=_networks(measured)),
        **{key: network[key] for key in (*shared, "ece", "places")},
        **{key: measured[key] for key in ("one_threshold",) if key in measured},
        **{f"baseline_{key}": baseline[key] for key in shared},
        **(counted if objects else {}),
        "landcover_agreement": measured["landcover_agreement"]["overall"],
        **({"seeds": measured["spread"]} if "spread" in measured else {}),
    }


def _networks(measured: dict[str, Any]) -> str:
    if "members" not in measured:
        return "a network"
    smoothed = f", its change logits smoothed by {measured['smooth']:g} px," if measured["smooth"] else ""
    seeds = ", ".join(map(str, measured["seeds"]))
    return _MEMBERS.format(members=measured["members"], seeds=seeds, smoothed=smoothed)


def _card(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(named_text("release", name, "release card"))
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; run tuban train (and its cross-validation) first") from error
    except ValueError as error:
        raise UsageError(f"{path} is no JSON ({error}); give the file that the cross-validation wrote") from error
    return content
