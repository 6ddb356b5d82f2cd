"""The journal of a run: parts already done, so that a run that was killed goes on where it stopped.

A folder holds `journal.json` (the key of the run and what was decided at its start) and one file for each part. A
part is written aside, flushed to the disk and renamed to a name that holds its checksum, so whatever the moment at
which the power goes, a part is there whole or not at all, and one that was damaged afterwards is noticed and made
again. The key covers everything on which results depend; under another key nothing is taken over.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
import logging
import os
import re
import shutil
import zlib
from typing import TYPE_CHECKING, Any, Self

import tuban
from tuban.errors import OutputError
from tuban.inference.parts import Part, Tally, read_tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

FORMAT = 1
_NAME = re.compile(r"(\d{9})-([0-9a-f]{8})(-partial)?\.tif")


def code_digest() -> str:
    """Return a digest of the code that makes parts, so that a run is never gone on with by other code."""
    digest = hashlib.sha256(tuban.__version__.encode())
    for stage in ("data", "inference"):
        root = importlib.resources.files(f"tuban.{stage}")
        for name, content in sorted(_sources(root)):
            digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()


def _sources(folder: Any, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield prefix + entry.name, entry.read_bytes()


class Journal:
    """Parts of one run in a folder; see the module.

    Attributes:
        folder: where parts stand.
        facts: what was decided at the start (backend, background of the pair), JSON-ready; kept by `decide`.
        notes: what was taken over, made again or begun anew, for `run.json`.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        """Open the journal of the run called `key`, or begin it.

        Args:
            folder: is made; what another run left in it is removed, and that is noted.
            key: JSON-ready; everything on which the results depend.

        Raises:
            OutputError: the folder cannot be written.
        """
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self._key = json.loads(json.dumps({"format": FORMAT, **key}, sort_keys=True))
        self._parts: dict[int, Path] = {}
        self._partial: dict[int, Path] = {}
        self.tally = Tally()
        with _writing(folder):
            if not self._take_over():
                self._begin()
        self.reused = len(self._parts)

    def _take_over(self) -> bool:
        path = self.folder / "journal.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        except ValueError:
            self.notes.append(f"{path} could not be read: the run began anew")
            return False
        if found.get("key") != self._key:
            changed = _difference(found.get("key", {}), self._key)
            self.notes.append(f"an unfinished run was found with other {changed}: the run began anew")
            return False
        self.facts = found["facts"]
        for part in sorted(self.folder.iterdir()):
            self._adopt(part)
        if self._parts:
            self.notes.append(f"an unfinished run was gone on with: {len(self._parts)} parts were done already")
        return True

    def _adopt(self, path: Path) -> None:
        """Take over a part whose checksum is right; a partial one is made again, for its cause may be gone."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            if path.name != "journal.json":
                path.unlink()
            return
        data = path.read_bytes()
        if match[3] is not None or zlib.crc32(data) != int(match[2], 16):
            if match[3] is None:
                self.notes.append(f"{path.name} was damaged on the disk and was made again")
            path.unlink()
            return
        self._parts[int(match[1])] = path
        self.tally += read_tally(data)

    def _begin(self) -> None:
        if self.folder.exists():
            for path in self.folder.iterdir():
                path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_facts()

    def decide(self, **facts: Any) -> None:
        """Keep what was decided at the start of the run, so that it is not decided otherwise later."""
        self.facts |= facts
        with _writing(self.folder):
            self._write_facts()

    def _write_facts(self) -> None:
        text = json.dumps({"key": self._key, "facts": self.facts}, indent=1, sort_keys=True)
        _store(self.folder / "journal.json", text.encode())

    def missing(self, count: int) -> Iterator[int]:
        """Yield the batches of 0 … count - 1 that are not done."""
        return (index for index in range(count) if index not in self._parts)

    def add(self, part: Part) -> None:
        """Keep a part; when this returns it is on the disk.

        Raises:
            OutputError: the disk is full or the folder cannot be written.
        """
        suffix = "-partial" if part.tally.damage else ""
        path = self.folder / f"{part.index:09d}-{zlib.crc32(part.data):08x}{suffix}.tif"
        with _writing(self.folder):
            _store(path, part.data)
        (self._partial if part.tally.damage else self._parts)[part.index] = path
        self.tally += part.tally

    def paths(self) -> dict[int, Path]:
        """Return the parts by batch."""
        return dict(sorted({**self._parts, **self._partial}.items()))

    @property
    def empty(self) -> bool:
        """Whether nothing has been done yet."""
        return not (self._parts or self._partial)

    def remove(self) -> None:
        """Delete everything; the run is complete, or nothing was done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # Nothing done is nothing worth keeping: a wrong option leaves no trace.
        if exception[0] is not None and self.empty:
            self.remove()


def _store(path: Path, data: bytes) -> None:
    """Write aside, flush to the disk, rename: a file under its name is whole, even after a power cut."""
    aside = path.with_name(f".{path.name}.tmp")
    with contextlib.ExitStack() as stack:
        stack.callback(aside.unlink, missing_ok=True)  # after the renaming there is nothing left to remove
        with aside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{folder} cannot be written ({error.strerror or error}); what is done is kept: free space, check "
            "permissions, and run the same command again"
        ) from error


def _difference(old: Any, new: Any) -> str:
    """Name the entries in which two keys differ."""
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(names) or "content"
