"""Quality of a plan: geometry, codes, ids, areas, overlaps, gaps, and zones that contradict one another (多规合一)."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from pyproj import CRS

from tuban.data.geometry_repair import RepairCounts
from tuban.data.plan_layer import box_to
from tuban.data.plan_table import PlanTable, plan_table
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.plan_topology import conflicts, gaps, overlaps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tuban.data.crs_guess import Bounds
    from tuban.data.plan import Plan, PlanLayer

logger = logging.getLogger(__name__)

COLUMNS = ("check", "severity", "layer", "role", "feature", "area_m2", "message")
QA_CRS = "EPSG:4490"  # of the problems, whatever the layers are in


class PlanQASettings(BaseModel):
    """What is looked for within a layer.

    Attributes:
        overlap_min_m2: smaller overlaps of two features are taken for rounding.
        gap_min_m2: smaller holes between features are taken for rounding.
        gap_max_m2: larger holes may be meant.
        tile_features: features looked at together; bounds the memory.
        shown: problems kept in `PlanQA.problems`; all are counted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    overlap_min_m2: float = Field(default=1.0, ge=0)
    gap_min_m2: float = Field(default=1.0, ge=0)
    gap_max_m2: float = Field(default=200.0, ge=0)
    tile_features: int = Field(default=20_000, ge=1)
    shown: int = Field(default=10_000, ge=0)


@dataclass
class PlanQA:
    """The problems of a plan.

    Attributes:
        problems: frame with `COLUMNS` and the feature's geometry in EPSG:4490 (empty where it has none).
        summary: problems by check and layer, features and repairs by layer, notes; JSON-ready.
    """

    problems: gpd.GeoDataFrame
    summary: dict[str, Any]


def validate_plan(
    plan: Plan, *, settings: PlanQASettings | None = None, within: tuple[Bounds, Any] | None = None
) -> PlanQA:
    """Return the problems of a plan.

    Checks: geometry (mended on load), codes that the class system does not know, code and name that do not belong
    together, ids that repeat, area fields against the ellipsoidal area, overlaps and gaps within a layer, exclusive
    zones that overlap (Q1). Which of them apply to a role, `configs/plan/<jurisdiction>.yaml` says.
    Layers are streamed; in memory are their ids, a tile of features, and the problems shown.

    Args:
        plan: the layers.
        settings: defaults where None.
        within: a box and its CRS; only features that meet it are looked at. None looks at all.

    Raises:
        VectorError: a layer became unreadable.
    """
    settings = settings or PlanQASettings()
    frames: list[gpd.GeoDataFrame] = []
    shown = 0
    summary: dict[str, Any] = {}
    for frame in iter_problems(plan, summary, settings=settings, within=within):
        if shown < settings.shown:
            frames.append(frame.iloc[: settings.shown - shown])
            shown += len(frames[-1])
    problems = gpd.pd.concat(frames, ignore_index=True) if frames else empty_problems()
    return PlanQA(problems, {**summary, "shown": shown})


def empty_problems() -> gpd.GeoDataFrame:
    """Return a frame of no problems."""
    return _frame([], QA_CRS)


def iter_problems(
    plan: Plan, summary: dict[str, Any], *, settings: PlanQASettings | None = None,
    within: tuple[Bounds, Any] | None = None,
) -> Iterator[gpd.GeoDataFrame]:  # fmt: skip
    """Yield all problems of a plan in frames, as `validate_plan` does, and fill `summary` when they are drawn."""
    settings, table = settings or PlanQASettings(), plan_table(plan.jurisdiction)
    counts: Counter[str] = Counter()
    features: dict[str, int] = {}
    repairs: dict[str, dict[str, int]] = {}
    for layer in plan.layers:
        box = None if within is None else box_to(within[0], CRS.from_user_input(within[1]), layer.crs)
        found = RepairCounts()
        features[layer.name] = 0
        for frame, read in _layer(layer, table, found, box, settings):
            features[layer.name] += read
            if len(frame):
                counts.update(f"{check}:{layer.name}" for check in frame["check"])
                yield frame
        repairs[layer.name] = found.as_dict()
    exclusive = [layer for role in table.exclusive_zones for layer in plan.of(role)]
    for first, second in combinations(exclusive, 2):
        if first.role != second.role:
            box = None if within is None else box_to(within[0], CRS.from_user_input(within[1]), first.crs)
            for frame in _framed(_conflicts(first, second, table, box, settings), first.crs):
                counts[f"Q1:{first.name}"] += len(frame)
                yield frame
    summary |= {
        "path": plan.path, "problems": dict(sorted(counts.items())), "total": sum(counts.values()),
        "features": features, "repairs": repairs, "notes": list(plan.notes),
        "crs": {layer.name: layer.crs.to_string() for layer in plan.layers}, "settings": settings.model_dump(),
        "not_checked": _not_checked(plan, table, within=within is not None),
    }  # fmt: skip


def _not_checked(plan: Plan, table: PlanTable, *, within: bool) -> list[str]:
    said = ["only features where the changes lie were looked at"] if within else []
    if not table.exclusive_zones:
        said.append(f"no zones of jurisdiction {plan.jurisdiction} are known to exclude one another")
    said += [
        f"no layer of role {role}: its conflicts with other zones are unknown"
        for role in table.exclusive_zones if not plan.of(role)
    ]  # fmt: skip
    for layer in plan.layers:
        usual = table.role(layer.role)
        if not layer.id_field:
            said.append(f"{layer.name}: no id field, so repeated ids are unknown")
        if not usual.overlaps:
            said.append(f"{layer.name}: features of this role may overlap, so overlaps were not looked for")
    return said


