"""The places of a run: read from one data set or several, split by place, checked for leakage."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tuban.data.leakage import check_leakage
from tuban.data.places import load_places, place_names
from tuban.data.splits import place_groups
from tuban.errors import SceneError, UsageError
from tuban.training.cache import cached_places, identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tuban.data.place import Place
    from tuban.training.settings import DataSettings, SourceSettings

_log = logging.getLogger(__name__)

_BLOCK = re.compile(r"-r\d+-c\d+$")
"""What `load_places` adds to the name of a block of a large place."""


@dataclass(frozen=True, slots=True)
class Split:
    """What a run trains on, chooses by, and is measured on.

    Attributes:
        training: places to train on.
        weights: how often each of `training` is drawn, beside the root of its area.
        validation: places that choose weights.
        holdout: places that are predicted in the end.
        left_out: names that were not asked for by name and lie in the group of a place held out.
    """

    training: list[Place]
    weights: list[float]
    validation: list[Place] = field(default_factory=list)
    holdout: list[Place] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def item_name(place: str) -> str:
    """Return the name of the item of which a place is a block, or the place itself.

    Example:
        >>> item_name("D14-2046-r2048-c0")
        'D14-2046'
    """
    return _BLOCK.sub("", place)


def sources(settings: DataSettings) -> list[DataSettings | SourceSettings]:
    """Return the data sets of a run; each has `root`, `dataset` and `weight`."""
    return [settings, *settings.more]


def known_groups(settings: DataSettings) -> dict[str, str]:
    """Return the group of every place of all data sets, which may stand on one side of a split only.

    Raises:
        SceneError: a folder is not recognised, or holds no place.
        UsageError: two data sets have a place of one name.
    """
    groups: dict[str, str] = {}
    for source in sources(settings):
        found = place_groups(source.root, source.dataset)
        if not found:
            raise SceneError(f"{source.root}: no place here; `tuban data verify {source.root}` says what is expected")
        if twice := sorted(set(found) & set(groups)):
            raise UsageError(
                f"{source.root}: {', '.join(twice[:5])} is also a place of another data set; rename its folder"
            )
        # Names of groups are those of one data set; two sets may well both have a group "1".
        groups |= {name: f"{source.root}:{group}" for name, group in found.items()}
    return groups


def load_by_name(settings: DataSettings, names: Iterable[str]) -> dict[str, list[Place]]:
    """Read items of all data sets; a large one comes as several places.

    Raises:
        SceneError: a place cannot be read.
    """
    wanted = set(names)
    loaded: dict[str, list[Place]] = {}
    for source in sources(settings):
        here = [name for name in place_names(source.root, source.dataset) if name in wanted]
        for place in _read(source, settings, here):
            name = place.name if place.name in wanted else item_name(place.name)
            loaded.setdefault(name, []).append(place)
    return loaded


def load_split(settings: DataSettings, loaded: Mapping[str, list[Place]] | None = None) -> Split:
    """Read the places of a run, or take them from those that are `loaded`.

    Raises:
        UsageError: a named place is unknown, nothing is left to train on, or two sides of the split share ground, a
            group or an image.
        SceneError: a place cannot be read.
    """
    groups = known_groups(settings)
    kept_out = {*settings.validation, *settings.holdout}
    unknown = sorted(({*(settings.places or ())} | kept_out) - set(groups))
    if unknown:
        there = ", ".join(sorted(groups)[:20]) + (f" and {len(groups) - 20} more" if len(groups) > 20 else "")
        raise UsageError(f"{settings.root}: no place {', '.join(unknown)}; there are: {there}")
    if both := sorted({*settings.validation} & {*settings.holdout}):
        raise UsageError(f"{', '.join(both)} is in data.validation and in data.holdout; put it in one")
    near = {groups[name] for name in kept_out}
    wanted = [name for name in (groups if settings.places is None else settings.places) if name not in kept_out]
    left_out = [] if settings.places is not None else [name for name in wanted if groups[name] in near]
    names = [name for name in wanted if name not in set(left_out)]
    if left_out:
        _log.info("not trained on, since they belong to places kept out: %s", ", ".join(left_out))
    if not names:
        raise UsageError("every place is held out; leave at least one to train on")
    if loaded is None:
        loaded = load_by_name(settings, [*names, *kept_out])
    training = [place for name in names for place in loaded[name]]
    validation, holdout = (
        [place for name in side for place in loaded[name]] for side in (settings.validation, settings.holdout)
    )
    split = Split(training, _weights(settings, names, loaded), validation, holdout, left_out)
    check_leakage(split.training, [*split.validation, *split.holdout])
    check_leakage(split.validation, split.holdout)
    return split


def _weights(settings: DataSettings, names: list[str], loaded: Mapping[str, list[Place]]) -> list[float]:
    """Return how often each training place is drawn: the data sets by their weights, the places of one alike."""
    weight_of: dict[str, float] = {}
    for source in sources(settings):
        here = set(place_names(source.root, source.dataset)) & set(names)
        count = sum(len(loaded[name]) for name in here)
        weight_of |= dict.fromkeys(here, source.weight / max(count, 1))
    weights = [weight_of[name] for name in names for _ in loaded[name]]
    # Of one data set, every place weighs 1, as if there were no weights.
    return [round(weight * len(weights) / sum(weights), 9) for weight in weights]


def _read(source: DataSettings | SourceSettings, settings: DataSettings, names: list[str]) -> Iterator[Place]:
    """Yield the items of a data set, from the cache where there is one."""

    def read(some: list[str]) -> Iterator[Place]:
        return load_places(
            source.root, dataset=source.dataset, bands=settings.bands, classes=settings.classes, names=some
        )

    if not names:
        return
    if settings.cache is None:
        yield from read(names)
        return
    key = identity(source.root, source.dataset, settings.bands, settings.classes, apart=settings.cache)
    yield from cached_places(settings.cache / key, names, read)
