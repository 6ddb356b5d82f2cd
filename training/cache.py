"""Decoded places on the disk, mapped into memory, so that a data set may be larger than the memory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tuban
from tuban.data.dataset import open_folder
from tuban.data.place import Place
from tuban.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_ARRAYS = ("before", "after", "change", "landcover_before", "landcover_after", "weight_before", "weight_after")
_FACTS = ("name", "dataset", "group", "gsd_m", "footprint", "summary")


def identity(root: Path, dataset: str | None, bands: Sequence[str], classes: Sequence[int], *, apart: Path) -> str:
    """Return a name for what reading a data set gives: of its files and description, and this version of tuban.

    Args:
        root: the data set's folder.
        dataset: its id or YAML file, whose content counts and not its name; by default recognised.
        bands: as read.
        classes: as read.
        apart: folder whose files do not count: the cache itself, which may lie in `root`.

    Raises:
        SceneError: the folder is not recognised.
        UsageError: `dataset` is unknown, or does not describe a data set.
    """
    described = open_folder(root, dataset).dataset.model_dump_json()
    top, own = root.resolve(), apart.resolve()
    files = sorted(
        (str(path.relative_to(top)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in top.rglob("*")
        if not path.is_relative_to(own) and path.is_file()
    )
    told = json.dumps([tuban.__version__, described, list(bands), list(classes), files])
    return f"{root.name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def cached_places(folder: Path, names: Sequence[str], read: Callable[[list[str]], Iterable[Place]]) -> Iterator[Place]:
    """Yield places mapped from the disk; those that are not there yet are read once and written.

    Args:
        folder: of this data set as read with these settings (`identity`).
        names: items of the data set; one may be several places.
        read: reads items by name.

    Raises:
        OutputError: the cache cannot be written.
    """
    for name in names:
        stored = folder / hashlib.sha256(name.encode()).hexdigest()[:24]
        if not stored.is_dir():
            try:
                _store(stored, read([name]))
            except OSError as error:
                raise OutputError(
                    f"{folder}: places cannot be cached: {error}; give data.cache with more room"
                ) from error
        for part in sorted(stored.iterdir()):
            yield _mapped(part)


def _store(folder: Path, places: Iterable[Place]) -> None:
    """Write places under a temporary name, then rename: a folder that is there is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".cache-", dir=folder.parent))
    try:
        for number, place in enumerate(places):
            part = scratch / f"{number:05d}"
            part.mkdir()
            for name in _ARRAYS:
                if (array := getattr(place, name)) is not None:
                    np.save(part / f"{name}.npy", array)
            facts = {name: getattr(place, name) for name in _FACTS}
            (part / "place.json").write_text(json.dumps(facts, default=str), encoding="utf-8")
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same content
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _mapped(part: Path) -> Place:
    facts: dict[str, Any] = json.loads((part / "place.json").read_text(encoding="utf-8"))
    if facts["footprint"] is not None:
        facts["footprint"] = tuple(facts["footprint"])
    arrays = {
        name: np.load(part / f"{name}.npy", mmap_mode="r") for name in _ARRAYS if (part / f"{name}.npy").is_file()
    }
    blank = {field.name: None for field in dataclasses.fields(Place) if field.name == "after"}
    return Place(**(blank | arrays | facts))
