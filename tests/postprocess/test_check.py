from __future__ import annotations

import datetime as dt
import json
import math

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

from tuban.data.plan import Plan, PlanLayer
from tuban.errors import PairError, VectorError
from tuban.postprocess import overlay as overlay_module
from tuban.postprocess.change_input import read_changes
from tuban.postprocess.check import (
    COLUMNS,
    CheckContext,
    CheckSettings,
    CheckStats,
    check_changes,
    minimum_mapping_unit,
)
from tuban.postprocess.overlay import OverlayCounts, moved_outline, robust, subdivide
from tuban.postprocess.permits import permit_state
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


def run(frame, *layers, **context):
    ctx = CheckContext(**{"date_after": DAY, "run_date": DAY, **context})
    frames = list(check_changes([frame], Plan(layers=layers), PACK, context=ctx))
    return {row["rule_id"]: row for f in frames for row in f.to_dict("records")}


def geod_area(shape, crs=CRS):
    lonlat = gpd.GeoSeries([shape], crs=crs).to_crs(4490).iloc[0]
    return abs(GEOD.geometry_area_perimeter(lonlat)[0])


ALL = box(-500, -500, 1000, 1000)
PATCH = box(0, 0, 100, 100)


def test_columns_ids_and_areas():
    found = list(
        check_changes(
            [changes(PATCH)], Plan(layers=(layer(P, ALL), layer(B, ALL))), PACK, context=CheckContext(date_after=DAY)
        )
    )
    (frame,) = found
    assert tuple(frame.columns) == (*COLUMNS, "geometry")
    row = frame.set_index("rule_id").loc["P1"]
    assert row["status"] == "suspected"
    assert row["severity"] == "S4"
    assert row["area_m2"] == pytest.approx(geod_area(PATCH), rel=1e-6)
    assert row["area_mu"] == pytest.approx(row["area_m2"] * 3 / 2000, abs=1e-4)
    assert row["geometry"].equals(PATCH)
    assert frame.crs == CRS
    for text in ("P1", "0101", "p0", "l0", "9999" if row["area_m2"] < 10000 else "1000"):
        assert text in row["reason"], text
    assert json.loads(row["trace"])["features"][0]["plan_id"] == "p0"
    again = next(
        check_changes(
            [changes(PATCH)], Plan(layers=(layer(P, ALL), layer(B, ALL))), PACK, context=CheckContext(date_after=DAY)
        )
    )
    assert list(again["finding_id"]) == list(frame["finding_id"])
    assert again.drop(columns="geometry").equals(frame.drop(columns="geometry"))


def test_ids_depend_on_change_rule_and_zone_only():
    one = run(changes(PATCH), layer(P, ALL), layer(B, ALL))["P1"]["finding_id"]
    other_batch = next(
        check_changes([changes(box(500, 500, 600, 600), PATCH).assign(change_id=["x", "c0"])],
            Plan(layers=(layer(P, ALL), layer(B, ALL))),
                      PACK, context=CheckContext(date_after=DAY), settings=CheckSettings(batch_size=2))
    )  # fmt: skip
    assert one in set(other_batch["finding_id"])
    assert len(set(other_batch["finding_id"])) == len(other_batch)


def test_batch_size_changes_nothing():
    shapes = [box(120 * i, 0, 120 * i + 100, 50 + 7 * i) for i in range(7)]
    plan = Plan(layers=(layer(P, box(0, 0, 333, 40)), layer(B, ALL), layer(U, box(200, 0, 400, 30))))
    results = []
    for size in (1, 3, 100):
        frames = check_changes(
            [changes(*shapes)],
            plan,
            PACK,
            context=CheckContext(date_after=DAY),
            settings=CheckSettings(batch_size=size),
        )
        results.append([row for f in frames for row in f.drop(columns="geometry").to_dict("records")])
    assert str(results[0]) == str(results[1]) == str(results[2])


@pytest.mark.parametrize("crs", ["EPSG:4490", "EPSG:4326", "EPSG:32649", "EPSG:4526"])
def test_any_crs_of_changes_and_plan(crs):
    row = run(changes(PATCH, crs=crs), layer(P, box(0, 0, 50, 300), crs=4490), layer(B, ALL))["P1"]
    assert row["overlap_m2"] == pytest.approx(geod_area(box(0, 0, 50, 100)), rel=1e-5)
    assert (row["lon"], row["lat"]) == pytest.approx(
        tuple(gpd.GeoSeries([box(0, 0, 50, 100).centroid], crs=CRS).to_crs(4326).iloc[0].coords[0]), abs=3e-4
    )


