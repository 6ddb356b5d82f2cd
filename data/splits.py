"""Splits by place: the authors' own, or whole groups drawn at random; a crop's place never stands on two sides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tuban.data.dataset import open_folder
from tuban.data.grid import Grid
from tuban.data.leakage import overlaps
from tuban.data.pictures import open_file
from tuban.errors import SceneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tuban.data.dataset import DatasetFolder
    from tuban.data.layout import Item, Split

PARTS = ("train", "validation", "test")


def authors_split(root: Path | DatasetFolder, dataset: str | None = None) -> dict[str, list[str]]:
    """Return the names of the places in each part of the authors' split, `train`, `validation` and `test`.

    A part may be empty. Some published splits part tiles of one image; `check_leakage` tells.

    Raises:
        UsageError: the data set has no split, or puts a place in two parts.
        SceneError: the folder is not recognised, or a list of the split is missing.
    """
    folder = open_folder(root, dataset) if isinstance(root, Path) else root
    split = folder.layout.split
    if split is None:
        raise UsageError(
            f"{folder.path}: {folder.dataset.id} ({folder.layout.id}) has no split of its authors; split it by group"
        )
    items = folder.items()
    wanted = {part: set(_listed(folder, split, part)) for part in PARTS}
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for item in items:
        found = [part for part in PARTS if _key(item, split) in wanted[part]]
        if len(found) > 1:
            raise UsageError(f"{folder.path}: {item.name} stands in {' and '.join(found)}; correct the split")
        part = found[0] if found else split.rest
        if part is not None:
            parts[part].append(item.name)
    return parts


def place_groups(root: Path, dataset: str | None = None) -> dict[str, str]:
    """Return the group of every place of a data set; places of one group belong on one side of any split.

    Raises:
        SceneError: the folder is not recognised.
    """
    folder = open_folder(root, dataset)
    return {item.name: folder.layout.group_of(item.name) for item in folder.items()}


def folds(groups: Mapping[str, str], count: int, seed: int = 0) -> list[list[str]]:
    """Deal places into folds of like size, whole groups at a time.

    Args:
        groups: place to group, as `place_groups` gives it.
        count: number of folds.
        seed: of the order in which groups of equal size are dealt.

    Returns:
        Sorted names per fold; together they are all places.

    Raises:
        UsageError: there are fewer groups than folds.

    Example:
        >>> [len(fold) for fold in folds({"a1": "a", "a2": "a", "b": "b", "c": "c"}, 2)]
        [2, 2]
    """
    members: dict[str, list[str]] = {}
    for name in sorted(groups):
        members.setdefault(groups[name], []).append(name)
    if count < 2 or len(members) < count:
        raise UsageError(f"{len(members)} groups of places cannot fill {count} folds; use 2 to {len(members)}")
    order = np.random.default_rng(seed).permutation(sorted(members))
    dealt: list[list[str]] = [[] for _ in range(count)]
    for group in sorted(order, key=lambda group: -len(members[group])):
        min(dealt, key=len).extend(members[group])
    return [sorted(fold) for fold in dealt]


def holdout(groups: Mapping[str, str], share: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Part places in two, whole groups at a time.

    Args:
        groups: place to group.
        share: of the places that is held out, about; at least one group on either side.
        seed: of the draw.

    Returns:
        Sorted names to train on, and held out.

    Raises:
        UsageError: there is but one group, or the share is not between 0 and 1.
    """
    own = sorted(set(groups.values()))
    if not 0 < share < 1 or len(own) < 2:
        raise UsageError(
            f"a share of {share:g} of {len(own)} groups; use a share inside 0 to 1, and at least two groups"
        )
    order = list(np.random.default_rng(seed).permutation(own))
    out: list[str] = []
    for group in order[:-1]:
        members = [name for name, own in groups.items() if own == group]
        if out and len(out) + len(members) / 2 > share * len(groups):
            continue
        out += members
    return sorted(set(groups) - set(out)), sorted(out)


def choose_split(folder: DatasetFolder, *, share: float = 0.2, seed: int = 0) -> dict[str, list[str]]:
    """Return a split that can be trained on: the authors', where there is one with labelled tests, else by group.

    Places whose first images overlap on the ground are held to be of one group. Only places with labels are drawn for
    test and validation; one without labels is left out where its group is.

    Args:
        folder: the data set.
        share: of the places in the test part and, of the rest, in the validation part; where the authors have a test
            part but no validation, of their training places.
        seed: of the draw.

    Returns:
        Sorted names under `train`, `validation` and `test`.

    Raises:
        UsageError: there are fewer than three groups with labels.
        SceneError: an image cannot be opened.
    """
    groups = _on_the_ground(folder)
    # Land cover beside a change label is often weak; what decides is the change label.
    labels = {"change"} if folder.layout.has("change") else {"landcover", "landcover_before"}
    labelled = {item.name: groups[item.name] for item in folder.items() if labels & set(item.files)}
    parts = authors_split(folder) if folder.layout.split else {part: [] for part in PARTS}
    parts = {part: [name for name in names if name in labelled] for part, names in parts.items()}
    if parts["test"] and parts["train"]:
        labelled = {name: labelled[name] for name in parts["train"]}
        test = parts["test"]
    else:
        rest, test = holdout(labelled, share, seed)
        labelled = {name: labelled[name] for name in rest}
        parts["validation"] = []
    validation = parts["validation"]
    if not validation:
        rest, validation = holdout(labelled, share, seed)
        labelled = {name: labelled[name] for name in rest}
    kept_out = {groups[name] for name in (*validation, *test)}
    unlabelled = [
        item.name for item in folder.items() if not labels & set(item.files) and groups[item.name] not in kept_out
    ]
    return {"train": sorted([*labelled, *unlabelled]), "validation": validation, "test": test}


def _on_the_ground(folder: DatasetFolder) -> dict[str, str]:
    """The group of every place, groups that overlap on the ground made one."""
    items = folder.items()
    groups = {item.name: folder.layout.group_of(item.name) for item in items}
    footprints: dict[str, tuple[float, float, float, float]] = {}
    for item in items if folder.georeferenced else ():
        path = item.file(folder.layout.first.role)
        if path is not None:
            with open_file(path) as source:
                if source.crs:
                    footprints[item.name] = Grid(source.crs, source.transform, *source.shape).bounds_lonlat()
    names, boxes = list(footprints), np.array(list(footprints.values())).reshape(-1, 4)
    for name, footprint in footprints.items():
        for other in np.flatnonzero(overlaps(boxes, footprint)):
            one, two = groups[name], groups[names[other]]
            if one != two:
                groups = {key: min(one, two) if group in {one, two} else group for key, group in groups.items()}
    return groups


def _key(item: Item, split: Split) -> str:
    if split.by in {"name", "file"}:
        return item.name
    if split.by not in item.fields:
        raise UsageError(f"split by {split.by!r}: use name, file or a field of the paths: {', '.join(item.fields)}")
    return item.fields[split.by]


def _listed(folder: DatasetFolder, split: Split, part: str) -> Sequence[str]:
    """What the split names of a part; of a list the lines, without folder and suffix."""
    entries: tuple[str, ...] = getattr(split, part)
    if split.by != "file":
        return entries
    names = []
    for entry in entries:
        path = folder.path / entry
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SceneError(f"{path}: the list of the {part} places cannot be read: {error}; restore it") from error
        lines = [Path(line.strip()) for line in text.splitlines() if line.strip()]
        names += [line.stem if line.suffix.lower() in _SUFFIXES else line.name for line in lines]
    return names


_SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"}
