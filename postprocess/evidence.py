"""The imagery and plan behind a finished run, opened again for the pictures of a report, if they are as they were."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tuban.data.pair import PairSettings, open_pair
from tuban.data.plan import Plan
from tuban.data.vector import VectorSettings
from tuban.errors import TubanError
from tuban.postprocess.fingerprint import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tuban.postprocess.sources import PixelSource, ZoneSource


@dataclass(frozen=True, slots=True)
class Evidence:
    """What pictures are drawn from.

    Attributes:
        pair: pixels of both dates; None where there are none.
        zones: layers of the plan.
        notes: why something is not there.
    """

    pair: PixelSource | None = None
    zones: tuple[ZoneSource, ...] = ()
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def reopened(run: Mapping[str, Any], folder: Path) -> Iterator[Evidence]:
    """Yield the pair and plan of a run, opened with the run's settings.

    An input whose hash is not that of `run.json` is not used: pictures of something else are no evidence.

    Args:
        run: a read `run.json`.
        folder: where it lies; paths are tried as recorded, then beside it.
    """
    notes: list[str] = []
    files = {str(entry.get("role")): _intact(entry, run, folder, notes) for entry in run.get("inputs") or ()}
    settings = (run.get("parameters") or {}).get("settings") or {}
    with contextlib.ExitStack() as stack:
        pair = None
        before, after = files.get("before"), files.get("after")
        if before is not None and after is not None:
            try:
                pair = stack.enter_context(_pair(run, before, after, files.get("aoi"), settings))
            except (TubanError, ValidationError) as error:
                notes.append(f"no before/after pictures: the images cannot be opened again ({_line(error)})")
        zones: tuple[ZoneSource, ...] = ()
        plan = files.get("plan")
        layers = [path for role, path in files.items() if role.startswith("plan:")]
        if plan is not None and None not in layers:
            try:
                vector = VectorSettings.model_validate(settings.get("vector") or {})
                zones = tuple(Plan.load(plan, settings=vector).layers)
            except (TubanError, ValidationError) as error:
                notes.append(f"no overlay figures: the plan cannot be opened again ({_line(error)})")
        yield Evidence(pair, zones, tuple(notes))


def _pair(run: Mapping[str, Any], before: Path, after: Path, aoi: Path | None, settings: Mapping[str, Any]) -> Any:
    known = run.get("pair") or {}
    dates = {f"date_{key}": (known.get(key) or {}).get("date") for key in ("before", "after")}
    return open_pair(before, after, aoi=aoi, settings=PairSettings.model_validate(settings.get("pair") or {}), **dates)


def _intact(entry: Mapping[str, Any], run: Mapping[str, Any], folder: Path, notes: list[str]) -> Path | None:
    """Return where an input lies, or None and a note where it is gone, changed or remote."""
    role, name, wanted = str(entry.get("role")), str(entry.get("name")), entry.get("sha256")
    drawn = role in {"before", "after", "aoi", "plan"} or role.startswith("plan:")
    if not drawn:
        return None
    what = "before/after pictures" if role in {"before", "after", "aoi"} else "overlay figures"
    if wanted is None:
        notes.append(f"no {what}: {role} ({name}) is remote and was not hashed")
        return None
    recorded = ((run.get("volatile") or {}).get("paths") or {}).get(f"input:{role}")
    for path in (Path(recorded) if recorded else None, folder / name):
        if path is not None and path.exists():
            if fingerprint(str(path)).sha256 == wanted:
                return path
            notes.append(f"no {what}: {role} ({name}) is not as it was during the run")
            return None
    notes.append(f"no {what}: {role} ({name}) is not where it was during the run")
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
