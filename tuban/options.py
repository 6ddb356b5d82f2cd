"""Options and arguments that several commands share, and what they stand for."""

from __future__ import annotations

import datetime as dt
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tuban.errors import MissingExtraError, PartialError, UsageError

if TYPE_CHECKING:
    from tuban.postprocess.settings import DetectSettings
    from tuban.postprocess.vector_check import VectorCheckSettings

Judged = TypeVar("Judged", "DetectSettings", "VectorCheckSettings")

Out = Annotated[Path, typer.Option("--out", help="Folder of the results.")]
Plan = Annotated[Path | None, typer.Option(help="plan.yaml, GeoPackage, File GDB or folder of Shapefiles.")]
Rules = Annotated[str, typer.Option(help="Rule pack: a name, or the path of a YAML file.")]
Model = Annotated[str | None, typer.Option(help="Bundle: a name, or a folder. Default: the installed one that fits.")]
Lang = Annotated[str, typer.Option(help="Language of report and styles: zh or en.")]
Backend = Annotated[
    str | None, typer.Option(help="auto (the fastest of those installed, measured), onnx, openvino or torch.")
]
History = Annotated[
    Path | None, typer.Option(help="Findings of earlier runs: a findings.gpkg, or the folder of a run.")
]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Leave out what cannot be read; exit code 3.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides, key=value.", show_default=False)]


def day(text: str | None) -> dt.date | None:
    """Return the date that an option gives, or None where it is not given.

    Raises:
        UsageError: The text is no ISO date.
    """
    try:
        return None if text is None else dt.date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no date; give YYYY-MM-DD") from error


def with_history(settings: Judged, history: Path | None) -> Judged:
    """Return settings with the earlier findings that the option names; as they are where it is not given."""
    if history is None:
        return settings
    return settings.model_copy(update={"check": settings.check.model_copy(update={"history": history})})


def inference_overrides(backend: str | None, *, keep_going: bool) -> list[str]:
    """Return the overrides that the options of inference stand for."""
    chosen = [f"inference.backend={backend}"] if backend else []
    return [*chosen, "inference.keep_going=true"] if keep_going else chosen


def require_train(doing: str, *modules: str) -> None:
    """Refuse what needs modules of the extra `train` where one is not installed.

    Raises:
        MissingExtraError: a module is missing; all that are missing are named.
    """
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise MissingExtraError(f"{doing} needs {' and '.join(missing)}; run: pip install 'tuban[train]'")


def require_whole(record: dict[str, Any]) -> None:
    """End with exit code 3 where a part of the input could not be read; what could be is done.

    Raises:
        PartialError: A block of the run is damaged; the first ten are named.
    """
    if count := record["counts"]["damaged_blocks"]:
        by_reason: dict[str, list[str]] = {}
        for block in record["inference"]["damage"][:10]:
            where = f"row {block['row']}, column {block['col']}, {block['height']} × {block['width']} px"
            by_reason.setdefault(block["reason"], []).append(where)
        named = "; ".join(f"{', '.join(blocks)}: {reason}" for reason, blocks in by_reason.items())
        more = f"; and {count - 10} more in run.json" if count > 10 else ""
        raise PartialError(f"{count} blocks could not be read and hold no result: {named}{more}")
