"""`tuban data list` and `verify`: what is known about data sets, and whether a folder is intact."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.windows import Window

from tuban.data.dataset import datasets
from tuban.data.layout import BAND
from tuban.data.pictures import UNKNOWN, open_file, values_in
from tuban.data.splits import authors_split
from tuban.errors import SceneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import rasterio

    from tuban.data.dataset import DatasetFolder
    from tuban.data.layout import Item, Role

STRIP_PIXELS = 4_000_000
"""Pixels of one band that are held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a data set's folder: which item, which file, what, and what to do."""

    item: str
    role: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: `ok` when there are items and no fault.

    Attributes:
        dataset: id.
        layout: which of the data set's layouts the folder has.
        folder: its path.
        items: number of items.
        files: number of files that belong to them.
        faults: what is wrong.
        notes: what is worth knowing and no fault: files that belong to no item, a layout that could not be checked.
    """

    dataset: str
    layout: str
    folder: str
    items: int
    files: int
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the folder is intact."""
        return self.items > 0 and not self.faults

    def summary(self) -> dict[str, Any]:
        """Return all of it, JSON-ready."""
        return {**asdict(self), "ok": self.ok}


def catalogue() -> list[dict[str, Any]]:
    """Return what is known about every data set, JSON-ready."""
    return [known.model_dump(mode="json") for known in datasets()]


def verify(folder: DatasetFolder) -> Verification:
    """Check every file of a data set.

    Present, readable to the last pixel, right bands, equal sizes, georeferenced, known label values and colours,
    dates in order, lists of the split present.
    """
    items, layout = folder.items(), folder.layout
    faults: list[Fault] = []
    if not items:
        expected = ", ".join(role.path for role in layout.roles if role.required)
        faults.append(Fault("", "", f"no item found in {folder.path}", f"expected files such as {expected}"))
    for item in items:
        faults += [
            Fault(item.name, role.role, "file is missing", f"restore {_expected(folder, role, item)}")
            for role in layout.roles
            if role.required and role.role not in item.files
        ]
        for role in layout.roles:
            faults += _role_faults(folder, role, item)
        if folder.layout.dates:
            faults += _date_faults(item.name, folder.path / folder.layout.dates.format(**item.fields))
    faults += _split_faults(folder)
    files = {path for item in items for paths in item.files.values() for path in paths.values()}
    return Verification(
        folder.dataset.id, layout.id, str(folder.path), len(items), len(files), tuple(faults), _notes(folder, files)
    )


