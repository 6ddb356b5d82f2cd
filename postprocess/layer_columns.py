"""The layers of `findings.gpkg` and their columns, as the contract names them."""

from __future__ import annotations

from typing import Literal

Columns = dict[str, Literal["str", "float", "int", "bool"]]

FINDING_COLUMNS: Columns = {
    "finding_id": "str",
    "change_id": "str",
    "rule_id": "str",
    "severity": "str",
    "status": "str",
    "zone_role": "str",
    "from_class": "str",
    "to_class": "str",
    "area_m2": "float",
    "area_mu": "float",
    "overlap_m2": "float",
    "overlap_min_m2": "float",
    "overlap_max_m2": "float",
    "farmland_m2": "float",
    "permitted_m2": "float",
    "conform_m2": "float",
    "nonconform_m2": "float",
    "confidence": "float",
    "date_before": "str",
    "date_after": "str",
    "lon": "float",
    "lat": "float",
    "reason": "str",
    "basis": "str",
    "model_id": "str",
    "rule_pack": "str",
}
"""Columns of `findings` in order; further columns may follow them."""

CHANGE_COLUMNS: Columns = {
    "change_id": "str",
    "from_class": "str",
    "to_class": "str",
    "area_m2": "float",
    "area_mu": "float",
    "confidence": "float",
    "compactness": "float",
    "touches_edge": "bool",
}
"""Columns of `changes` in order; further columns may follow them."""

PLAN_QA_COLUMNS: Columns = {
    "check": "str",
    "severity": "str",
    "layer": "str",
    "role": "str",
    "feature": "str",
    "area_m2": "float",
    "message": "str",
}
"""Columns of `plan_qa` in order; further columns may follow them."""

UNSEEN_COLUMNS: Columns = {
    "cause": "str",
    "cause_before": "str",
    "cause_after": "str",
    "area_m2": "float",
    "area_mu": "float",
}
"""Columns of `unseen` in order: what hides the land, most telling first, and at each date; empty where it is seen."""

LAYERS: dict[str, Columns] = {
    "findings": FINDING_COLUMNS,
    "changes": CHANGE_COLUMNS,
    "plan_qa": PLAN_QA_COLUMNS,
    "unseen": UNSEEN_COLUMNS,
}

USUAL = ("findings", "changes", "plan_qa")
"""Layers of every `findings.gpkg`. `unseen` comes only from imagery: an empty one would say that all was seen."""
