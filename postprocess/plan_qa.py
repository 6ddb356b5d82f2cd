"""Quality of a plan: geometry, codes, ids, area fields, and zones that contradict one another (多规合一)."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS

from tuban.data.vector import plan_table
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.overlay import OverlayCounts, collect, measured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tuban.data.plan import Plan, PlanLayer

logger = logging.getLogger(__name__)

COLUMNS = ("check", "severity", "layer", "role", "feature", "area_m2", "message")
ZONES = ("permanent_basic_farmland", "ecological_red_line", "urban_development_boundary")
AREA_TOLERANCE_M2 = 6.67  # 0.01 mu [R]
_MAX_ROWS = 10_000


@dataclass
class PlanQA:
    """The problems of a plan.

    Attributes:
        problems: frame with `COLUMNS` and the feature's geometry in EPSG:4490 (empty where it has none).
        summary: problems by check and layer, features and repairs by layer, notes; JSON-ready.
    """

    problems: gpd.GeoDataFrame
    summary: dict[str, Any]


@dataclass
class _Log:
    """Collects problems; counts them all, keeps the first `_MAX_ROWS`, says how many are not shown."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    geometries: list[Any] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, check: str, severity: str, layer: PlanLayer, feature: str, message: str, *, area: float = 0.0,
            geometry: Any = None) -> None:  # fmt: skip
        self.counts[f"{check}:{layer.name}"] += 1
        if len(self.rows) < _MAX_ROWS:
            values = (check, severity, layer.name, layer.role, feature, round(area, 2), message)
            self.rows.append(dict(zip(COLUMNS, values, strict=True)))
            self.geometries.append(geometry)


def validate_plan(plan: Plan) -> PlanQA:
    """Return the problems of a plan.

    Checks: geometry (mended on load), codes that the class system does not know, code and name that do not belong
    together, ids that repeat, area fields against the ellipsoidal area, the three zones that overlap (Q1).
    Layers are streamed; in memory are their ids and the problems.

    Raises:
        VectorError: a layer became unreadable.
    """
    log, features = _Log(), {}
    for layer in plan.layers:
        features[layer.name] = _layer(layer, log)
    for first, second in combinations([entry for role in ZONES for entry in plan.of(role)], 2):
        if first.role != second.role:
            _conflicts(first, second, log)
    problems = gpd.GeoDataFrame(log.rows, columns=list(COLUMNS), geometry=log.geometries, crs="EPSG:4490")
    summary = {
        "path": plan.path, "problems": dict(sorted(log.counts.items())), "shown": len(log.rows),
        "total": sum(log.counts.values()), "features": features, "repairs": plan.repairs(), "notes": list(plan.notes),
        "crs": {layer.name: layer.crs.to_string() for layer in plan.layers},
        "not_checked": _not_checked(plan),
    }  # fmt: skip
    return PlanQA(problems, summary)


def _not_checked(plan: Plan) -> list[str]:
    absent = [role for role in ZONES if not plan.of(role)]
    said = [f"no layer of role {role}: its conflicts with other zones are unknown" for role in absent]
    return said + [
        f"{layer.name}: no id field, so repeated ids are unknown" for layer in plan.layers if not layer.id_field
    ]


def _layer(layer: PlanLayer, log: _Log) -> int:
    known: dict[str, int] = {}
    count, before = 0, len(layer.counts.problems)
    for frame in layer.batches(crs="EPSG:4490"):
        count += len(frame)
        for check in (_codes(layer, frame), _areas(layer, frame), _ids(layer, frame, known)):
            for name, severity, index, message, area in check:
                row = frame.iloc[index]
                log.add(name, severity, layer, row["plan_id"], message, area=area, geometry=row.geometry)
    for feature, why in layer.counts.problems[before:]:
        log.add("geometry", "S2", layer, f"#{feature}", f"mended on load: {why}")
    if count == 0:
        log.add("empty", "S3", layer, "", "no usable polygon in the layer; export it again")
    return count


Problem = tuple[str, str, int, str, float]


def _codes(layer: PlanLayer, frame: gpd.GeoDataFrame) -> Iterator[Problem]:
    table = layer.codes()
    if table is None:
        return
    for index, (code, name) in enumerate(zip(frame["plan_class"], frame["plan_name"], strict=True)):
        if not table.knows(code):
            yield "code", "S3", index, f"{layer.class_field}={code!r} is not a code of {table.id}", 0.0
        elif name and not table.pair_fits(code, name):
            yield "code_name", "S2", index, f"{code} is {table.name(code)} in {table.id}, but the name says {name}", 0.0


def _areas(layer: PlanLayer, frame: gpd.GeoDataFrame) -> Iterator[Problem]:
    for name, unit in plan_table()["roles"].get(layer.role, {}).get("area_fields", {}).items():
        if name not in frame.columns:
            continue
        # Measured on the vertices as delivered; the change of CRS to degrees keeps them.
        computed = geodesic_area(frame.geometry.values, frame.crs)
        stated = np.array([_number(value) for value in frame[name]]) * unit
        gap = np.abs(stated - computed)
        for index in np.flatnonzero(~(gap <= AREA_TOLERANCE_M2)):
            message = f"{name}={stated[index]:.2f} m2, computed {computed[index]:.2f} m2 on the ellipsoid"
            yield "area", "S1", int(index), message, float(computed[index])


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _ids(layer: PlanLayer, frame: gpd.GeoDataFrame, known: dict[str, int]) -> Iterator[Problem]:
    if layer.id_field is None:
        return
    for index, name in enumerate(frame["plan_id"]):
        known[name] = known.get(name, 0) + 1
        if known[name] > 1:
            yield "duplicate_id", "S2", index, f"{layer.id_field}={name} stands {known[name]} times", 0.0


def _conflicts(first: PlanLayer, second: PlanLayer, log: _Log) -> None:
    crs = CRS.from_epsg(4490)
    for frame in first.batches(crs=crs):
        zones = np.asarray(frame.geometry.values, dtype=object)
        pieces = collect((second,), zones, crs, OverlayCounts())
        sums: dict[tuple[int, str], list[Any]] = {}
        for patch, geometry, row in zip(pieces.patch, pieces.geometry, pieces.rows, strict=True):
            sums.setdefault((int(patch), row["plan_id"]), []).append(geometry)
        shared = np.array([shapely.union_all(parts) for parts in sums.values()], dtype=object)
        for (index, other), geometry, area in zip(sums, shared, measured(shared, crs), strict=True):
            if area > AREA_TOLERANCE_M2:
                feature = frame["plan_id"].iloc[index]
                message = f"{first.role} {feature} and {second.role} {other} overlap by {area:.2f} m2"
                log.add("Q1", "S2", first, feature, message, area=float(area), geometry=geometry)
