"""A folder whose results appear together: worked on aside, moved to their final names when all is done."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # pragma: no cover (Windows has no locks on folders; there two runs into one folder collide)
    fcntl = None  # type: ignore[assignment]

from tuban.errors import OutputError, TubanError, UsageError
from tuban.postprocess.manifest import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# What earlier runs may have left under these names; a new run replaces all of them, so that none is mistaken for its
# own.
RESULTS = (
    FILE_NAME,
    "findings.gpkg",
    "change.tif",
    "probability.tif",
    "landcover_before.tif",
    "landcover_after.tif",
    "landcover.tif",
    "confidence.tif",
    "landcover.gpkg",
    "clouds_image.tif",
    "clouds_before.tif",
    "clouds_after.tif",
    "unseen.tif",
    "report.html",
)
_PREFIX = ".tuban-run-"
# What the system says when it will not store any more; other OSErrors are faults of ours and keep their traceback.
_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextlib.contextmanager
def staged(out: Path, inputs: Iterable[str | Path | None] = ()) -> Iterator[Path]:
    """Yield a working folder inside `out`; on success its files replace those of an earlier run, `run.json` last.

    After an error nothing of the new run is left, folders made for it included, and the earlier run is as it was.

    Args:
        out: folder of the results.
        inputs: what the run reads; none may be a file that it would replace.

    Raises:
        OutputError: `out` cannot be made or written, another run is at work in it, or the disk is full.
        UsageError: an input would be replaced.
    """
    _keep(out, inputs)
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    with contextlib.ExitStack() as undo:
        undo.callback(_remove_empty, made)
        try:
            out.mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=out)
        except OSError as error:
            raise OutputError(
                f"cannot write into {out}: {error.strerror or error}; choose a folder you may write to"
            ) from error
        with _alone(out), folder as name:
            _sweep(out, Path(name))
            work = Path(name) / "new"
            try:
                work.mkdir()
                yield work
            except OSError as error:
                if isinstance(error, TubanError) or error.errno not in _STORAGE:
                    raise
                raise OutputError(f"cannot write into {out}: {error.strerror}; free space and run again") from error
            _publish(work, Path(name) / "old", out)
        undo.pop_all()


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # not empty: somebody else uses it by now
            folder.rmdir()


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock the folder for this process; a killed process leaves no lock."""
    if fcntl is None:
        yield
        return
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"another run is writing into {out}; wait for it or choose another --out") from error
        except OSError:
            # A network folder without locks: two runs at once are the user's to avoid.
            pass
        yield
    finally:
        os.close(handle)


def _sweep(out: Path, mine: Path) -> None:
    """Remove what killed runs left; whoever holds the lock is the only one at work here."""
    for stale in out.glob(f"{_PREFIX}*"):
        if stale != mine:
            shutil.rmtree(stale, ignore_errors=True)


def _keep(out: Path, inputs: Iterable[str | Path | None]) -> None:
    """Refuse to replace what is read."""
    for given in inputs:
        if given is None or not Path(given).exists():
            continue
        path, folder = Path(given).resolve(), out.resolve()
        if path.parent == folder and path.name in RESULTS:
            raise UsageError(
                f"{given} is an input and would be replaced by the results; choose another --out than {out}"
            )


def _publish(work: Path, old: Path, out: Path) -> None:
    """Move results to their names; where that fails, put the earlier ones back."""
    done: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        source.replace(target)
        done.append((source, target))

    try:
        old.mkdir()
        for name in RESULTS:
            if (out / name).exists():
                move(out / name, old / name)
        for path in sorted(work.iterdir(), key=lambda path: path.name == FILE_NAME):
            move(path, out / path.name)
    except OSError as error:
        for source, target in reversed(done):
            target.replace(source)
        raise OutputError(
            f"cannot move results into {out}: {error.strerror or error}; free the files and run again"
        ) from error
