"""Plans: sets of boundary layers, each with a role, read piece by piece."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tuban.data.plan_layer import STANDARD_COLUMNS, PlanLayer
from tuban.data.plan_open import open_spec, plan_spec
from tuban.data.plan_table import plan_defaults
from tuban.data.vector import VectorSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

__all__ = ["STANDARD_COLUMNS", "Plan", "PlanLayer"]


@dataclass(frozen=True)
class Plan:
    """A set of layers with roles. `notes` say what was guessed, defaulted or left aside when it was opened."""

    layers: tuple[PlanLayer, ...]
    jurisdiction: str = field(default_factory=lambda: plan_defaults().jurisdiction)
    path: str = "memory"
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path, *, settings: VectorSettings | None = None) -> Plan:
        """Open a `plan.yaml`, or a GeoPackage, File GDB or folder of Shapefiles with recognised layer names.

        Every layer is opened and checked (CRS, columns, not empty); no features are read.

        Raises:
            PlanError: the plan or one of its layers cannot be used; the message names file, key and remedy.
        """
        path, settings = Path(path), settings or VectorSettings()
        notes: list[str] = []
        spec = plan_spec(path, notes)
        layers = tuple(open_spec(entry, path, spec.jurisdiction, settings, notes) for entry in spec.layers)
        for note in notes:
            logger.info("%s", note)
        return cls(layers=layers, jurisdiction=spec.jurisdiction, path=str(path), notes=tuple(notes))

    def of(self, role: str, kinds: Sequence[str] | None = None) -> tuple[PlanLayer, ...]:
        """Return the layers of a role, of permits only those of some kinds."""
        return tuple(entry for entry in self.layers if entry.role == role and (kinds is None or entry.kind in kinds))

    def repairs(self) -> dict[str, dict[str, int]]:
        """Return the repair counts so far of each layer, JSON-ready."""
        return {entry.name: entry.counts.as_dict() for entry in self.layers}
