"""Dates as plans write them."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

_DATE = re.compile(r"(\d{4})\s*[-/.年]?\s*(\d{1,2})\s*[-/.月]?\s*(\d{1,2})\s*日?(?:[T\s].*)?")
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(?:\.0+)?")


def parse_date(value: Any) -> dt.date | None:
    """Return the date in a string, integer, date or timestamp, or None where there is none that exists.

    Accepted: YYYYMMDD (text or number), YYYY-MM-DD, YYYY/MM/DD, YYYY.MM.DD, YYYY年M月D日, a time behind it ignored.

    Example:
        >>> parse_date(20240229), parse_date("2024/2/30"), parse_date("2024年3月1日")
        (datetime.date(2024, 2, 29), None, datetime.date(2024, 3, 1))
    """
    if isinstance(value, dt.datetime):
        # pandas' NaT is a datetime whose year is NaN.
        return value.date() if value.year == value.year else None
    if isinstance(value, dt.date):
        return value
    if value is None or (isinstance(value, float) and value != value):  # noqa: PLR0124
        return None
    text = str(value).strip()
    match = _COMPACT.fullmatch(text) or (_DATE.fullmatch(text) if re.search(r"[-/.年]", text) else None)
    if match is None:
        return None
    try:
        return dt.date(*(int(part) for part in match.groups()))
    except ValueError:
        return None
