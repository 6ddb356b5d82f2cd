"""Small generated findings, changes and pixels for the tests of outputs."""

from __future__ import annotations

from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine

from tuban.postprocess.layers import CHANGE_COLUMNS, FINDING_COLUMNS

STATUSES = ("suspected", "inconclusive", "permitted", "compliant", "undetermined")
REASON = "P1：图斑与永久基本农田图斑 TBBH=0123（DLBM=0101 水田）重叠，未见有效农转用批复"


def changes_frame(count: int, start: int = 0, crs: str = "EPSG:4547") -> gpd.GeoDataFrame:
    """Squares of 30 m, 60 m apart, along a row of the grid of `Pixels`."""
    numbers = range(start, start + count)
    data = {
        "change_id": [f"c{n:04d}" for n in numbers],
        "from_class": "cropland",
        "to_class": ["building" if n % 2 else "road" for n in numbers],
        "area_m2": [900.0 + n for n in numbers],
        "area_mu": [(900.0 + n) * 0.0015 for n in numbers],
        "confidence": 0.9,
        "compactness": 0.78,
        "touches_edge": False,
    }
    boxes = [shapely.box(500100 + 60 * n, 2999500, 500130 + 60 * n, 2999530) for n in numbers]
    return gpd.GeoDataFrame(data, geometry=boxes, crs=crs)[[*CHANGE_COLUMNS, "geometry"]]


def findings_frame(count: int, start: int = 0, **over: object) -> gpd.GeoDataFrame:
    """One finding for each of `changes_frame`."""
    frame = changes_frame(count, start).drop(columns=["compactness", "touches_edge"])
    numbers = range(start, start + count)
    frame["finding_id"] = [f"f{n:04d}" for n in numbers]
    frame["rule_id"] = ["P1" if n % 2 else "F1" for n in numbers]
    frame["severity"] = ["S4" if n % 2 else "S3" for n in numbers]
    frame["status"] = [STATUSES[n % 5] for n in numbers]
    frame["zone_role"] = ["permanent_basic_farmland" if n % 2 else "land_use_baseline" for n in numbers]
    frame["overlap_m2"] = frame["area_m2"] / 2
    for name in ("overlap_min_m2", "overlap_max_m2", "farmland_m2", "permitted_m2"):
        frame[name] = 400.0
    frame["conform_m2"] = frame["nonconform_m2"] = np.nan
    frame["date_before"], frame["date_after"] = "2024-03-01", "2025-03-01"
    frame["lon"], frame["lat"] = 114.001, 27.101
    frame["reason"], frame["basis"] = REASON, "土地管理法 35、44 [L]"
    frame["model_id"], frame["rule_pack"] = "s2-change@0.1", "cn@2025.10"
    for name, value in over.items():
        frame[name] = value
    return frame[[*FINDING_COLUMNS, "geometry"]]


class Pixels:
    """A pair of 200 x 220 pixels of 10 m: a gradient, with a bright square on the second date."""

    crs = "EPSG:4547"
    transform = Affine(10.0, 0.0, 499500.0, 0.0, -10.0, 3000500.0)
    height, width = 200, 220

    def __init__(self, *, blue: bool = True) -> None:
        rows, columns = np.mgrid[: self.height, : self.width]
        self.base = (0.05 + 0.2 * columns / self.width + 0.05 * rows / self.height).astype(np.float32)
        self.blue = blue
        self.reads: list[tuple[int, int]] = []

    def read(self, window, names):
        """Boundless: outside is invalid and zero."""
        left, top = int(window.col_off), int(window.row_off)
        width, height = int(window.width), int(window.height)
        self.reads.append((height, width))
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        valid = ((rows >= 0) & (rows < self.height))[:, None] & ((columns >= 0) & (columns < self.width))
        base = self.base[np.clip(rows, 0, self.height - 1)[:, None], np.clip(columns, 0, self.width - 1)]
        before = np.stack([base * (1 + 0.1 * at) for at in range(len(names))])
        after = before.copy()
        # The pixels of the first change: columns 60..62, rows 97..99.
        after[:, ((rows >= 97) & (rows < 100))[:, None] & ((columns >= 60) & (columns < 63))] = 0.6
        for at, name in enumerate(names):
            if name == "B02" and not self.blue:
                before[at] = after[at] = np.nan
        return SimpleNamespace(before=before * valid, after=after * valid, valid=valid)


class Zone:
    """A plan layer held in memory."""

    def __init__(self, role: str, geometry: shapely.Geometry) -> None:
        self.role = role
        self.frame = gpd.GeoDataFrame(geometry=[geometry], crs=Pixels.crs)

    def batches(self, bbox=None, crs=None):
        """Yield what meets the box."""
        frame = self.frame if crs is None else self.frame.to_crs(crs)
        yield frame if bbox is None else frame[frame.intersects(shapely.box(*bbox))]
