"""Who acted, where the inputs say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import geopandas as gpd

    from tuban.postprocess.rule_evidence import Evidence
    from tuban.postprocess.rules import RulePack


def actor_of(changes: gpd.GeoDataFrame, evidence: Evidence, pack: RulePack) -> str:
    """Return the actor of a finding, empty where nothing names one.

    A column of the changes comes first, then the fields of the features under the overlap that the pack names (the
    holder of a permit that is exceeded, say), the largest feature first.

    Args:
        changes: the batch that `evidence.row` points into.
        evidence: what was found.
        pack: names the columns and fields.
    """
    for column in pack.actor.columns:
        if column in changes.columns and (name := _name(changes[column].iloc[evidence.row])):
            return name
    features = [*((f, a) for f, a, _ in evidence.permits), *evidence.parcels]
    for role, fields in pack.actor.fields.items():
        for feature, _ in features:
            if feature["layer"].partition(":")[0].partition("/")[0] == role:
                for field in fields:
                    if name := _name(feature["values"].get(field)):
                        return name
    return ""


def _name(value: Any) -> str:
    text = "" if value is None or value != value else str(value).strip()  # noqa: PLR0124 - NaN
    return "" if text.lower() in {"nan", "none"} else text
