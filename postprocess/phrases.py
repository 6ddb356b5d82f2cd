"""Notes in the reader's language: stages write English, `configs/notes.zh.yaml` holds the Chinese of each pattern."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import yaml


def translated(note: str, lang: str) -> tuple[str, bool]:
    """Return a note in a language, and whether it is in that language; one that is not known stays as it is.

    Example:
        >>> translated("both scenes have the date 2025-03-15", "zh")
        ('两期影像日期相同：2025-03-15', True)
        >>> translated("something new", "zh")
        ('something new', False)
    """
    if lang != "zh" or _chinese(note):
        return note, True
    for pattern, words in _patterns():
        if (found := pattern.fullmatch(note)) is not None:
            return words.format(*found.groups()), True
    return note, False


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return the patterns, the one with the most words of its own first."""
    table: dict[str, str] = yaml.safe_load(files("tuban.configs").joinpath("notes.zh.yaml").read_text(encoding="utf-8"))
    ordered = sorted(table.items(), key=lambda entry: -len(entry[0].replace("{}", "")))
    made = ((re.compile("(.+?)".join(map(re.escape, note.split("{}"))), re.DOTALL), words) for note, words in ordered)
    return tuple(made)


def _chinese(note: str) -> bool:
    """Whether a note already begins in Chinese."""
    return "\u4e00" <= note[:1] <= "\u9fff"
