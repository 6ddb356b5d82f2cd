"""Cross-validation by place: every place is predicted by a network that never saw it or its neighbours."""

from __future__ import annotations

import json
import shutil
import statistics
from typing import TYPE_CHECKING, Any

from tuban.data.place import IGNORE
from tuban.data.splits import folds as dealt
from tuban.errors import OutputError, UsageError
from tuban.models.ensemble import joined
from tuban.models.run import read_run
from tuban.training.crossval_report import report, write_json
from tuban.training.places import known_groups, load_by_name, load_split
from tuban.training.predictions import save_prediction
from tuban.training.settings import CrossvalSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tuban.data.place import Place
    from tuban.training.settings import DataSettings, TrainSettings

ENSEMBLE = "ensemble"
"""Folder beside those of the seeds, and key of what it measures."""


def crossvalidate(settings: TrainSettings) -> dict[str, Any]:
    """Train one network for each fold and seed under `settings.out` and return what the predictions measure.

    A fold lies in `out/<fold>`, with several seeds in `out/seed-<seed>/<fold>`. One that is complete is not trained
    again, and one that was interrupted goes on.

    Returns:
        `report` of the first seed. With several, also `seeds`, the measures of each, and `spread` over them. With
        several or with `crossval.smooth`, also `ensemble`: `report` of the seeds taken as members of one network.

    Raises:
        UsageError: a fold names an unknown place or leaves nothing to train on, or `data.holdout` is given.
        OutputError: a file cannot be written.
    """
    from tuban.training.train import train

    plan = settings.crossval or CrossvalSettings()
    if settings.data.holdout:
        raise UsageError(
            f"data.holdout={','.join(settings.data.holdout)}: a cross-validation holds out its folds and would "
            "train on these; leave data.holdout out and name the other places in data.places"
        )
    wanted = list(known_groups(settings.data) if settings.data.places is None else settings.data.places)
    beside = [*settings.data.validation, *(name for names in plan.neighbours.values() for name in names)]
    loaded = load_by_name(settings.data, [*wanted, *beside])
    own = {name: loaded[name] for name in wanted if name in loaded}
    folds = {fold: _data(settings, fold, places) for fold, places in folds_of(settings, own).items()}
    outs = {seed: settings.out / f"seed-{seed}" if len(plan.seeds) > 1 else settings.out for seed in plan.seeds}
    reports = {}
    for seed, out in outs.items():
        for fold, data in folds.items():
            one = settings.model_copy(update={"data": data, "out": out / fold, "seed": seed, "crossval": None})
            train(one, load_split(data, loaded))
        reports[seed] = report(out, folds)
    result = reports[plan.seeds[0]]
    if len(reports) > 1:
        result |= spread(reports)
    if len(reports) > 1 or plan.smooth:
        holdouts = {fold: load_split(data, loaded).holdout for fold, data in folds.items()}
        result[ENSEMBLE] = ensemble_report(outs, holdouts, settings.out / ENSEMBLE, plan.smooth)
        write_json(settings.out / "crossval.json", result)
    return result


def _data(settings: TrainSettings, fold: str, places: tuple[str, ...]) -> DataSettings:
    """Return the data of a fold: without its places, and without the neighbours that are left out beside them."""
    plan = settings.crossval or CrossvalSettings()
    kept_out = (*places, *plan.neighbours.get(fold, ()))
    named = settings.data.places
    # In the order given: a run that goes on must have the settings, and draw from the places, of its first part.
    trained_on = None if named is None else tuple(name for name in named if name not in kept_out)
    return settings.data.model_copy(update={"holdout": kept_out, "places": trained_on})


def ensemble_report(
    seeds: Mapping[int, Path], holdouts: Mapping[str, Sequence[Place]], out: Path, smooth: float
) -> dict[str, Any]:
    """Predict every fold's places by its networks of all seeds together, as `tuban models export` joins them.

    Args:
        seeds: folder of each seed, which holds one run for each fold.
        holdouts: places of each fold.
        out: folder of the predictions; an earlier one is replaced.
        smooth: standard deviation of the Gaussian over the mean logits of change, pixels.

    Returns:
        `report` of them, and what was joined: `members`, `seeds`, `smooth`.

    Raises:
        ModelError: a fold's run is incomplete, or the members do not fit together.
        OutputError: the folder cannot be written.
    """
    try:
        if out.is_dir():
            shutil.rmtree(out)
        for fold, places in holdouts.items():
            runs = [folder / fold for folder in seeds.values()]
            network = joined([read_run(run) for run in runs], smooth).eval()
            (out / fold).mkdir(parents=True)
            for place in places:
                save_prediction(network, place, out / fold)
            seconds = sum(json.loads((run / "train.json").read_text(encoding="utf-8"))["seconds"] for run in runs)
            record = {"holdout": [place.name for place in places], "seconds": round(seconds, 1)}
            write_json(out / fold / "train.json", record)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error}); free space or choose another out=") from error
    return report(out) | {"members": len(seeds), "seeds": list(seeds), "smooth": smooth}


def folds_of(settings: TrainSettings, loaded: Mapping[str, list[Place]]) -> dict[str, tuple[str, ...]]:
    """Return the places that each fold measures: as configured, or groups of the places that have labels.

    Raises:
        UsageError: a fold names an unknown place, or there are too few groups.
    """
    plan = (settings.crossval or CrossvalSettings()).folds
    if isinstance(plan, dict):
        if unknown := sorted({name for places in plan.values() for name in places} - set(loaded)):
            raise UsageError(
                f"crossval.folds: no place {', '.join(unknown)}; there are: {', '.join(sorted(loaded)[:20])}"
            )
        return plan
    labelled = {name for name, places in loaded.items() if any(_has_labels(place, settings.task) for place in places)}
    groups = {name: group for name, group in known_groups(settings.data).items() if name in labelled}
    if plan == "leave-one-out":
        if len(set(groups.values())) < 2:
            raise UsageError(f"{settings.data.root}: leaving one out needs at least two groups of labelled places")
        names = {group: tuple(n for n, own in groups.items() if own == group) for group in sorted(set(groups.values()))}
        return {min(places): places for places in names.values()}
    return {f"fold-{number + 1}": tuple(places) for number, places in enumerate(dealt(groups, plan))}


def _has_labels(place: Place, task: str) -> bool:
    return place.labelled if task == "change" else bool((place.landcover_before != IGNORE).any())


def spread(reports: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the measures of each seed, and mean, standard deviation (n - 1), least and largest over the seeds."""
    measured = {
        seed: {
            name: part[name]
            for part in (found.get("network", {}), found.get("landcover_agreement", {}))
            for name in ("f1", "precision", "recall", "average_precision", "auc", "ece", "overall")
            if name in part
        }
        for seed, found in reports.items()
    }
    table = {}
    for name in next(iter(measured.values())):
        values = [one[name] for one in measured.values()]
        table[name] = {
            "mean": round(statistics.mean(values), 4),
            "std": round(statistics.stdev(values), 4),
            "min": min(values),
            "max": max(values),
        }
    return {"seeds": {str(seed): values for seed, values in measured.items()}, "spread": table}
