"""The labelled items of a data set, whatever its layout, as an evaluation meets them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tuban.data.dataset import open_folder
from tuban.data.pictures import open_file
from tuban.data.place import IGNORE
from tuban.data.places import FIRST, SECOND, place_names, read_change, read_cover
from tuban.errors import SceneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.windows import Window

    from tuban.data.dataset import DatasetFolder
    from tuban.data.layout import Item, RoleName
    from tuban.data.views import Views
    from tuban.models.bundle import Bundle

CONFIDENT = 153
"""Labels of less than 60 % confidence (153 of 255) are unknown."""
_UNIFIED = tuple(range(IGNORE))


@dataclass(frozen=True, slots=True)
class LabelledItem:
    """One item of a data set with its labels; nothing of it is read before it is asked for.

    Attributes:
        folder: the data set.
        item: its files.
    """

    folder: DatasetFolder
    item: Item

    @property
    def name(self) -> str:
        """The name of the place."""
        return self.item.name

    @property
    def image(self) -> Path | None:
        """The first image, on whose grid labels lie."""
        return self.item.file(self.folder.layout.first.role)

    @property
    def pair(self) -> bool:
        """Whether there are two dates."""
        return self.folder.layout.has("after")

    @property
    def shows_change(self) -> bool:
        """Whether change is labelled here."""
        return self.pair and self.item.file("change") is not None

    @property
    def covered(self) -> tuple[bool, bool]:
        """Whether the land cover of the first image is labelled, and that of the second."""
        return any(self.item.file(name) for name in FIRST), any(self.item.file(name) for name in SECOND)

    @property
    def weak(self) -> bool:
        """Whether the land-cover labels have a confidence, and so were not drawn by hand."""
        roles = (role for role in self.folder.layout.roles if role.role in {*FIRST, *SECOND})
        return any(role.confidence_band for role in roles)

    def change(self, views: Views, window: Window) -> NDArray[np.uint8]:
        """Read a window of the change label `(h, w)`: 0, 1 or 255 unknown.

        Raises:
            SceneError: it cannot be read, or does not cover the images.
        """
        return read_change(self.folder, self.item, views, window)

    def classes(self, views: Views, window: Window, *, second: bool = False) -> NDArray[np.uint8]:
        """Read unified classes `(h, w)` of a date; 0 where unknown or less than 60 % sure.

        Raises:
            SceneError: they cannot be read, or do not cover the images.
        """
        names = SECOND if second else FIRST
        cover, sure = read_cover(self.folder, self.item, views, names, window, _UNIFIED)
        return np.where((cover == IGNORE) | (sure < CONFIDENT), 0, cover).astype(np.uint8)

    def dates(self) -> list[LabelledItem]:
        """Return each image whose land cover is labelled, as a place of a single image.

        A later image on a grid of its own is left out: labels lie on the grid of the first.
        """
        if not self.pair:
            return [self] if self.covered[0] else []
        found = []
        for number, (date, labels) in enumerate((("before", FIRST), ("after", SECOND))):
            path = self.item.file(date)
            if not self.covered[number] or path is None or _grid(path) != _grid(self.image or path):
                continue
            single: dict[str, RoleName] = {date: "image", **dict.fromkeys(labels, "landcover")}
            roles = tuple(
                role.model_copy(update={"role": single[role.role], "same_size_as": None})
                for role in self.folder.layout.roles
                if role.role in single
            )
            files: dict[str, Mapping[str, Path]] = {
                single[name]: paths for name, paths in self.item.files.items() if name in single
            }
            layout = self.folder.layout.model_copy(update={"roles": roles})
            folder, item = dataclasses.replace(self.folder, layout=layout), dataclasses.replace(self.item, files=files)
            found.append(LabelledItem(folder, item))
        return found

    def with_after(self, files: Mapping[str, Path]) -> LabelledItem:
        """Return the same place with other files for its later image."""
        return LabelledItem(self.folder, dataclasses.replace(self.item, files={**self.item.files, "after": files}))


def _grid(path: Path) -> tuple[object, ...]:
    with open_file(path) as source:
        return (*source.shape, source.transform)


def labelled_items(root: Path, dataset: str | None = None, names: Sequence[str] | None = None) -> list[LabelledItem]:
    """Return the items of a data set, with labels or without.

    Args:
        root: its folder.
        dataset: its id or YAML file; by default recognised, or described in `dataset.yaml`.
        names: those wanted; all by default.

    Raises:
        SceneError: the folder is not recognised, or holds no item.
        UsageError: an item is unknown.
    """
    known = place_names(root, dataset)
    if names is not None and (missing := sorted(set(names) - set(known))):
        there = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise UsageError(f"{root} has no place {missing[0]}; it has {there}")
    folder = open_folder(root, dataset)
    return [LabelledItem(folder, item) for item in folder.items() if names is None or item.name in set(names)]


def with_change(items: Sequence[LabelledItem]) -> list[LabelledItem]:
    """Return those with a label of change.

    Raises:
        SceneError: there is none.
    """
    found = [item for item in items if item.shows_change]
    if not found:
        folder = items[0].folder
        expected = folder.layout.role("change").path if folder.layout.has("change") else "a role `change`"
        raise SceneError(f"{folder.path}: no place has a label of change ({expected}); nothing to measure against")
    return found


def with_cover(items: Sequence[LabelledItem]) -> list[LabelledItem]:
    """Return those with a label of land cover.

    Raises:
        SceneError: there is none.
    """
    found = [item for item in items if any(item.covered)]
    if not found:
        raise SceneError(f"{items[0].folder.path}: no place has a label of land cover; nothing to measure against")
    return found


def against(items: Sequence[LabelledItem]) -> str:
    """Return what land cover is measured against, in words."""
    dataset = items[0].folder.dataset
    if any(item.weak for item in items):
        return f"weak labels of {dataset.id} of at least 60 % confidence: agreement, not accuracy"
    return f"labels of {dataset.title or dataset.id}"


def require_bands(bundle: Bundle, items: Sequence[LabelledItem]) -> None:
    """Check that a bundle can be fed.

    Raises:
        UsageError: it needs a band that the data set lacks.
    """
    folder = items[0].folder
    if missing := [band for band in bundle.required_bands if band not in folder.bands]:
        raise UsageError(
            f"{bundle.name} needs {', '.join(missing)}; {folder.dataset.id} has {', '.join(folder.bands)}: "
            "choose a model for these bands"
        )