Problem = tuple[str, str, str, str, str, float, str, Any]
"""The values of `COLUMNS`, then the geometry."""


def _frame(rows: list[Problem], crs: Any) -> gpd.GeoDataFrame:
    geometry = [row[-1] for row in rows]
    frame = gpd.GeoDataFrame([row[:-1] for row in rows], columns=list(COLUMNS), geometry=geometry, crs=crs)
    return frame.to_crs(QA_CRS)


def _framed(problems: Iterable[Problem], crs: Any, size: int = 1000) -> Iterator[gpd.GeoDataFrame]:
    rows: list[Problem] = []
    for problem in problems:
        rows.append(problem)
        if len(rows) == size:
            yield _frame(rows, crs)
            rows = []
    if rows:
        yield _frame(rows, crs)


def _layer(
    layer: PlanLayer, table: PlanTable, repairs: RepairCounts, box: Bounds | None, settings: PlanQASettings
) -> Iterator[tuple[gpd.GeoDataFrame, int]]:
    """Yield the problems of one layer, and with each frame how many features were read for it."""
    usual = table.role(layer.role)
    known: dict[str, int] = {}
    total = 0

    def problem(check: str, severity: str, feature: str, message: str, area: float = 0.0, shape: Any = None) -> Problem:
        return check, severity, layer.name, layer.role, feature, round(area, 2), message, shape

    for frame in layer.batches(box, counts=repairs):
        total += len(frame)
        rows = [
            problem(name, severity, frame["plan_id"].iloc[at], message, area, frame.geometry.iloc[at])
            for check in (_codes(layer, frame), _areas(frame, usual.area_fields, table), _ids(layer, frame, known))
            for name, severity, at, message, area in check
        ]
        for feature, why in repairs.problems:
            shape = frame.geometry.get(feature)
            done = "left out" if shape is None else "mended on load"
            rows.append(problem("geometry", "S2", f"#{feature}", f"{done}: {why}", 0.0, shape))
        repairs.problems.clear()
        yield _frame(rows, layer.crs), len(frame)
    if total == 0 and box is None:
        yield _frame([problem("empty", "S3", "", "no usable polygon in the layer; export it again")], layer.crs), 0
    if usual.overlaps and total:
        shared = overlaps(layer, least_m2=settings.overlap_min_m2, tile_features=settings.tile_features, within=box)
        said = (
            problem("overlap", "S2", s.feature, f"{s.feature} and {s.other} overlap by {s.area_m2:.2f} m2", s.area_m2,
                    s.geometry)
            for s in shared
        )  # fmt: skip
        yield from ((frame, 0) for frame in _framed(said, layer.crs))
    if usual.gaps and total:
        holes = gaps(
            layer, least_m2=settings.gap_min_m2, most_m2=settings.gap_max_m2, tile_features=settings.tile_features,
            within=box,
        )  # fmt: skip
        said = (
            problem("gap", "S1", s.feature, f"{s.area_m2:.2f} m2 between {s.feature} belong to no feature", s.area_m2,
                    s.geometry)
            for s in holes
        )  # fmt: skip
        yield from ((frame, 0) for frame in _framed(said, layer.crs))


Found = tuple[str, str, int, str, float]
"""Check, severity, place in the frame, message, area."""


def _codes(layer: PlanLayer, frame: gpd.GeoDataFrame) -> Iterator[Found]:
    table = layer.codes()
    if table is None:
        return
    for index, (code, name) in enumerate(zip(frame["plan_class"].tolist(), frame["plan_name"].tolist(), strict=True)):
        if not table.knows(code):
            yield "code", "S3", index, f"{layer.class_field}={code!r} is not a code of {table.id}", 0.0
        elif name and not table.pair_fits(code, name):
            yield "code_name", "S2", index, f"{code} is {table.name(code)} in {table.id}, but the name says {name}", 0.0


def _areas(frame: gpd.GeoDataFrame, area_fields: dict[str, float], table: PlanTable) -> Iterator[Found]:
    for name, unit in area_fields.items():
        if name not in frame.columns:
            continue
        computed = geodesic_area(frame.geometry.values, frame.crs)
        stated = np.array([_number(value) for value in frame[name].tolist()]) * unit
        gap = np.abs(stated - computed)
        for index in np.flatnonzero(~(gap <= table.area_tolerance_m2)):
            message = f"{name}={stated[index]:.2f} m2, computed {computed[index]:.2f} m2 on the ellipsoid"
            yield "area", "S1", int(index), message, float(computed[index])


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _ids(layer: PlanLayer, frame: gpd.GeoDataFrame, known: dict[str, int]) -> Iterator[Found]:
    if layer.id_field is None:
        return
    for index, name in enumerate(frame["plan_id"].tolist()):
        known[name] = known.get(name, 0) + 1
        if known[name] > 1:
            yield "duplicate_id", "S2", index, f"{layer.id_field}={name} stands {known[name]} times", 0.0


def _conflicts(
    first: PlanLayer, second: PlanLayer, table: PlanTable, box: Bounds | None, settings: PlanQASettings
) -> Iterator[Problem]:
    shared = conflicts(
        first, second, least_m2=table.area_tolerance_m2, tile_features=settings.tile_features, within=box
    )
    for s in shared:
        message = f"{first.role} {s.feature} and {second.role} {s.other} overlap by {s.area_m2:.2f} m2"
        yield "Q1", "S2", first.name, first.role, s.feature, round(s.area_m2, 2), message, s.geometry
