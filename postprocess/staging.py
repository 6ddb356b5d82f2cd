"""A folder whose results appear together: worked on aside, moved to their final names when all is done."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tuban.errors import OutputError
from tuban.postprocess.manifest import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

# What an earlier run may have left; a new run replaces all of it, so that nothing old is mistaken for its own.
RESULTS = (
    FILE_NAME,
    "findings.gpkg",
    "change.tif",
    "probability.tif",
    "landcover_before.tif",
    "landcover_after.tif",
    "report.html",
)


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield a working folder inside `out`; on success its files replace those of an earlier run, `run.json` last.

    After an error nothing of the new run is left and the earlier run is as it was.

    Raises:
        OutputError: `out` cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".tuban-run-", dir=out)
    except OSError as error:
        raise OutputError(
            f"cannot write into {out}: {error.strerror or error}; choose a folder you may write to"
        ) from error
    with folder as name:
        work = Path(name)
        yield work
        try:
            for stale in RESULTS:
                (out / stale).unlink(missing_ok=True)
            for path in sorted(work.iterdir(), key=lambda path: path.name == FILE_NAME):
                path.replace(out / path.name)
        except OSError as error:
            raise OutputError(
                f"cannot move results into {out}: {error.strerror or error}; free the files and run again"
            ) from error
