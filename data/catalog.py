"""`tuban data list|verify|stats`: what is known, whether a folder is intact, and what is in it."""

from __future__ import annotations

import datetime as dt
import json
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from tuban.data.dataset import ITEM, Dataset, Role, datasets
from tuban.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

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
    """What `verify` found: `ok` when there are items and no fault."""

    dataset: str
    folder: str
    items: int
    files: int
    faults: tuple[Fault, ...]

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


def verify(known: Dataset, folder: str | Path) -> Verification:
    """Check every file of a data set.

    Present, readable to the last pixel, right bands, equal sizes, known label values, dates in order.

    Args:
        known: the data set.
        folder: its folder.

    Raises:
        SceneError: the folder does not exist.
    """
    folder = _existing(folder)
    items, faults, count = known.items(folder), [], 0
    if not items:
        first = known.roles[0].path.replace(ITEM, "NAME")
        faults.append(Fault("", "", f"no item found in {folder}", f"expected files such as {first}"))
    for item in items:
        present = [role for role in known.roles if _path(folder, role, item).is_file()]
        count += len(present)
        faults += [
            Fault(item, role.role, "file is missing", f"restore {_path(folder, role, item)}")
            for role in known.roles
            if role.required and role not in present
        ]
        for role in present:
            faults += _file_faults(known, role, item, folder)
        if known.dates:
            faults += _date_faults(item, folder / known.dates.replace(ITEM, item))
    return Verification(known.id, str(folder), len(items), count, tuple(faults))


def stats(known: Dataset, folder: str | Path) -> dict[str, Any]:
    """Return what is in a data set's folder, JSON-ready.

    For each item its size, dates and bounds (longitude and latitude, where georeferenced); for each role with values
    how many pixels have which value, over all items, and the share of each.

    Raises:
        SceneError: the folder does not exist, or a file cannot be read.
    """
    folder = _existing(folder)
    items: list[dict[str, Any]] = []
    counts: dict[str, Counter[int]] = {role.role: Counter() for role in known.roles if role.values}
    for item in known.items(folder):
        entry: dict[str, Any] = {"item": item, "roles": []}
        for role in known.roles:
            path = _path(folder, role, item)
            if not path.is_file():
                continue
            entry["roles"].append(role.role)
            with _open(path) as source:
                if "pixels" not in entry:
                    entry |= {"height": source.height, "width": source.width, "pixels": source.height * source.width}
                    entry["bounds"] = _lonlat(source) if known.georeferenced else None
                if role.values:
                    counts[role.role] += _histogram(source)
        entry["dates"] = _dates(folder / known.dates.replace(ITEM, item)) if known.dates else None
        items.append(entry)
    return {
        "dataset": known.id,
        "folder": str(folder),
        "items": items,
        "pixels": sum(entry.get("pixels", 0) for entry in items),
        "labels": {name: _balance(known.role(name), histogram) for name, histogram in counts.items()},
    }


def _existing(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise SceneError(f"{folder} is no folder; give the folder of the data set")
    return folder


def _path(folder: Path, role: Role, item: str) -> Path:
    return folder / role.path.replace(ITEM, item)


@contextmanager
def _open(path: Path) -> Iterator[rasterio.DatasetReader]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # crops without a place are expected here
            source = rasterio.open(path)
        with source:
            yield source
    except RasterioError as error:
        raise SceneError(f"cannot read {path}: {error}; restore the file") from error


def _strips(source: rasterio.DatasetReader) -> Iterator[NDArray[np.generic]]:
    """Yield band 1 .. n in strips of whole rows, each (bands, rows, width)."""
    rows = max(1, STRIP_PIXELS // (source.width * source.count))
    for top in range(0, source.height, rows):
        yield source.read(window=Window(0, top, source.width, min(rows, source.height - top)))


def _histogram(source: rasterio.DatasetReader) -> Counter[int]:
    counts: Counter[int] = Counter()
    for strip in _strips(source):
        values, numbers = np.unique(strip[0], return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return counts


def _file_faults(known: Dataset, role: Role, item: str, folder: Path) -> list[Fault]:
    path, problems = _path(folder, role, item), []
    try:
        with _open(path) as source:
            if source.count != role.bands:
                problems.append((f"{source.count} bands instead of {role.bands}", "restore the original file"))
            if set(source.dtypes) != {role.dtype}:
                problems.append((f"stored as {source.dtypes[0]} instead of {role.dtype}", "restore the original file"))
            if known.georeferenced and source.crs is None:
                problems.append(("no CRS", "restore the file with its georeference"))
            problems += _grid_problems(known, role, item, folder, source)
            seen = _histogram(source)  # also reads every pixel, so a truncated file is noticed
            strange = sorted(set(seen) - set(role.values)) if role.values else []
            if strange:
                accepted = ", ".join(map(str, role.values or ()))
                problems.append((f"values {strange[:5]} in band 1, accepted are {accepted}", "restore the label file"))
    except SceneError as error:
        problems.append((str(error), "restore the original file"))
    return [Fault(item, role.role, problem, remedy) for problem, remedy in problems]


def _grid_problems(
    known: Dataset, role: Role, item: str, folder: Path, source: rasterio.DatasetReader
) -> list[tuple[str, str]]:
    if role.same_size_as is None:
        return []
    other = _path(folder, known.role(role.same_size_as), item)
    if not other.is_file():
        return []  # reported as missing
    try:
        with _open(other) as reference:
            size, expected = (source.width, source.height), (reference.width, reference.height)
            if size != expected:
                return [
                    (
                        f"{size[0]}x{size[1]} pixels, {role.same_size_as} has {expected[0]}x{expected[1]}",
                        "restore both files",
                    )
                ]
            if known.georeferenced and not source.transform.almost_equals(reference.transform, 1e-9):
                return [(f"not on the grid of {role.same_size_as}", "restore both files")]
    except SceneError:
        return []  # reported for that file
    return []


def _dates(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: content[name] for name in ("before", "after") if name in content}


def _date_faults(item: str, path: Path) -> list[Fault]:
    remedy = f'write {{"before": "YYYY-MM-DD", "after": "YYYY-MM-DD"}} to {path}'
    try:
        found = _dates(path)
        if found is None or len(found) < 2:
            return [Fault(item, "dates", "no dates", remedy)]
        before, after = (dt.date.fromisoformat(found[name]) for name in ("before", "after"))
    except (ValueError, TypeError) as error:
        return [Fault(item, "dates", f"unreadable: {error}", remedy)]
    if before >= after:
        return [Fault(item, "dates", f"before {before} is not earlier than after {after}", remedy)]
    return []


def _lonlat(source: rasterio.DatasetReader) -> list[float] | None:
    if source.crs is None:
        return None
    return [round(value, 6) for value in transform_bounds(source.crs, "EPSG:4326", *source.bounds)]


def _balance(role: Role, counts: Counter[int]) -> dict[str, dict[str, float]]:
    total = sum(counts.values())
    names = role.values or {}
    return {
        names.get(value, str(value)): {"pixels": number, "share": round(number / total, 6)}
        for value, number in sorted(counts.items())
    }
