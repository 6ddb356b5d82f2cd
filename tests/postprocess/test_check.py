from __future__ import annotations

import datetime as dt
import json
import math

import geopandas as gpd
import pytest
from check_factory import ALL, CRS, DAY, PACK, PATCH, B, E, P, U, box, changes, geod_area, layer, run

from tuban.data.plan import Plan
from tuban.errors import PairError, VectorError
from tuban.postprocess.check import (
    COLUMNS,
    CheckContext,
    CheckSettings,
    CheckStats,
    check_changes,
    minimum_mapping_unit,
)


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


def test_context_refuses_nonsense():
    with pytest.raises(PairError, match="swap"):
        CheckContext(date_before=DAY, date_after=dt.date(2020, 1, 1))
    with pytest.raises(VectorError, match="0 or more"):
        CheckContext(image_accuracy_m=-1)
    with pytest.raises(VectorError, match="lack the column confidence"):
        run(changes(PATCH).drop(columns="confidence"), layer(B, ALL))
    with pytest.raises(VectorError, match="no CRS"):
        run(changes(PATCH).set_crs(None, allow_override=True), layer(B, ALL))
