from __future__ import annotations

import geopandas as gpd
import pytest
import shapely

from tuban.data.plan import Plan
from tuban.postprocess.plan_qa import COLUMNS, validate_plan

CRS = "EPSG:4547"
EAST, NORTH = 500_000.0, 3_400_000.0


def box(x0, y0, x1, y1):
    return shapely.box(EAST + x0, NORTH + y0, EAST + x1, NORTH + y1)


def write(path, layer, shapes, **columns):
    gpd.GeoDataFrame(columns, geometry=shapes, crs=CRS).to_file(path, layer=layer)


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "规划 图.gpkg"
    write(
        path,
        "YJJBNTTB",
        [box(0, 0, 100, 100), box(200, 0, 300, 100)],
        YJJBNTTBBH=["p1", "p2"],
        YJJBNTTBMJ=[10000.0, 9000.0],
    )
    write(path, "STBHHX", [box(90, 0, 150, 100), box(300, 0, 400, 100)], HXBM=["h1", "h1"])
    write(path, "CZKFBJ", [box(250, 50, 260, 60)], BSM=["u1"])
    bow_tie = shapely.Polygon([(EAST, NORTH), (EAST + 9, NORTH + 9), (EAST + 9, NORTH), (EAST, NORTH + 9)])
    parcels = [box(0, 0, 50, 50), box(50, 0, 90, 50), box(0, 60, 9, 90), bow_tie]
    codes, names = ["0101", "9999", "0601", "0103"], ["水田", "?", "农村道路", "旱地"]
    write(path, "DLTB", parcels, BSM=["1", "2", "3", "4"], DLBM=codes, DLMC=names)
    return Plan.load(path)


def test_every_kind_of_problem(plan):
    qa = validate_plan(plan)
    found = {(r["check"], r["role"], r["feature"]) for r in qa.problems.to_dict("records")}
    assert found == {
        ("area", "permanent_basic_farmland", "p2"),
        ("duplicate_id", "ecological_red_line", "h1"),
        ("code", "land_use_baseline", "2"),
        ("code_name", "land_use_baseline", "3"),
        ("geometry", "land_use_baseline", "#4"),
        ("overlap", "land_use_baseline", "1"),  # the bow-tie lies in it
        ("Q1", "permanent_basic_farmland", "p1"),
        ("Q1", "permanent_basic_farmland", "p2"),
    }
    assert tuple(qa.problems.columns) == (*COLUMNS, "geometry")
    assert qa.summary["total"] == 8
    assert qa.summary["features"] == {e.name: n for e, n in zip(plan.layers, [2, 2, 1, 4], strict=True)} or sum(
        qa.summary["features"].values()
    ) == 9  # fmt: skip


def test_conflicts_are_measured(plan):
    rows = validate_plan(plan).problems
    conflict = rows[rows["check"] == "Q1"].set_index("feature")
    assert conflict.loc["p1", "area_m2"] == pytest.approx(1000, rel=1e-3)
    assert conflict.loc["p2", "area_m2"] == pytest.approx(100, rel=1e-3)
    assert "h1" in conflict.loc["p1", "message"]
    assert "u1" in conflict.loc["p2", "message"]
    shared = gpd.GeoSeries([conflict.loc["p2"].geometry], crs=rows.crs).to_crs(CRS).iloc[0]
    assert shared.symmetric_difference(box(250, 50, 260, 60)).area < 1e-3


def test_names_and_values_are_in_the_messages(plan):
    rows = validate_plan(plan).problems.set_index("check")
    assert "'9999'" in rows.loc["code", "message"]
    assert "工业" in rows.loc["code_name", "message"]
    assert "农村道路" in rows.loc["code_name", "message"]
    assert "9000.00" in rows.loc["area", "message"]
    assert "Self-intersection" in rows.loc["geometry", "message"]


def test_a_clean_plan_has_no_problem(tmp_path):
    path = tmp_path / "a.gpkg"
    write(path, "CZKFBJ", [box(0, 0, 10, 10), box(10, 0, 20, 10)], BSM=["a", "b"])
    write(path, "STBHHX", [box(20, 0, 30, 10)], HXBM=["a"])
    qa = validate_plan(Plan.load(path))
    assert len(qa.problems) == 0
    assert qa.summary["total"] == 0
    assert any("permanent_basic_farmland" in text for text in qa.summary["not_checked"])
    assert qa.problems.crs.to_epsg() == 4490


def test_same_result_twice(plan):
    first, second = validate_plan(plan), validate_plan(plan)
    assert first.problems.drop(columns="geometry").equals(second.problems.drop(columns="geometry"))