def test_permit_states():
    def state(start, end=None, kind="conversion"):
        return permit_state({"valid_from": start, "valid_to": end, "kind": kind}, DAY, PACK)

    day = dt.timedelta(days=1)
    assert state(DAY) == "valid"
    assert state(DAY + day) == "not_yet"
    assert state(DAY - day, DAY) == "valid"
    assert state(DAY - 2 * day, DAY - day) == "expired"
    assert state(None) == "undated"
    assert state(None, DAY - day) == "expired"
    assert state(dt.date(2000, 1, 1)) == "valid"
    assert state(dt.date(2022, 6, 30), kind="temporary") == "valid"
    assert state(dt.date(2022, 6, 29), kind="temporary") == "expired"
    assert state(dt.date(2020, 2, 29), kind="temporary") == "expired"


@pytest.mark.parametrize(
    ("start", "end", "status", "said"),
    [
        ("2023-01-01", None, "permitted", "有效"),
        ("2025-01-01", None, "suspected", "晚于"),
        ("2020-01-01", "2021-01-01", "suspected", "过期"),
        ("not a date", None, "undetermined", "无批准日期"),
    ],
)
def test_permit_dates_decide_and_are_told(start, end, status, said):
    row = run(changes(PATCH), layer(P, ALL), layer(B, ALL), permit("conversion", ALL, start, end))["P1"]
    assert row["status"] == status
    assert said in row["reason"]
    assert "conversion p0" in row["reason"]


def test_partial_permit_goes_to_f2_and_is_not_counted_twice():
    rows = run(
        changes(PATCH), layer(P, box(900, 900, 901, 901)), layer(B, ALL), permit("conversion", box(0, 0, 30, 100))
    )
    assert (rows["F1"]["status"], rows["F2"]["status"]) == ("permitted", "suspected")
    assert "F2" in rows["F1"]["reason"]
    assert rows["F2"]["permitted_m2"] + rows["F2"]["net_m2"] == pytest.approx(rows["F2"]["overlap_m2"], abs=0.02)


def test_overlapping_permits_count_once():
    rows = run(
        changes(PATCH),
        layer(B, ALL),
        permit("conversion", box(0, 0, 60, 100)),
        permit("homestead", box(40, 0, 80, 100)),
    )
    assert rows["F2"]["permitted_m2"] == pytest.approx(8000, rel=1e-4)


def test_missing_layers_are_undetermined_never_clean():
    rows = run(changes(PATCH), layer(B, ALL))
    assert rows["P1"]["status"] == rows["E1"]["status"] == rows["U1"]["status"] == "undetermined"
    assert rows["F1"]["status"] == "suspected"
    assert "永久基本农田" in rows["F1"]["reason"]
    assert math.isnan(rows["P1"]["overlap_m2"])
    assert "缺少图层" in rows["P1"]["reason"]
    assert run(changes(PATCH), layer(P, box(900, 900, 901, 901)))["F1"]["status"] == "undetermined"
    assert math.isnan(rows["F1"]["conform_m2"])


def test_statistics_say_what_was_not_applied():
    stats = CheckStats()
    context = CheckContext(run_date=dt.date(2018, 1, 1), downgraded=True, downgrade_reason="shift 3 px")
    list(
        check_changes(
            [changes(PATCH)], Plan(layers=(layer(B, ALL),), jurisdiction="eu"), PACK, context=context, stats=stats
        )
    )
    said = " ".join(stats.as_dict()["notes"])
    for text in ("day of the run, 2018-01-01", "E1", "no layer of role", "shift 3 px", "jurisdiction eu"):
        assert text in said
    assert stats.changes == 1
    assert stats.findings["F1:inconclusive"] == 1
    json.dumps(stats.as_dict())


def test_downgraded_pair_and_low_confidence_are_inconclusive():
    row = run(changes(PATCH), layer(B, ALL), downgraded=True, downgrade_reason="配准残差大")["F1"]
    assert row["status"] == "inconclusive"
    assert "配准残差大" in row["reason"]
    context = CheckContext(date_after=DAY)
    frame = next(check_changes([changes(PATCH, confidence=0.4)], Plan(layers=(layer(B, ALL),)), PACK, context=context,
                               settings=CheckSettings(min_confidence=0.5)))  # fmt: skip
    assert dict(zip(frame["rule_id"], frame["status"], strict=True))["F1"] == "inconclusive"


