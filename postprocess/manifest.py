"""`run.json`: what went into a run, what it measured and decided, and what came out, each with its hash.

Everything that may differ between two equal runs (clock, host, absolute paths) stands under `volatile`;
`content_sha256` covers the rest, so equal runs have equal content hashes. `file_sha256` covers the whole file.
Neither is a signature: who can rewrite the outputs can also rewrite `run.json` with matching hashes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyogrio
import rasterio

import tuban
from tuban.data.address import is_remote, redacted
from tuban.data.identity import identity
from tuban.errors import OutputError, UsageError
from tuban.postprocess.fingerprint import fingerprint
from tuban.postprocess.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tuban.data.remote import RemoteSettings

SCHEMA = "tuban-run/1"
FILE_NAME = "run.json"
_UNHASHED = ("volatile", "content_sha256", "file_sha256")
_PACKAGES = ("numpy", "onnxruntime", "pyproj", "rasterio", "pyogrio", "shapely", "geopandas", "scipy", "torch")


class Manifest:
    """Collects what `run.json` will say; one per run.

    Args:
        command: the command, such as `detect`.
        parameters: settings of the run, JSON-ready or with paths, dates, tuples and pydantic models in them. A
            path is kept by its name only (the whole one goes to `volatile`), so that equal runs stay equal.

    Example:
        >>> manifest = Manifest("detect", {"rules": "cn"})
        >>> manifest.note("pair", "dates are unknown; the day of the run is used")
        >>> manifest.content()["notes"]
        [{'stage': 'pair', 'text': 'dates are unknown; the day of the run is used'}]
    """

    def __init__(self, command: str, parameters: Mapping[str, Any] | None = None) -> None:
        self._paths: dict[str, str] = {}
        self._started = dt.datetime.now(dt.UTC)
        self._clock = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._content: dict[str, Any] = {
            "schema": SCHEMA,
            "command": command,
            "versions": _versions(),
            "inputs": [],
            "parameters": plain(dict(parameters or {}), "parameters", self._paths),
            "notes": [],
        }
        self._outputs: list[dict[str, Any]] = []
        self._volatile: dict[str, Any] = {}

    def add_input(self, role: str, path: str | Path, *, remote: RemoteSettings | None = None) -> dict[str, Any]:
        """Hash an input and record it under `role`; a remote one is recorded by address, size and ETag.

        Args:
            role: what it is to the run: `before`, `after`, `plan`, `plan:STBHHX`, `aoi` …
            path: a file (with its sidecars), a folder (File GDB, Shapefiles), `/vsi…` or a URL.
            remote: time-outs and the allow-list of remote inputs.

        Returns:
            The entry as it stands in `run.json`.

        Raises:
            UsageError: a local path does not exist.
        """
        text = str(path)
        if is_remote(text):
            facts = {key: value for key, value in identity(text, remote).items() if key != "uri"}
            entry: dict[str, Any] = {"role": role, "name": redacted(text), "sha256": None, **facts}
            self.note("input", f"{role} is remote and was not hashed: {entry['name']}")
        else:
            print_ = fingerprint(text)
            entry = {"role": role, "name": Path(text).name, **print_.as_dict()}
            self._paths[f"input:{role}"] = str(Path(print_.path).resolve())
        self._content["inputs"].append(entry)
        return entry

    def add_output(self, path: str | Path) -> None:
        """Hash a finished output; `write` refers to it relative to the folder of `run.json`."""
        self._outputs.append({"path": Path(path), **fingerprint(str(path), sidecars=False).as_dict()})

    def set(self, section: str, value: object) -> None:
        """Put a section in place: `model`, `rule_pack`, `scenes`, `pair`, `counts` and so on.

        Raises:
            UsageError: the section is one the manifest writes itself, or the value has no JSON form.
        """
        if section in {"schema", "command", "versions", "inputs", "outputs", "notes", *_UNHASHED}:
            raise UsageError(f"section {section!r} of run.json is written by the manifest itself; use another name")
        self._content[section] = plain(value, section, self._paths)

    def set_volatile(self, section: str, value: object) -> None:
        """Put in place what differs from run to run without a difference in the results: what was gone on with."""
        self._volatile[section] = plain(value, section, self._paths)

    def note(self, stage: str, text: str) -> None:
        """Record something that was guessed, skipped or degraded; the report shows it. Said twice, it stands once."""
        entry = {"stage": stage, "text": text}
        if entry not in self._content["notes"]:
            self._content["notes"].append(entry)

    def note_all(self, stage: str, texts: Iterable[str]) -> None:
        """Record several notes of one stage."""
        for text in texts:
            self.note(stage, text)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall-clock seconds of the block to `stage`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.monotonic() - start

    def content(self) -> dict[str, Any]:
        """Return what is known so far without `volatile` and outputs: what the report is made from."""
        copy: dict[str, Any] = json.loads(json.dumps(self._content))
        return copy

    def write(self, folder: str | Path) -> Path:
        """Write `run.json` into `folder` and return its path.

        Raises:
            OutputError: it cannot be written.
        """
        target = Path(folder) / FILE_NAME
        outputs = [
            {"name": _relative(entry["path"], target.parent), **{k: v for k, v in entry.items() if k != "path"}}
            for entry in self._outputs
        ]
        record = {**self._content, "outputs": sorted(outputs, key=lambda entry: str(entry["name"]))}
        record["content_sha256"] = digest(record)
        record["volatile"] = {
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": {name: round(value, 3) for name, value in self._seconds.items()},
            "seconds_total": round(time.monotonic() - self._clock, 3),
            "host": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
            "paths": self._paths,
            **self._volatile,
        }
        record["file_sha256"] = _sha256({k: v for k, v in record.items() if k != "file_sha256"})
        write_text(target, json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        return target


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as `run.json` says.

    Attributes:
        kind: `edited` (run.json itself), `changed`, `missing` or `unverifiable`.
        name: the file or section.
        detail: one line for people.
    """

    kind: str
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: the number of hashes recomputed and everything that differs."""

    path: Path
    checked: int
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was edited, changed or missing; remote inputs, never hashed, do not count against it."""
        return all(difference.kind == "unverifiable" for difference in self.differences)


