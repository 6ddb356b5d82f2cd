"""Cross-validation by place: every place is predicted by a network that never saw it or its neighbours."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from tuban.data.place import IGNORE
from tuban.data.splits import folds as dealt
from tuban.errors import UsageError
from tuban.training.crossval_report import fit_platt, relative, report
from tuban.training.places import known_groups, load_by_name, load_split
from tuban.training.settings import CrossvalSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuban.data.place import Place
    from tuban.training.settings import TrainSettings

__all__ = ["crossvalidate", "fit_platt", "relative", "report"]


def crossvalidate(settings: TrainSettings) -> dict[str, Any]:
    """Train one network for each fold and seed under `settings.out` and return what the predictions measure.

    A fold lies in `out/<fold>`, with several seeds in `out/seed-<seed>/<fold>`. One that is complete is not trained
    again, and one that was interrupted goes on.

    Returns:
        `report` of the first seed; with several, also `seeds`, the measures of each, and `spread` over them.

    Raises:
        UsageError: a fold names an unknown place, or leaves nothing to train on.
    """
    from tuban.training.train import train

    plan = settings.crossval or CrossvalSettings()
    loaded = load_by_name(settings.data, settings.data.places or known_groups(settings.data))
    folds = folds_of(settings, loaded)
    reports = {}
    for seed in plan.seeds:
        out = settings.out / f"seed-{seed}" if len(plan.seeds) > 1 else settings.out
        for fold, places in folds.items():
            kept_out = (*places, *plan.neighbours.get(fold, ()))
            trained_on = None if settings.data.places is None else tuple(set(settings.data.places) - set(kept_out))
            data = settings.data.model_copy(update={"holdout": kept_out, "places": trained_on})
            one = settings.model_copy(update={"data": data, "out": out / fold, "seed": seed, "crossval": None})
            train(one, load_split(data, loaded))
        reports[seed] = report(out)
    if len(reports) == 1:
        return reports[plan.seeds[0]]
    result = reports[plan.seeds[0]] | spread(reports)
    (settings.out / "crossval.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


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
