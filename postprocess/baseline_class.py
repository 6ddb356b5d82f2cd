"""What changes were before, from the plan's baseline layer: for models that tell change and no land cover."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import shapely
import yaml
from pyproj import CRS

from tuban.data.classes import classes
from tuban.postprocess.overlay import OverlayCounts, collect

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    import geopandas as gpd

    from tuban.data.plan import Plan
    from tuban.data.plan_layer import PlanLayer

BASELINE = "land_use_baseline"


def with_baseline(
    changes: Iterable[gpd.GeoDataFrame], plan: Plan | None, counts: Counter[str]
) -> Iterator[gpd.GeoDataFrame]:
    """Yield change polygons with `from_class` out of the baseline layer, where that is known.

    Args:
        changes: frames with `from_class`; each is read against the layer once.
        plan: its layers of role `land_use_baseline` are asked; without one that has codes nothing is changed.
        counts: `from_class_baseline` is set to how many changes got their class here, and `from_class_unknown` to how
            many did not. For run.json.

    Yields:
        The frames; `from_class` is the class under the largest part of a change, `ignore` where the layer has none.
    """
    layers = tells_classes(plan)
    counts["from_class_baseline"] = 0
    for frame in changes:
        table = classes()
        values = _largest(frame, layers)
        known = values > 0
        counts["from_class_baseline"] += int(known.sum())
        counts["from_class_unknown"] -= int(known.sum())
        names = frame["from_class"].to_numpy(dtype=object).copy()
        names[known] = [table[int(value)].name for value in values[known]]
        yield frame.assign(from_class=names)


def tells_classes(plan: Plan | None) -> tuple[PlanLayer, ...]:
    """Return the baseline layers whose codes say what the land was; others have no codes, or codes unknown here."""
    layers = plan.of(BASELINE) if plan is not None else ()
    return tuple(layer for layer in layers if layer.class_field is not None and _codes(layer.class_system))


def _largest(frame: gpd.GeoDataFrame, layers: tuple[PlanLayer, ...]) -> np.ndarray:
    """Return the unified class under most of each change, `(n,)`, 0 where unknown."""
    areas = np.zeros((len(frame), max(classes()) + 1))
    shapes = np.asarray(frame.geometry.values, dtype=object)
    pieces = collect(layers, shapes, CRS.from_user_input(frame.crs), OverlayCounts())
    values = [_value(row["code"], _codes(row["system"])) for row in pieces.rows]
    # Only which class has most of a change is asked, so areas in the plane of the images will do.
    np.add.at(areas, (pieces.patch, np.array(values, dtype=int)), shapely.area(pieces.geometry))
    areas[:, 0] = 0
    best: np.ndarray = areas.argmax(axis=1)
    return best


def _value(code: str, codes: dict[str, int]) -> int:
    """Return the class of a code, or of its longest beginning of two characters or more.

    One character is a code and no group of codes: in MapBiomas 3 is forest and 35 oil palm.
    """
    beginnings = (code, *(code[:end] for end in range(len(code) - 1, 1, -1)))
    return next((codes[known] for known in beginnings if known in codes), 0)


@cache
def _codes(system: str | None) -> dict[str, int]:
    text = files("tuban.configs").joinpath("baseline_classes.yaml").read_text(encoding="utf-8")
    found: dict[str, int] = yaml.safe_load(text).get(system, {})
    return found
