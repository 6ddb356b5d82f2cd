"""A batch of changes laid over a plan: what of which role lies under each change, read once."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tuban.postprocess.history import FIELDS
from tuban.postprocess.overlay import OverlayCounts, Pieces, collect, measured, moved_outline, robust
from tuban.postprocess.permits import later, permit_end, permit_state
from tuban.postprocess.rule_parts import BASELINE, CHANGES, HISTORY, PERMIT

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    import geopandas as gpd
    import numpy.typing as npt
    from pyproj import CRS

    from tuban.data.plan import Plan, PlanLayer
    from tuban.postprocess.rule_evidence import Feature
    from tuban.postprocess.rule_parts import Cluster, PermitArea, Where
    from tuban.postprocess.rules import Rule, RulePack

    Array = npt.NDArray[Any]


@dataclass
class Sheet:
    """A batch of changes with the plan pieces under them; roles are read once each, on first use.

    Attributes:
        changes: the batch; its CRS is the working CRS.
        plan: the layers; those of roles `history` and `changes` are earlier findings and the run's own changes.
        rules: those in force.
        image_accuracy_m: positional accuracy of the change outlines, metres.
        date: day at which permits must be valid.
        map_scale: denominator of the maps that layers without a stated accuracy were drawn at; None: not known.
    """

    changes: gpd.GeoDataFrame
    plan: Plan
    pack: RulePack
    rules: tuple[Rule, ...]
    image_accuracy_m: float
    date: dt.date
    counts: OverlayCounts = field(default_factory=OverlayCounts)
    map_scale: int | None = None

    def __post_init__(self) -> None:
        self.crs: CRS = self.changes.crs
        self.patch: Array = np.asarray(self.changes.geometry.values, dtype=object)
        self.n = len(self.patch)
        self.to_class = self.changes["to_class"].to_numpy(dtype=object)
        self.from_class = self.changes["from_class"].to_numpy(dtype=object)
        self.area = self.changes["area_m2"].to_numpy(dtype=float)
        self._moved: dict[float, Array] = {0.0: self.patch}
        self._pieces: dict[str, Pieces] = {}
        self._candidates: dict[int, Array] = {}

    def accuracy_m(self, layer: PlanLayer) -> float:
        """Return the accuracy of a layer: as stated, else at least the pack's edge tolerance at its scale."""
        if layer.accuracy_stated or self.map_scale is None:
            return layer.accuracy_m
        return max(layer.accuracy_m, self.pack.edge_tolerance.clear_mm / 1000 * self.map_scale)

    def tolerance_m(self, roles: tuple[str, ...]) -> float:
        """Return how far a boundary may be off: the worst layer of some roles and the image together."""
        layers = [layer for role in roles for layer in self.plan.of(role)]
        return math.hypot(max(map(self.accuracy_m, layers), default=0.0), self.image_accuracy_m)

    def candidates(self, rule: Rule) -> Array:
        """Return the changes whose classes and size a rule asks for, `(k,)` positions in the batch."""
        key = id(rule)
        if key not in self._candidates:
            wanted, before = self.pack.classes(rule.when.to), self.pack.classes(rule.when.from_)
            most = math.inf if rule.when.max_patch_m2 is None else rule.when.max_patch_m2
            fits = (self.area >= rule.when.min_patch_m2) & (self.area <= most)
            for classes, column in ((wanted, self.to_class), (before, self.from_class)):
                if classes:
                    fits &= np.fromiter((name in classes for name in column), dtype=bool, count=self.n)
            self._candidates[key] = np.flatnonzero(fits)
        return self._candidates[key]

    def moved(self, metres: float) -> Array:
        """Return the changes grown (or shrunk) by a distance."""
        if metres not in self._moved:
            self._moved[metres] = moved_outline(self.patch, self.crs, metres)
        return self._moved[metres]

    def pieces(self, role: str) -> Pieces:
        """Return the pieces of a role under the changes."""
        if role not in self._pieces:
            layers = self.plan.of(role)
            self._pieces[role] = collect(layers, self._reach(role), self.crs, self.counts, fields=self._fields(role))
        return self._pieces[role]

    def _reach(self, role: str) -> Array:
        """Return the changes grown as far as any rule looks for features of a role."""
        tolerance = self.tolerance_m(tuple({layer.role for layer in self.plan.layers}))
        grown = self.moved(tolerance)
        further = np.zeros(self.n)
        for rule in self.rules:
            distances = [rule.when.strip_m] if role in rule.when.zones else []
            distances += [rule.when.near.within_m] if rule.when.near and rule.when.near.role == role else []
            distances += [s.cluster.within_m for s in rule.severity_if if s.cluster and role == CHANGES]
            rows = self.candidates(rule)
            further[rows] = np.maximum(further[rows], max(distances, default=0.0))
        if further.any():
            grown = grown.copy()
            for distance in np.unique(further[further > 0]):
                rows = np.flatnonzero(further == distance)
                grown[rows] = moved_outline(self.patch[rows], self.crs, tolerance + float(distance))
        return grown

    def _fields(self, role: str) -> tuple[str, ...]:
        """Return the fields of a role that anything asks for."""
        if role == HISTORY:
            return FIELDS
        if role == CHANGES:
            return ("to_class",)
        ridge = self.pack.farmland.ridge
        wanted = {w.field for rule in self.rules for w in rule.features() if w.role == role and w.field}
        if role == BASELINE:
            wanted |= {name for name in (ridge.share, ridge.area, ridge.of) if name}
        return tuple(sorted(wanted | set(self.pack.actor.fields.get(role, ()))))

    def zone(self, role: str) -> Array:
        """Return the part of a role's zone under each grown change."""
        return self.pieces(role).union(self.n, "all")

    def strip(self, role: str, metres: float) -> Array:
        """Return the zone of a role with a strip around it, near each change."""
        zone = self.zone(role).copy()
        rows = np.flatnonzero(~shapely.is_empty(zone))
        zone[rows] = moved_outline(zone[rows], self.crs, metres)
        return zone

    def selected(self, where: Where) -> Callable[[Feature], bool]:
        """Return the test whether a feature is one of those that `where` chooses."""

        def keep(row: Feature) -> bool:
            if where.groups and not self.pack.in_group(row["code"], where.groups, row["system"]):
                return False
            return where.matches is None or re.search(where.matches, row["values"].get(where.field, "")) is not None

        return keep

    def features(self, where: Where) -> Array:
        """Return the part of each grown change on the features that `where` chooses."""
        return self.pieces(where.role).union(self.n, where, self.selected(where))

    def near(self, where: Where, within_m: float, rows: Array) -> Array:
        """Say which of some changes have such a feature within a distance, `(len(rows),)` bool."""
        grown = moved_outline(self.patch[rows], self.crs, within_m)
        return np.asarray(shapely.intersects(grown, self.features(where)[rows]))

    def parcels(self, groups: tuple[str, ...]) -> Array:
        """Return the part of each grown change on baseline parcels of some code groups."""
        return self.pieces(BASELINE).union(
            self.n, groups, lambda row: self.pack.in_group(row["code"], groups, row["system"])
        )

    def surveyed(self) -> Array:
        """Return the part of each grown change on parcels with a code that the class system knows."""
        known = {layer.class_system: layer.codes() for layer in self.plan.of(BASELINE)}
        return self.pieces(BASELINE).union(
            self.n, "known", lambda row: (table := known.get(row["system"])) is not None and table.knows(row["code"])
        )

    def permits(self, kinds: tuple[str, ...], state: str) -> Array:
        """Return the part of each grown change under permits of some kinds in some state."""

        def part(coverage: str) -> Array:
            chosen = {k for k in kinds if k in self.pack.permits and self.pack.permits[k].coverage == coverage}
            return self.pieces(PERMIT).union(
                self.n,
                (frozenset(chosen), state),
                lambda row: row["kind"] in chosen and permit_state(row, self.date, self.pack) == state,
            )

        covered = part("area")
        if any(self.pack.permits[k].coverage == "whole" for k in kinds if k in self.pack.permits):
            inside = measured(robust(shapely.intersection, part("whole"), self.patch, self.crs, self.counts), self.crs)
            whole = inside > self.pack.area_tolerance_m2
            covered = np.where(whole, self._reach(PERMIT), covered)
        return covered

    def permit_area(self, wanted: PermitArea) -> Array:
        """Return the part of each grown change under permits that are valid, or ended at least some years ago."""

        def keep(row: Feature) -> bool:
            if row["kind"] not in wanted.kinds:
                return False
            if wanted.state == "valid":
                return permit_state(row, self.date, self.pack) == "valid"
            end = permit_end(row, self.pack)
            return end is not None and end < self.date and later(end, wanted.years) <= self.date

        return self.pieces(PERMIT).union(self.n, wanted, keep)

    def cluster_m2(self, cluster: Cluster, rows: Array) -> Array:
        """Return the area of new changes of some classes within a distance of some changes, themselves included, m2."""
        classes = self.pack.classes(cluster.to)
        pieces = self.pieces(CHANGES)
        found = np.zeros(self.n)
        wanted = np.array([row["values"]["to_class"] in classes for row in pieces.rows], dtype=bool)
        used = np.flatnonzero(wanted & np.isin(pieces.patch, rows))
        if used.size:
            around = self.patch.copy()
            around[rows] = moved_outline(self.patch[rows], self.crs, cluster.within_m)
            owners = pieces.patch[used]
            clipped = robust(shapely.intersection, pieces.geometry[used], around[owners], self.crs, self.counts)
            # Changes do not overlap one another, so their clipped areas add up.
            np.add.at(found, owners, measured(clipped, self.crs))
        return np.asarray(found[rows])
