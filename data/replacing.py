"""A file that takes its name once it is complete."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tuban.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write under; what is there at the end replaces `path`, after an error it is gone.

    Args:
        path: its folder is made where it is missing.

    Raises:
        OutputError: `path` names no file, it or its folder cannot be written, or the body raises an OSError.
    """
    if not path.name:
        raise OutputError(f"cannot write {path}: it is a folder; give the name of a file")
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {path}: {reason}; free space or choose a folder you may write to") from error
    finally:
        with suppress(OSError):  # the folder may be what is wrong
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8 under its name once it is complete.

    Raises:
        OutputError: as `replacing`.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
