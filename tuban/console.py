"""What every command shares: logging, progress, the summary as JSON, errors as one line and an exit code."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tuban.errors import TubanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_LOG = "%(asctime)s %(levelname)s %(name)s %(message)s"

_INTERRUPTED = 130  # what typer makes of Ctrl-C


def set_up_logging(*, verbose: bool) -> None:
    """Log to stderr: warnings, or everything tuban does with `verbose`."""
    logging.basicConfig(stream=sys.stderr, format=_LOG, level=logging.WARNING, force=True)
    logging.getLogger("tuban").setLevel(logging.INFO if verbose else logging.WARNING)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback `(stage, done, total)`: a bar on a terminal, a line for each tenth in a log."""
    if not sys.stderr.isatty():
        yield _tenths()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        yield show


def _tenths() -> Callable[[str, int, int], None]:
    said: dict[str, int] = {}

    def line(stage: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > said.get(stage, -1):
            said[stage] = tenth
            sys.stderr.write(f"{stage}: {10 * tenth} %\n")

    return line


def show(summary: Mapping[str, Any], lines: list[str], *, as_json: bool) -> None:
    """Write the result to stdout: one JSON object, or lines for people."""
    text = json.dumps(summary, ensure_ascii=False, default=str) if as_json else "\n".join(lines)
    sys.stdout.write(text + "\n")


def run(command: Callable[[], object]) -> int:
    """Run the command line and return its exit code; an error raised on purpose becomes one line on stderr."""
    try:
        command()
    except TubanError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            return _interrupted()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _interrupted() -> int:
    sys.stderr.write("error: interrupted; nothing of this run was kept\n")
    return 1
