"""Numbers as reports write them."""

from __future__ import annotations

import math


def number_text(value: object, decimals: int = 2) -> str:
    """Return a number with separators; a dash where there is none.

    Example:
        >>> number_text(12345.678), number_text(None)
        ('12,345.68', '—')
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "—"
    return f"{value:,.{decimals}f}"


def metres_text(value: float) -> str:
    """Return the length of a scale bar.

    Example:
        >>> metres_text(500.0), metres_text(2000.0)
        ('500 m', '2 km')
    """
    return f"{value / 1000:g} km" if value >= 1000 else f"{value:g} m"