def test_rule_that_began_between_the_dates_is_said():
    row = run(changes(PATCH), layer(E, ALL), date_before=dt.date(2022, 1, 1))["E1"]
    assert "2022-08-16" in row["reason"]
    assert "E1" not in run(changes(PATCH), layer(E, ALL), date_after=dt.date(2022, 8, 15))
    assert run(changes(PATCH), layer(E, ALL), date_after=None)["E1"]["reason"].count("无后时相日期") == 1


@pytest.mark.parametrize(("width", "status"), [(60, "suspected"), (8, "inconclusive")])
def test_tolerance_interval(width, status):
    row = run(
        changes(box(0, 0, width, 100)),
        layer(B, ALL),
        layer(P, box(900, 900, 901, 901), accuracy=3.0),
        image_accuracy_m=4.0,
    )["F1"]
    t = 5.0
    assert row["tolerance_m"] == t
    assert row["status"] == status
    assert row["overlap_min_m2"] == pytest.approx(max(width - 2 * t, 0) * (100 - 2 * t), rel=2e-3)
    # Round corners: a grown rectangle is the rectangle, four strips and a circle.
    assert row["overlap_max_m2"] == pytest.approx(width * 100 + 2 * t * (width + 100) + math.pi * t**2, rel=2e-3)


def test_small_changes_are_flagged_not_dropped():
    row = run(changes(box(0, 0, 10, 10)), layer(B, ALL))["F1"]
    assert row["status"] == "suspected"
    assert row["below_mmu"]
    assert "200 m2" in row["reason"]
    assert [minimum_mapping_unit(PACK, c) for c in ("building", "facility_agri", "pond", "water")] == [
        200,
        200,
        400,
        600,
    ]


def test_conformity_parts_add_up():
    row = run(changes(PATCH), layer(B, ALL), layer(U, box(0, 0, 33.3, 300)))["F1"]
    assert row["conform_m2"] + row["nonconform_m2"] == pytest.approx(row["net_m2"], abs=1e-9)
    assert row["conform_m2"] == pytest.approx(geod_area(box(0, 0, 33.3, 100)), abs=0.02)


offsets = st.floats(-150, 150, allow_nan=False)


@settings(max_examples=15, deadline=None)
@given(offsets, offsets, st.floats(5, 300), st.floats(0, 360), st.sampled_from(["EPSG:4547", "EPSG:4490"]))
def test_parts_and_remainder_are_the_whole(x, y, size, angle, crs):
    """Farmland within and outside the protected zone, and the rest of the patch, are the patch."""
    zone = affinity.rotate(box(x, y, x + size, y + size), angle)
    half = box(-500, -500, 62.5, 1000)
    frame = changes(affinity.rotate(PATCH, angle / 3), crs=crs)
    patch = frame.geometry.iloc[0]
    zones = layer(P, zone, crs=crs).source
    farm = layer(B, half, crs=crs).source
    crs = frame.crs
    z, f = zones.geometry.iloc[0], farm.geometry.iloc[0]
    got = list(check_changes([frame], Plan(layers=(
        PlanLayer(role=P, source=zones, id_field="ID", accuracy_m=0),
        PlanLayer(role=B, source=farm, id_field="ID", accuracy_m=0, class_system="cn-survey", class_field="DLBM"),
    )), PACK, context=CheckContext(date_after=DAY)))  # fmt: skip
    rows = {r["rule_id"]: json.loads(r["trace"])["areas_m2"] for g in got for r in g.to_dict("records")}
    inside = (rows["P1"]["overlap"] or 0.0) if "P1" in rows else 0.0
    outside = (rows["F1"]["overlap"] or 0.0) if "F1" in rows else 0.0
    farmland_in_zone = geod_area(patch & z & f, crs)
    rest = geod_area(patch - f, crs) if not (patch - f).is_empty else 0.0
    whole = geod_area(patch, crs)
    assert inside == pytest.approx(farmland_in_zone, rel=1e-6, abs=1e-3)
    assert inside + outside + rest == pytest.approx(whole, rel=1e-6)


def test_huge_zone_polygon_is_cut_and_stays_exact():
    angles = np.linspace(0, 2 * np.pi, 20_001)[:-1]
    radius = 400 + 5 * np.sin(40 * angles)
    zone = shapely.Polygon(np.column_stack([EAST + radius * np.cos(angles), NORTH + radius * np.sin(angles)]))
    patch = box(300, -200, 500, 200)
    parts = subdivide(zone)
    assert max(shapely.get_num_coordinates(p) for p in parts) <= 512
    assert sum(p.area for p in parts) == pytest.approx(zone.area, rel=1e-12)
    row = run(changes(patch), layer(P, zone))["P1"]
    assert row["overlap_m2"] == pytest.approx(geod_area(patch & zone), rel=1e-6, abs=0.01)


