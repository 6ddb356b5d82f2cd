"""A finding's trace (JSON, the values behind a verdict) as rows that people can read; unknown keys show as they are."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def unfold(trace: object, words: Mapping[str, str], *, yes: str = "yes", no: str = "no") -> list[tuple[str, list[str]]]:
    """Return label and lines of each value of a trace; what is empty is left out.

    Args:
        trace: JSON of an object; anything else comes back as one row.
        words: labels by key.
        yes: word for true.
        no: word for false.

    Example:
        >>> unfold('{"rule": "P1", "missing": [], "areas_m2": {"net": 12.345}}', {"rule": "规则"})
        [('areas_m2', ['net 12.35']), ('规则', ['P1'])]
    """
    if not isinstance(trace, str) or not trace:
        return []
    try:
        found = json.loads(trace)
    except ValueError:
        return [("", [trace])]
    if not isinstance(found, dict):
        return [("", [trace])]

    said = {"yes": yes, "no": no, **words}
    rows = []
    for key in sorted(found):
        value = found[key]
        if not _empty(value):
            nested = isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value)
            lines = [_text(inner, said) for inner in value] if nested else [_text(value, said)]
            rows.append((words.get(key, key), lines))
    return rows


def _text(value: Any, words: Mapping[str, str]) -> str:
    if isinstance(value, bool):
        return words["yes"] if value else words["no"]
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "—"
    if isinstance(value, dict):
        inside = ((key, inner) for key, inner in value.items() if not _empty(inner))
        return "; ".join(f"{words.get(key, key)} {_text(inner, words)}" for key, inner in inside)
    if isinstance(value, list):
        return ", ".join(_text(inner, words) for inner in value)
    return str(value)


def _empty(value: object) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)
