from __future__ import annotations

import csv

import geopandas as gpd
import numpy as np
import openpyxl
import pyogrio
import pytest
import shapely
import yaml

from tuban.data.plan import Plan, PlanLayer
from tuban.errors import UsageError
from tuban.postprocess.plan_qa import PlanQASettings, validate_plan
from tuban.postprocess.plan_qa_files import write_plan_qa
from tuban.postprocess.plan_topology import conflicts, gaps, overlaps, tiles

EPSG, EAST, NORTH = 4547, 500_000.0, 3_400_000.0


def box(x0, y0, x1, y1):
    return shapely.box(EAST + x0, NORTH + y0, EAST + x1, NORTH + y1)


def layer(shapes, role="land_use_baseline", prefix="z"):
    names = [f"{prefix}{i}" for i in range(len(shapes))]
    return PlanLayer(role=role, source=gpd.GeoDataFrame({"ID": names}, geometry=list(shapes), crs=EPSG), id_field="ID")


def county(seed=0, side=12, size=30.0):
    """Cells that should fit: some grown (overlaps), some shrunk (gaps), two twice, one within another, an island."""
    rng = np.random.default_rng(seed)
    cells = [box(i * size, j * size, (i + 1) * size, (j + 1) * size) for i in range(side) for j in range(side)]
    for index in rng.choice(len(cells), 10, replace=False):
        cells[index] = shapely.buffer(cells[index], rng.choice([-2.0, 1.5]), join_style="mitre")
    return [*cells, cells[5], cells[60], shapely.buffer(cells[40].centroid, 3), box(2000, 2000, 2010, 2010)]


def truth_overlaps(shapes, least):
    found = {}
    for i, one in enumerate(shapes):
        for j in range(i + 1, len(shapes)):
            area = one.intersection(shapes[j]).area
            if area >= least:
                found[f"z{i}", f"z{j}"] = area
    return found


@pytest.mark.parametrize("tile_features", [10_000, 20, 7])
def test_overlaps_equal_brute_force_whatever_the_tiles(tile_features):
    shapes = county()
    got = list(overlaps(layer(shapes), least_m2=1.0, tile_features=tile_features))
    truth = truth_overlaps(shapes, 1.0)
    assert len(got) == len(truth) > 10
    assert {(s.feature, s.other) for s in got} == set(truth)
    assert all(s.area_m2 == pytest.approx(truth[s.feature, s.other], rel=1e-2) for s in got)


@pytest.mark.parametrize("tile_features", [10_000, 40])
def test_gaps_equal_the_holes_of_the_union(tile_features):
    shapes = county(seed=3)
    got = list(gaps(layer(shapes), least_m2=1.0, most_m2=1e4, tile_features=tile_features))
    around = shapely.box(*shapely.total_bounds(shapes)).buffer(5, join_style="mitre")
    outside = around.exterior
    bare = shapely.get_parts(around.difference(shapely.union_all(shapes)))
    truth = sorted(part.area for part in bare if part.area >= 1 and not part.intersects(outside))
    assert sorted(s.area_m2 for s in got) == pytest.approx(truth, rel=1e-2)
    assert len(got) > 1
    assert all(s.feature.startswith("z") for s in got)  # the features beside it are named


def test_large_holes_may_be_meant_and_islands_in_them_are_no_gap():
    ring = box(0, 0, 90, 90).difference(box(30, 30, 60, 60))
    shapes = [ring, box(32, 32, 58, 58)]
    assert not list(gaps(layer(shapes), least_m2=1.0, most_m2=200.0, tile_features=100))
    (found,) = gaps(layer(shapes), least_m2=1.0, most_m2=1000.0, tile_features=100)
    assert found.area_m2 == pytest.approx(900 - 26 * 26, rel=1e-2)


