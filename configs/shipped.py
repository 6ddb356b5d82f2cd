"""The tables of one kind that tuban ships: the YAML files of one folder, each called by its name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from tuban.errors import UsageError


def shipped_names(folder: str) -> tuple[str, ...]:
    """Return the names of the tables in `configs/<folder>`, sorted.

    Example:
        >>> "cn-weipian" in shipped_names("fields")
        True
    """
    entries = files("tuban.configs").joinpath(folder).iterdir()
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")))


def shipped_text(folder: str, name: str) -> str:
    """Return `configs/<folder>/<name>.yaml`."""
    return files("tuban.configs").joinpath(folder, f"{name}.yaml").read_text(encoding="utf-8")


def named_text(folder: str, name: str, what: str) -> str:
    """Return the table of that name in `configs/<folder>`, or else the text of that file.

    Args:
        folder: where the shipped ones lie.
        name: a name, or the path of a YAML file.
        what: what it is, for the error.

    Raises:
        UsageError: there is none, or it is no text.
    """
    if name in (known := shipped_names(folder)):
        return shipped_text(folder, name)
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"no {what} {name!r}; use one of: {', '.join(known)}, or the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {name} is no UTF-8 text ({error}); save it as UTF-8") from error