def test_topology_errors_fall_back_and_are_counted():
    bow_tie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    square = np.array([shapely.box(0, 0, 2, 2)], dtype=object)
    counts = OverlayCounts()

    def brittle(a, b, **kwargs):
        if isinstance(a, np.ndarray) or not a.is_valid:
            raise shapely.GEOSException("side location conflict")
        return shapely.intersection(a, b, **kwargs)

    got = robust(brittle, np.array([bow_tie], dtype=object), square, pyproj.CRS(CRS), counts)
    assert got[0].area == pytest.approx(2.0)
    assert counts.topology_fallbacks == 1


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 40), st.sampled_from([(116.0, 40.0), (100.0, 3.0), (125.0, 53.0)]))
def test_moved_outline_moves_by_metres(metres, place):
    lon, lat = place
    corner = [GEOD.fwd(lon, lat, azimuth, 500)[:2] for azimuth in range(0, 360, 5)]
    circle = shapely.Polygon(corner)
    for sign in (1, -1):
        (got,) = moved_outline(np.array([circle], dtype=object), pyproj.CRS(4490), sign * metres)
        x, y = got.exterior.coords.xy
        distance = np.array(GEOD.inv(np.full(len(x), lon), np.full(len(x), lat), np.array(x), np.array(y))[2])
        assert distance.mean() == pytest.approx(500 + sign * metres, abs=0.6)


def test_memory_follows_the_changes_not_the_plan(monkeypatch):
    far = [box(2000 * i, 5000, 2000 * i + 10, 5010) for i in range(200)]
    counts = OverlayCounts()
    frame = changes(PATCH)
    pieces = overlay_module.collect((layer(P, ALL, *far),), np.asarray(frame.geometry.values), frame.crs, counts)
    assert len(pieces.rows) == 1
    assert counts.plan_features == 1


def test_context_refuses_nonsense():
    with pytest.raises(PairError, match="swap"):
        CheckContext(date_before=DAY, date_after=dt.date(2020, 1, 1))
    with pytest.raises(VectorError, match="0 or more"):
        CheckContext(image_accuracy_m=-1)
    with pytest.raises(VectorError, match="lack the column confidence"):
        run(changes(PATCH).drop(columns="confidence"), layer(B, ALL))
    with pytest.raises(VectorError, match="no CRS"):
        run(changes(PATCH).set_crs(None, allow_override=True), layer(B, ALL))


def test_read_changes_completes_what_is_missing(tmp_path):
    path = tmp_path / "变化 图斑.shp"
    shapes = [PATCH, box(200, 0, 300, 100)]
    gpd.GeoDataFrame({"from_class": ["耕地", None], "to_class": ["building", "9"]}, geometry=shapes, crs=CRS).to_file(
        path, encoding="GBK"
    )
    notes: list[str] = []
    (frame,) = read_changes(path, notes=notes)
    assert list(frame["from_class"]) == ["cropland", "ignore"]
    assert list(frame["to_class"]) == ["building", "building"]
    assert frame["area_m2"].iloc[0] == pytest.approx(geod_area(PATCH), abs=0.01)
    assert frame["change_id"].is_unique
    assert list(next(read_changes(path))["change_id"]) == list(frame["change_id"])
    assert sum("change_id" in note or "confidence" in note for note in notes) == 2
    assert not any(str(tmp_path) in note for note in notes)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"to_class": ["building"]}, "no column from_class; it has to_class"),
        ({"from_class": ["cropland"], "to_class": ["palace"]}, "column to_class: unknown land-cover class 'palace'"),
        ({"from_class": ["cropland"], "to_class": [None]}, "an empty to_class"),
    ],
)
def test_read_changes_refuses(tmp_path, columns, message):
    path = tmp_path / "a.gpkg"
    gpd.GeoDataFrame(columns, geometry=[PATCH], crs=CRS).to_file(path)
    with pytest.raises(VectorError, match=message):
        list(read_changes(path))


def test_read_changes_refuses_repeated_ids(tmp_path):
    path = tmp_path / "a.gpkg"
    gpd.GeoDataFrame(
        {"change_id": ["a", "a"], "from_class": "cropland", "to_class": "building"}, geometry=[PATCH, ALL], crs=CRS
    ).to_file(path)
    with pytest.raises(VectorError, match="'a' stands twice"):
        list(read_changes(path))
