"""Small changes and plans on a metre grid, and a check of them, for the tests of rules."""

from __future__ import annotations

import datetime as dt

import geopandas as gpd
import pyproj
import shapely

from tuban.data.plan import Plan, PlanLayer
from tuban.postprocess.check import CheckContext, check_changes
from tuban.postprocess.history import history_layer
from tuban.postprocess.rules import load_pack

CRS = "EPSG:4547"
EAST, NORTH = 500_000.0, 3_400_000.0
P, B, E, U = "permanent_basic_farmland", "land_use_baseline", "ecological_red_line", "urban_development_boundary"
PACK = load_pack("cn")
DAY = dt.date(2024, 6, 30)
GEOD = pyproj.Geod(a=6378137, rf=298.257222101)


def box(x0, y0, x1, y1):
    return shapely.box(EAST + x0, NORTH + y0, EAST + x1, NORTH + y1)


def changes(*shapes, to="building", source="cropland", confidence=0.9, crs=CRS):
    frame = gpd.GeoDataFrame(
        {"change_id": [f"c{i}" for i in range(len(shapes))], "from_class": source, "to_class": to,
            "confidence": confidence},
        geometry=list(shapes), crs=CRS,
    )  # fmt: skip
    frame["area_m2"] = frame.geometry.area
    frame["area_mu"] = frame["area_m2"] * 3 / 2000
    return frame.to_crs(crs)


def layer(role, *shapes, codes=None, accuracy=0.0, kind=None, crs=CRS, dates=((None, None),), **columns):
    frame = gpd.GeoDataFrame(
        {"ID": [f"{role[:1]}{i}" for i in range(len(shapes))], "DLBM": codes or ["0101"] * len(shapes),
         "FROM": [d[0] for d in dates] * (1 if len(dates) == len(shapes) else len(shapes)),
         "TO": [d[1] for d in dates] * (1 if len(dates) == len(shapes) else len(shapes)), **columns},
        geometry=list(shapes), crs=CRS,
    ).to_crs(crs)  # fmt: skip
    extra = {"class_system": "cn-survey", "class_field": "DLBM"} if role == B else {}
    if role == "permit":
        extra = {"valid_from": "FROM", "valid_to": "TO", "number": "ID"}
    return PlanLayer(role=role, source=frame, kind=kind, id_field="ID", accuracy_m=accuracy, **extra)


def permit(kind, shape, start="2023-01-01", end=None):
    return layer("permit", shape, kind=kind, dates=((start, end),))


def rows(frames, *layers, pack=PACK, settings=None, stats=None, **context):
    """Every finding of a stream of frames, in order."""
    ctx = CheckContext(**{"date_after": DAY, "run_date": DAY, **context})
    found = check_changes(frames, Plan(layers=layers), pack, context=ctx, settings=settings, stats=stats)
    return [row for frame in found for row in frame.to_dict("records")]


def run(frame, *layers, **more):
    """The findings of one frame by rule."""
    return {row["rule_id"]: row for row in rows([frame], *layers, **more)}


def past(*shapes, rule="F1", net=3000.0, date="2024-01-10", status="suspected", actor="", judgement=""):
    """Earlier findings."""
    ids = [f"past{i}" for i in range(len(shapes))]
    frame = gpd.GeoDataFrame(
        {"finding_id": ids, "change_id": ids, "rule_id": rule, "status": status, "net_m2": net, "date_after": date,
         "actor": actor, "judgement": judgement}, geometry=list(shapes), crs=CRS,
    )  # fmt: skip
    return history_layer(frame)


def geod_area(shape, crs=CRS):
    lonlat = gpd.GeoSeries([shape], crs=crs).to_crs(4490).iloc[0]
    return abs(GEOD.geometry_area_perimeter(lonlat)[0])


ALL = box(-500, -500, 1000, 1000)
PATCH = box(0, 0, 100, 100)
