"""Gross and net farmland: what of a parcel is ridge, ditch or margin and not field."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tuban.postprocess.rule_evidence import Feature
    from tuban.postprocess.rule_parts import Ridge


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def ridge_share(values: dict[str, str], ridge: Ridge) -> float | None:
    """Return the share of a parcel that is ridge, 0 to below 1, or None where its fields do not say.

    The stated share comes first, then the ridge area over the parcel's. A share outside of 0 to 1 (percent, say) is not
    guessed at.

    Example:
        >>> from tuban.postprocess.rule_parts import Ridge
        >>> fields = Ridge(share="SHARE", area="RIDGES", of="AREA")
        >>> ridge_share({"SHARE": "0.1250"}, fields), ridge_share({"RIDGES": "50", "AREA": "1000"}, fields)
        (0.125, 0.05)
        >>> ridge_share({"SHARE": "12.5"}, fields) is None
        True
    """
    share = _number(values.get(ridge.share or ""))
    if math.isnan(share):
        share = _number(values.get(ridge.area or "")) / (_number(values.get(ridge.of or "")) or math.nan)
    return share if 0 <= share < 1 else None


def net_share(parcels: Iterable[tuple[Feature, float]], ridge: Ridge) -> tuple[float, float]:
    """Return the net share of some parcels' areas, and the share of the area whose parcels state no ridges.

    Args:
        parcels: features with their field values, and the area of each under a change, m2.
        ridge: the fields.

    Returns:
        `(net, unknown)`, each 0 to 1. Parcels that state nothing count in full in `net`; without parcels
        all is unknown.
    """
    gross = net = unknown = 0.0
    for feature, area in parcels:
        share = ridge_share(feature["values"], ridge)
        gross += area
        net += area * (1 - (share or 0.0))
        unknown += area if share is None else 0.0
    return (net / gross, unknown / gross) if gross else (1.0, 1.0)
