"""Remembers on this machine what a trial of backends measured, so that a short run need not wait for one of its own.

One small JSON file a key in the user's cache folder (`TUBAN_CACHE` names another). The key is everything on which the
choice rests; a file that cannot be read, or that belongs to another key, is passed over and said.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuban.inference.backends.trial import TrialResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tuban.models.bundle import Bundle

DAYS = 90
"""A trial older than this is measured again: drivers and neighbours on the same host change without a version."""
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch")


def trial_key(bundle: Bundle, wanted: Sequence[str], *, tile: int, threads: int, device: str) -> dict[str, Any]:
    """Return what a trial's choice rests on, JSON-ready.

    Args:
        bundle: the model; its weights' hash counts.
        wanted: outputs that the run asks for.
        tile: largest side fed to the network, pixels. Not the side of the run's windows, which differs from scene to
            scene by a little.
        threads: of the network.
        device: as it was asked for.
    """
    return {
        "weights": bundle.onnx_sha256,
        "wanted": sorted(wanted),
        "tile": tile,
        "threads": threads,
        "device": device,
        "processor": processor(),
        "accelerators": accelerators(),
        "runtimes": {name: _version(name) for name in _RUNTIMES},
    }


def recall(key: Mapping[str, Any], today: dt.date) -> tuple[TrialResult | None, str]:
    """Return the trial remembered for a key, or None and, where a file was there and was not used, why."""
    try:
        path = _path(key)
    except OSError:
        return None, ""  # `remember` will say it
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        day = dt.date.fromisoformat(entry["date"])
        if entry["key"] != json.loads(json.dumps(key)):
            return None, f"the remembered trial {path} belongs to another run and was not used"
        kept = {field.name: entry["result"][field.name] for field in fields(TrialResult)}
        result = TrialResult(**kept | {"notes": (f"remembered trial of {day}", *kept["notes"]), "seconds": 0.0})
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"the remembered trial {path} cannot be read ({type(error).__name__}) and was not used"
    if not 0 <= (today - day).days <= DAYS or result.choice not in ("onnx", "openvino", "torch"):
        return None, f"the remembered trial of {day} is out of date and was not used"
    return result, ""


def remember(key: Mapping[str, Any], result: TrialResult, today: dt.date) -> str:
    """Keep a trial for later runs; return why it could not be kept, or ''."""
    try:
        path = _path(key)
    except OSError as error:
        return f"the trial could not be remembered: {error.strerror}; name a folder with TUBAN_CACHE"
    text = json.dumps({"date": today.isoformat(), "key": key, "result": result.details()}, indent=1, sort_keys=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Runs that end at the same time each write their own file; the last one stays, whole.
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".trial-")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(aside).replace(path)
    except OSError as error:
        return f"the trial could not be remembered in {path.parent} ({error.strerror})"
    return ""


def processor() -> str:
    """Return the processor's name and a digest of the instruction sets it offers, as far as the system tells them."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in lines.items()}
    flags = named.get("flags", named.get("Features", ""))
    name = named.get("model name", platform.machine())
    return f"{name} {hashlib.sha256(' '.join(sorted(flags.split())).encode()).hexdigest()[:8]}"


def accelerators() -> list[str]:
    """Return the graphics cards that this process may use, as far as the system tells them.

    A container started without them has the same processor, packages and, often, the same home folder.
    """
    nodes = sorted(str(node) for node in Path("/dev").glob("nvidia[0-9]*"))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return nodes if named is None else [*nodes, f"CUDA_VISIBLE_DEVICES={named}"]


def folder() -> Path:
    """Return where trials are kept: in `TUBAN_CACHE`, else where the system keeps a user's caches.

    Raises:
        OSError: the user has no home folder, as in some containers.
    """
    named = os.environ.get("TUBAN_CACHE")
    if named:
        return Path(named) / "trials"
    users = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        caches = Path(users) if users else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(errno.ENOENT, "the user has no home folder") from error
    return caches / "tuban" / "trials"


def _path(key: Mapping[str, Any]) -> Path:
    return folder() / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.json"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