def read_dates(path: Path) -> dict[str, str] | None:
    """Return the dates `before` and `after` of a JSON file, as they stand there; None where there is no file."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: content[name] for name in ("before", "after") if name in content}


def strips(source: rasterio.DatasetReader) -> Iterator[Window]:
    """Yield windows of whole rows that cover an image, each small enough to be held."""
    rows = max(1, STRIP_PIXELS // (source.width * source.count))
    for top in range(0, source.height, rows):
        yield Window(0, top, source.width, min(rows, source.height - top))


def histogram(source: rasterio.DatasetReader, role: Role) -> Counter[int]:
    """Return how many pixels of a label have which value, `UNKNOWN` for colours that name none."""
    counts: Counter[int] = Counter()
    for window in strips(source):
        values, numbers = np.unique(values_in(source, role, window), return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return counts


def _expected(folder: DatasetFolder, role: Role, item: Item) -> Path:
    return folder.path / role.path.format(**item.fields, **{BAND: "*"})


def _role_faults(folder: DatasetFolder, role: Role, item: Item) -> Iterator[Fault]:
    files = item.files.get(role.role, {})
    if "" not in files and files:
        for band in folder.bands:
            if band not in files:
                path = folder.path / role.path.format(**item.fields, **{BAND: band})
                yield Fault(item.name, role.role, f"band {band} is missing", f"restore {path}")
    for path in files.values():
        try:
            with open_file(path) as source:
                for problem, remedy in _file_problems(folder, role, item, source):
                    yield Fault(item.name, role.role, f"{path.name}: {problem}", remedy)
        except SceneError as error:
            yield Fault(item.name, role.role, str(error), "restore the original file")


def _file_problems(
    folder: DatasetFolder, role: Role, item: Item, source: rasterio.DatasetReader
) -> Iterator[tuple[str, str]]:
    restore = "restore the original file"
    bands = role.bands or (len(folder.bands) if role.is_image and f"{{{BAND}}}" not in role.path else None)
    if bands is not None and source.count != bands:
        yield f"{source.count} bands instead of {bands}", restore
    if role.dtype is not None and set(source.dtypes) != {role.dtype}:
        yield f"stored as {source.dtypes[0]} instead of {role.dtype}", restore
    if role.is_image and folder.georeferenced and source.crs is None:
        yield "no CRS", "restore the file with its georeference"
    yield from _grid_problems(folder, role, item, source)
    if role.is_image:
        for window in strips(source):
            source.read(window=window)  # a truncated file is noticed here
        return
    seen = histogram(source, role)
    if seen.pop(UNKNOWN, 0):
        yield "colours that are not described", f"describe them; known are {', '.join(role.colors or {})}"
    strange = sorted(set(seen) - set(role.values)) if role.values else []
    if strange:
        accepted = ", ".join(map(str, role.values or ()))
        yield f"values {strange[:5]} in band 1, accepted are {accepted}", "restore the label file"


def _grid_problems(
    folder: DatasetFolder, role: Role, item: Item, source: rasterio.DatasetReader
) -> Iterator[tuple[str, str]]:
    reference = folder.layout.reference(role)
    if reference is None and role.role == "after" and not folder.georeferenced:
        reference = folder.layout.first
    other = item.file(reference.role) if reference else None
    if reference is None or other is None:  # reported as missing
        return
    try:
        with open_file(other) as first:
            size, expected = (source.width, source.height), (first.width, first.height)
            if size != expected:
                sizes = f"{size[0]}x{size[1]} pixels, {reference.role} has {expected[0]}x{expected[1]}"
                yield sizes, "restore both files"
            elif source.crs and first.crs and not source.transform.almost_equals(first.transform, 1e-9):
                yield f"not on the grid of {reference.role}", "restore both files"
    except SceneError:
        return  # reported for that file


def _date_faults(item: str, path: Path) -> list[Fault]:
    remedy = f'write {{"before": "YYYY-MM-DD", "after": "YYYY-MM-DD"}} to {path}'
    try:
        found = read_dates(path)
        if found is None or len(found) < 2:
            return [Fault(item, "dates", "no dates", remedy)]
        before, after = (dt.date.fromisoformat(found[name]) for name in ("before", "after"))
    except (ValueError, TypeError) as error:
        return [Fault(item, "dates", f"unreadable: {error}", remedy)]
    if before >= after:
        return [Fault(item, "dates", f"before {before} is not earlier than after {after}", remedy)]
    return []


def _split_faults(folder: DatasetFolder) -> list[Fault]:
    if folder.layout.split is None:
        return []
    try:
        authors_split(folder)
    except (SceneError, UsageError) as error:
        return [Fault("", "split", str(error), "restore the lists of the split")]
    return []


def _notes(folder: DatasetFolder, files: set[Path]) -> tuple[str, ...]:
    notes = []
    suffixes = {path.suffix.lower() for path in files}
    strays = sorted(
        path.relative_to(folder.path).as_posix()
        for path in folder.path.rglob("*")
        if path.suffix.lower() in suffixes and path not in files and not path.name.startswith(".")
    )
    if strays:
        more = f" and {len(strays) - 5} more" if len(strays) > 5 else ""
        notes.append(f"{len(strays)} images belong to no item: {', '.join(strays[:5])}{more}")
    if not folder.layout.sure:
        notes.append(f"the layout {folder.layout.id} of {folder.dataset.id} was not checked against its authors' files")
    return tuple(notes)