@pytest.mark.parametrize("tile_features", [10_000, 9])
def test_conflicts_equal_brute_force(tile_features):
    one, other = (
        county(seed=1, side=8),
        [shapely.buffer(shapely.Point(EAST + 30 * k, NORTH + 100), 40) for k in range(8)],
    )
    found = conflicts(layer(one), layer(other, prefix="u"), least_m2=6.67, tile_features=tile_features)
    got = {(s.feature, s.other): s.area_m2 for s in found}
    truth = {
        (f"z{i}", f"u{j}"): area for i, a in enumerate(one) for j, b in enumerate(other)
        if (area := a.intersection(b).area) > 6.67
    }  # fmt: skip
    assert set(got) == set(truth)
    assert all(got[key] == pytest.approx(truth[key], rel=1e-2) for key in truth)


def test_tiles_hold_each_feature_and_are_cut_where_features_crowd():
    shapes = [*county(), *(box(k * 0.1, 0, k * 0.1 + 0.1, 0.1) for k in range(300))]
    seen, largest = set(), 0
    for _, frame in tiles(layer(shapes), 20, None):
        seen |= set(frame["plan_id"])
        largest = max(largest, len(frame))
    assert seen == {f"z{i}" for i in range(len(shapes))}
    assert largest < 200


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "规划.gpkg"
    shapes = county(seed=2)
    names = [f"=B{i}" for i in range(len(shapes))]  # a spreadsheet must not run it
    frame = gpd.GeoDataFrame({"BSM": names, "DLBM": "0101", "DLMC": "水田"}, geometry=shapes, crs=EPSG)
    frame.to_file(path, layer="DLTB")
    spec = {"role": "land_use_baseline", "path": path.name, "layer": "DLTB"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"jurisdiction": "cn", "layers": [spec]}), encoding="utf-8")
    return tmp_path / "plan.yaml"


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_all_problems_as_a_layer_and_a_table(plan_file, suffix):
    plan, out = Plan.load(plan_file), plan_file.parent / "out"
    quality = write_plan_qa(
        plan, layer=out / "问题.gpkg", table=out / f"问题{suffix}", settings=PlanQASettings(shown=3)
    )  # fmt: skip
    total = quality.summary["total"]
    assert len(quality.problems) == quality.summary["shown"] == 3 < total
    assert sum(quality.summary["problems"].values()) == total
    assert pyogrio.read_info(out / "问题.gpkg", layer="plan_qa")["features"] == total
    if suffix == ".csv":
        text = (out / "问题.csv").read_bytes()
        assert text.startswith(b"\xef\xbb\xbf")
        rows = list(csv.reader(text.decode("utf-8-sig").splitlines()))
    else:
        sheet = openpyxl.load_workbook(out / "问题.xlsx").active
        assert sheet.freeze_panes == "A2"
        assert sheet.auto_filter.ref
        rows = [[cell.value for cell in row] for row in sheet.iter_rows()]
        assert all(cell.data_type != "f" for row in sheet.iter_rows() for cell in row)
    assert rows[0][0] == "检查项"
    assert len(rows) == total + 1
    overlap = next(row for row in rows if row[0] == "overlap")
    assert overlap[4].startswith("'=B")
    assert float(overlap[7]) == pytest.approx(114.0, abs=0.1)
    assert sorted(p.name for p in out.iterdir()) == sorted(["问题.gpkg", f"问题{suffix}"])


def test_the_same_plan_gives_the_same_bytes(plan_file):
    for name in ("a", "b"):
        write_plan_qa(
            Plan.load(plan_file), layer=plan_file.parent / name / "q.gpkg", table=plan_file.parent / name / "q.csv"
        )
    for file in ("q.gpkg", "q.csv"):
        assert (plan_file.parent / "a" / file).read_bytes() == (plan_file.parent / "b" / file).read_bytes()


def test_table_needs_a_known_suffix(plan_file):
    with pytest.raises(UsageError, match=r"\.csv or \.xlsx"):
        write_plan_qa(Plan.load(plan_file), table=plan_file.parent / "q.ods")


def test_only_where_the_changes_lie(plan_file):
    plan = Plan.load(plan_file)
    whole = validate_plan(plan)
    here = validate_plan(plan, within=((EAST, NORTH, EAST + 60, NORTH + 60), EPSG))
    assert 0 < here.summary["features"]["land_use_baseline:DLTB"] < 20
    assert here.summary["total"] < whole.summary["total"]
    assert any("only features where the changes lie" in said for said in here.summary["not_checked"])
