"""Findings of earlier runs, read as one more layer under the changes."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyogrio

from tuban.data.plan import Plan, PlanLayer
from tuban.data.vector import VectorSettings, open_layer, require_columns
from tuban.errors import VectorError
from tuban.postprocess.rule_parts import HISTORY

if TYPE_CHECKING:
    from tuban.postprocess.rules import RulePack

logger = logging.getLogger(__name__)

NEEDED = ("finding_id", "change_id", "rule_id", "status", "net_m2", "date_after")
FIELDS = ("change_id", "rule_id", "status", "net_m2", "actor", "judgement")
"""Columns of earlier findings that rules may ask for."""


def open_history(path: str | Path, settings: VectorSettings | None = None) -> PlanLayer:
    """Open the findings of earlier runs: a `findings.gpkg`, the folder of a run, or an export that keeps the columns.

    Raises:
        VectorError: no such file or layer, or a column is missing.
    """
    path = Path(path)
    if path.is_dir() and path.suffix.lower() != ".gdb":
        path = path / "findings.gpkg"
    if not path.exists():
        raise VectorError(f"no earlier findings at {path}; give a findings.gpkg, or the folder of a run")
    names = [str(name) for name, _ in pyogrio.list_layers(path)]
    source = open_layer(path, "findings" if "findings" in names else None, settings=settings, allow_empty=True)
    require_columns(source, NEEDED)
    return history_layer(source)


def history_layer(source: Any) -> PlanLayer:
    """Return earlier findings (an opened layer, or a frame) as a layer of role `history`: its codes are rule ids."""
    return PlanLayer(role=HISTORY, source=source, class_field="rule_id", id_field="finding_id", accuracy_m=0.0,
                     valid_from="date_after")  # fmt: skip


def with_layer(plan: Plan, layer: PlanLayer | None) -> Plan:
    """Return the plan with one more layer."""
    if layer is None:
        return plan
    return Plan((*plan.layers, layer), jurisdiction=plan.jurisdiction, path=plan.path, notes=plan.notes)


def months_before(date: dt.date, months: int) -> dt.date:
    """Return the same day some months earlier; the last day of a shorter month.

    Example:
        >>> months_before(dt.date(2024, 3, 31), 1)
        datetime.date(2024, 2, 29)
    """
    year, month = divmod(date.year * 12 + date.month - 1 - months, 12)
    start_of_next = dt.date(year + (month + 1) // 12, (month + 1) % 12 + 1, 1)
    return date.replace(year=year, month=month + 1, day=min(date.day, (start_of_next - dt.timedelta(days=1)).day))


def unresolved(row: dict[str, Any], pack: RulePack) -> bool:
    """Say whether an earlier finding still stands: suspected or in doubt, and no verdict of people has resolved it."""
    judged = pack.judgements.get(str(row.get("judgement") or ""))
    return row.get("status") in {"suspected", "inconclusive"} and not (judged and judged.resolved)