def verify(path: str | Path) -> Verification:
    """Recompute every hash of a run and say what differs (`tuban audit verify`).

    Args:
        path: `run.json` or the folder that holds it.

    Returns:
        The result; an input or output that has gone is listed as `missing`, a remote input as `unverifiable`.

    Raises:
        UsageError: there is no `run.json` there, or it is not one of tuban's.
    """
    target = Path(path)
    target = target / FILE_NAME if target.is_dir() else target
    record = _read(target)
    found: list[Difference] = []
    body = {key: value for key, value in record.items() if key != "file_sha256"}
    if record.get("file_sha256") != _sha256(body):
        found.append(Difference("edited", FILE_NAME, "run.json was edited after it was written (file_sha256 differs)"))
    if record.get("content_sha256") != digest(record):
        found.append(Difference("edited", FILE_NAME, "its content was edited (content_sha256 differs)"))
    paths = record.get("volatile", {}).get("paths", {})
    checked = 2
    for entry in record["inputs"]:
        name = f"input {entry['role']} ({entry['name']})"
        if entry.get("sha256") is None:
            found.append(Difference("unverifiable", name, "it is remote and was not hashed during the run"))
            continue
        checked += 1
        found += _compare(name, Path(paths.get(f"input:{entry['role']}", entry["name"])), entry, sidecars=True)
    for entry in record["outputs"]:
        checked += 1
        found += _compare(f"output {entry['name']}", target.parent / entry["name"], entry, sidecars=False)
    return Verification(target, checked, tuple(found))


def digest(record: Mapping[str, Any]) -> str:
    """Return the content hash of a run record: everything but `volatile` and the hashes themselves."""
    return _sha256({key: value for key, value in record.items() if key not in _UNHASHED})


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name, then give it its final one.

    Raises:
        OutputError: the folder is read-only or the disk is full; nothing is left.
    """
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # NamedTemporaryFile is private to its owner; an output should follow the user's umask instead.
        with tempfile.TemporaryDirectory(prefix=".tuban-", dir=target.parent) as folder:
            temporary = Path(folder) / target.name
            temporary.write_text(text, encoding="utf-8", newline="\n")
            temporary.replace(target)
    except OSError as error:
        remedy = "free some space, or choose a folder you may write to"
        raise OutputError(f"cannot write {target}: {error.strerror or error}; {remedy}") from error


def _read(target: Path) -> dict[str, Any]:
    try:
        record = json.loads(target.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"no run at {target}: {error.strerror}; give the folder of a run or its run.json") from error
    except ValueError as error:
        raise UsageError(f"{target} is not JSON ({error}); restore it from a backup or run again") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise UsageError(f"{target} is not a run of tuban (schema {SCHEMA}); give the folder of a run or its run.json")
    lacking = [key for key in ("inputs", "outputs") if not isinstance(record.get(key), list)]
    if lacking:
        raise UsageError(f"{target} lacks {', '.join(lacking)}; restore it from a backup or run again")
    return record


def _compare(name: str, path: Path, entry: Mapping[str, Any], *, sidecars: bool) -> list[Difference]:
    if not path.exists():
        return [Difference("missing", name, f"not at {path}")]
    now = fingerprint(str(path), sidecars=sidecars)
    if now.sha256 == entry["sha256"]:
        return []
    return [Difference("changed", name, f"sha256 is {now.sha256[:12]}…, run.json says {entry['sha256'][:12]}…")]


def _sha256(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {"tuban": tuban.__version__, "python": platform.python_version(), "platform": sys.platform}
    # rasterio and pyogrio wheels each carry a GDAL of their own.
    found["gdal_raster"] = rasterio.__gdal_version__
    found["gdal_vector"] = ".".join(map(str, pyogrio.__gdal_version__))
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
