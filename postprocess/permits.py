"""Permits and time: when one begins, ends, and what it is worth on a day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datetime as dt

    from tuban.postprocess.rules import RulePack


def later(date: dt.date, years: int) -> dt.date:
    """Return the same day some years on; 29 February becomes 1 March where there is none."""
    try:
        return date.replace(year=date.year + years)
    except ValueError:
        return date.replace(year=date.year + years, month=3, day=1)


def permit_end(row: dict[str, Any], pack: RulePack) -> dt.date | None:
    """Return the last day of a permit: as stated, else the pack's usual length, else None (open end)."""
    if row["valid_to"] is not None:
        end: dt.date = row["valid_to"]
        return end
    permit = pack.permits.get(row["kind"])
    if permit is None or permit.default_years is None or row["valid_from"] is None:
        return None
    return later(row["valid_from"], permit.default_years)


def permit_state(row: dict[str, Any], date: dt.date, pack: RulePack) -> str:
    """Return `valid`, `undated`, `not_yet` or `expired` for a permit on a day; its first and last day are valid."""
    if row["valid_from"] is None:
        return "undated" if row["valid_to"] is None or row["valid_to"] >= date else "expired"
    if row["valid_from"] > date:
        return "not_yet"
    end = permit_end(row, pack)
    return "expired" if end is not None and end < date else "valid"
