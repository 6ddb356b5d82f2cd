"""A batch of changes laid over a plan: what of which role lies under each change, read once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.postprocess.overlay import OverlayCounts, Pieces, collect, moved_outline
from tuban.postprocess.permits import later, permit_end, permit_state

if TYPE_CHECKING:
    import datetime as dt

    import geopandas as gpd
    import numpy.typing as npt
    from pyproj import CRS

    from tuban.data.plan import Plan
    from tuban.postprocess.rules import RulePack

    Array = npt.NDArray[Any]

BASELINE, PERMIT, URBAN = "land_use_baseline", "permit", "urban_development_boundary"


@dataclass
class Sheet:
    """A batch of changes with the plan pieces under them; roles are read once each, on first use.

    Attributes:
        changes: the batch; its CRS is the working CRS.
        image_accuracy_m: positional accuracy of the change outlines, metres.
        date: day at which permits must be valid.
    """

    changes: gpd.GeoDataFrame
    plan: Plan
    pack: RulePack
    image_accuracy_m: float
    date: dt.date
    counts: OverlayCounts = field(default_factory=OverlayCounts)

    def __post_init__(self) -> None:
        self.crs: CRS = self.changes.crs
        self.patch: Array = np.asarray(self.changes.geometry.values, dtype=object)
        self.n = len(self.patch)
        self.to_class = self.changes["to_class"].to_numpy(dtype=object)
        self.from_class = self.changes["from_class"].to_numpy(dtype=object)
        worst = max((layer.accuracy_m for layer in self.plan.layers), default=0.0)
        self._moved: dict[float, Array] = {0.0: self.patch}
        self._grown_most = self.moved(math.hypot(worst, self.image_accuracy_m))
        self._pieces: dict[str, Pieces] = {}

    def moved(self, metres: float) -> Array:
        """Return the changes grown (or shrunk) by a distance."""
        if metres not in self._moved:
            self._moved[metres] = moved_outline(self.patch, self.crs, metres)
        return self._moved[metres]

    def pieces(self, role: str) -> Pieces:
        """Return the pieces of a role under the changes."""
        if role not in self._pieces:
            wanted = tuple(
                sorted({s.field for rule in self.pack.rules for s in rule.severity_if if s.zone == role and s.field})
            )
            self._pieces[role] = collect(self.plan.of(role), self._grown_most, self.crs, self.counts, fields=wanted)
        return self._pieces[role]

    def zone(self, role: str) -> Array:
        """Return the part of a role's zone under each grown change."""
        return self.pieces(role).union(self.n, "all")

    def parcels(self, groups: tuple[str, ...]) -> Array:
        """Return the part of each grown change on baseline parcels of some code groups."""
        return self.pieces(BASELINE).union(
            self.n, groups, lambda row: self.pack.in_group(row["code"], groups, row["system"] or self.pack.class_system)
        )

    def surveyed(self) -> Array:
        """Return the part of each grown change on parcels with a code that the class system knows."""
        known = {layer.class_system: layer.codes() for layer in self.plan.of(BASELINE)}
        return self.pieces(BASELINE).union(
            self.n, "known", lambda row: (table := known.get(row["system"])) is not None and table.knows(row["code"])
        )

    def permits(self, kinds: tuple[str, ...], state: str) -> Array:
        """Return the part of each grown change under permits of some kinds in some state."""
        return self.pieces(PERMIT).union(
            self.n,
            (kinds, state),
            lambda row: row["kind"] in kinds and permit_state(row, self.date, self.pack) == state,
        )

    def expired(self, kinds: tuple[str, ...], years: int) -> Array:
        """Return the part of each grown change under permits that ended at least `years` ago."""

        def keep(row: dict[str, Any]) -> bool:
            end = permit_end(row, self.pack)
            return row["kind"] in kinds and end is not None and later(end, years) <= self.date

        return self.pieces(PERMIT).union(self.n, (kinds, "expired", years), keep)
