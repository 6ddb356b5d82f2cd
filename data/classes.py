"""The unified land-cover classes, read from `configs/classes.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from tuban.errors import UsageError


@dataclass(frozen=True, slots=True)
class LandClass:
    """One unified class: raster value, English name, Chinese name, display colour (`#rrggbb`)."""

    value: int
    name: str
    zh: str
    color: str


@cache
def classes() -> dict[int, LandClass]:
    """Return every unified class by raster value, 0 (ignore) included."""
    table = yaml.safe_load(files("tuban.configs").joinpath("classes.yaml").read_text(encoding="utf-8"))
    return {value: LandClass(value=value, **entry) for value, entry in table["classes"].items()}


def class_by_name(name: str) -> LandClass:
    """Return the class called `name`.

    Raises:
        UsageError: no unified class has that name.

    Example:
        >>> class_by_name("cropland").value
        1
    """
    for entry in classes().values():
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in classes().values())
    raise UsageError(f"unknown land-cover class {name!r}; use one of: {known}")
