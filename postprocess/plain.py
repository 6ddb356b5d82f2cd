"""Values of a run in JSON form."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from tuban.errors import UsageError


def plain(value: object, name: str, paths: dict[str, str]) -> Any:
    """Return `value` in JSON form.

    Args:
        value: numbers, text, dates, paths, numpy values, pydantic models, and lists, sets and dicts of them.
        name: what it is called in `run.json`; used in messages and as the key of a path.
        paths: gets the whole path of each path met; the result holds its last part only, so that two equal runs in
            two folders read the same.

    Returns:
        Dicts, lists, text, finite numbers, bools and None; NaN and infinity, which JSON lacks, become None.

    Raises:
        UsageError: some value has no JSON form.

    Example:
        >>> plain({"limit": float("nan"), "day": dt.date(2026, 1, 2)}, "parameters", {})
        {'limit': None, 'day': '2026-01-02'}
    """
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}", paths) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}.{at}", paths) for at, item in enumerate(value)]
    return _scalar(value, name, paths)


def _scalar(value: object, name: str, paths: dict[str, str]) -> object:
    if isinstance(value, Path):
        paths[name] = str(value.resolve())
        return value.name
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise UsageError(f"{name} of run.json is a {type(value).__name__}; use numbers, text, lists, dicts or dates")
