"""Labelled places of any data set, streamed one by one: `load_places`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from rasterio.windows import Window

from tuban.data.dataset import open_folder
from tuban.data.pictures import change_of, cover_of, open_file, read_values
from tuban.data.place import IGNORE, Place
from tuban.data.views import open_views
from tuban.errors import SceneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tuban.data.dataset import DatasetFolder
    from tuban.data.layout import Item
    from tuban.data.views import Views

    Labels = tuple[NDArray[np.uint8], NDArray[np.uint8]]

FIRST, SECOND = ("landcover_before", "landcover"), ("landcover_after",)
"""Roles that label the land cover of the first image, and of the second."""

BLOCK = 2048
"""Pixels a side; a place with more than this squared is cut into blocks."""


def place_names(root: Path, dataset: str | None = None) -> list[str]:
    """Return the names of the places in a data set's folder, sorted; no image is opened.

    Args:
        root: the folder.
        dataset: id or YAML file of the data set; by default recognised, or described in `dataset.yaml`.

    Raises:
        SceneError: the folder is not recognised, or holds no place.
        UsageError: the data set is unknown.
    """
    return [item.name for item in _items(open_folder(root, dataset))]


def load_places(
    root: Path,
    *,
    dataset: str | None = None,
    bands: Sequence[str],
    classes: Sequence[int],
    names: Sequence[str] | None = None,
) -> Iterator[Place]:
    """Read the places of a data set, one at a time.

    A georeferenced pair is matched as for inference; one without georeference is read as it is stored, AFTER mapped
    onto BEFORE's radiometry. A place of more than 2048 x 2048 pixels comes as blocks `<name>-r<row>-c<column>`, all
    of the place's group.

    Args:
        root: the data set's folder.
        dataset: id or YAML file of the data set; by default recognised, or described in `dataset.yaml`.
        bands: canonical names in network order; those that the images lack are NaN.
        classes: unified classes in network order; all others become unknown.
        names: those of `place_names` to read; all by default.

    Raises:
        SceneError: the folder is not recognised, a file is missing or cannot be read, a label does not fit its image.
        UsageError: the data set, a place or a class is unknown.
    """
    folder = open_folder(root, dataset)
    items = _items(folder)
    if names is not None:
        known = {item.name: item for item in items}
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise UsageError(f"{root}: no place {', '.join(unknown)}; there are: {_listed(list(known))}")
        items = [known[name] for name in dict.fromkeys(names)]
    return _places(folder, items, tuple(bands), tuple(classes))


def _items(folder: DatasetFolder) -> list[Item]:
    items = folder.items()
    if not items:
        expected = folder.layout.first.path
        raise SceneError(f"{folder.path}: no place of {folder.dataset.id} here; expected files such as {expected}")
    return items


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _places(
    folder: DatasetFolder, items: list[Item], bands: tuple[str, ...], classes: tuple[int, ...]
) -> Iterator[Place]:
    for item in items:
        with open_views(folder, item) as views:
            windows = list(blocks(views.height, views.width))
            for window in windows:
                whole = len(windows) == 1
                name = item.name if whole else f"{item.name}-r{window.row_off}-c{window.col_off}"
                yield read_place(folder, item, views, window, name, bands, classes)


def blocks(height: int, width: int) -> Iterator[Window]:
    """Yield the windows that cover an image: one, or where it is large several of like size."""
    if height * width <= BLOCK * BLOCK:
        yield Window(0, 0, width, height)
        return
    rows, columns = (np.linspace(0, size, -(-size // BLOCK) + 1).round().astype(int) for size in (height, width))
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            yield Window(int(left), int(top), int(right - left), int(bottom - top))


def read_place(
    folder: DatasetFolder, item: Item, views: Views, window: Window, name: str, bands: Sequence[str],
    classes: Sequence[int],
) -> Place:  # fmt: skip
    """Read a window of an item's images with its labels; `load_places` says what `bands` and `classes` are."""
    before, after = views.read(window, bands)
    change = read_change(folder, item, views, window)
    if item.file("change") is not None:
        seen = views.read(window, folder.bands)[0] if np.isnan(before).all() else before
        change[np.isnan(seen).all(axis=0)] = IGNORE
    first, second = (read_cover(folder, item, views, names, window, classes) for names in (FIRST, SECOND))
    return Place(
        name, before, after, change, first[0], second[0], first[1], second[1], views.summary,
        dataset=folder.dataset.id, group=folder.layout.group_of(item.name), gsd_m=views.gsd_m,
        footprint=views.footprint(window),
    )  # fmt: skip


def read_change(folder: DatasetFolder, item: Item, views: Views, window: Window) -> NDArray[np.uint8]:
    """Read a window of the change label `(h, w)`: 0, 1, or 255 where nothing is known, or nothing was labelled.

    Raises:
        SceneError: the label cannot be read, or is not as large as the first image.
    """
    path = item.file("change")
    if path is None:
        return np.full((int(window.height), int(window.width)), IGNORE, dtype=np.uint8)
    role = folder.layout.role("change")
    return change_of(read_values(_fitting(path, folder, item, views), role, _on_image(views, window)), role)


def read_cover(
    folder: DatasetFolder, item: Item, views: Views, names: tuple[str, ...], window: Window, classes: Sequence[int]
) -> Labels:
    """Read a window of one date's land cover: index into `classes` and confidence, `(h, w)` each.

    Args:
        folder: the data set.
        item: one of its items.
        views: its images.
        names: roles of the label, `FIRST` or `SECOND`; the first that is there is read.
        window: on the grid of the views.
        classes: unified classes; all others are 255, unknown, and so is everything without a label.

    Raises:
        SceneError: the label cannot be read, or is not as large as the first image.
    """
    shape = (int(window.height), int(window.width))
    on_image = _on_image(views, window)
    for name in names:
        path = item.file(name)
        if path is None:
            continue
        role = folder.layout.role(name)
        cover = cover_of(read_values(_fitting(path, folder, item, views), role, on_image), role, classes)
        if role.confidence_band is None:
            return cover, np.where(cover == IGNORE, 0, 255).astype(np.uint8)
        with open_file(path) as source:
            return cover, np.asarray(source.read(role.confidence_band, window=on_image), dtype=np.uint8)
    return np.full(shape, IGNORE, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)


def _on_image(views: Views, window: Window) -> Window:
    """The window on the first image, on whose grid labels lie."""
    return Window(window.col_off + views.offset[1], window.row_off + views.offset[0], window.width, window.height)


def _fitting(path: Path, folder: DatasetFolder, item: Item, views: Views) -> Path:
    """The label's path, once it is known to lie on the grid of the first image."""
    needed = (views.offset[0] + views.height, views.offset[1] + views.width)
    image = item.file(folder.layout.first.role)
    with open_file(path) as source, open_file(image or path) as first:
        if source.height < needed[0] or source.width < needed[1]:
            raise SceneError(
                f"{path}: {source.height} x {source.width} pixels do not cover {needed[0]} x {needed[1]}; "
                "a label lies on the grid of the first image"
            )
        # A finer or padded label covers the image too, but names other pixels.
        if source.shape != first.shape:
            raise SceneError(
                f"{path}: {source.height} x {source.width} pixels, and {image} has {first.height} x {first.width}; "
                "a label lies on the grid of the first image: resample it, or restore both files"
            )
    return path
