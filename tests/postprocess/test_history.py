from __future__ import annotations

import datetime as dt
import json

import pytest
from check_factory import ALL, CRS, DAY, PACK, PATCH, B, P, box, changes, layer, past, permit, rows, run
from hypothesis import given, settings
from hypothesis import strategies as st

from tuban.errors import VectorError
from tuban.postprocess.check import CheckSettings, CheckStats
from tuban.postprocess.history import months_before, open_history
from tuban.postprocess.layers import write_layers

FAR = layer(P, box(9000, 9000, 9001, 9001))
FARM = layer(B, ALL, box(1000, -500, 5000, 1000), codes=["0101", "0101"])


def by(frame, *actors):
    return frame.assign(actor=list(actors))


@given(st.dates(dt.date(1990, 1, 1), dt.date(2050, 1, 1)), st.integers(0, 60))
def test_months_before(date, months):
    got = months_before(date, months)
    assert (date.year * 12 + date.month) - (got.year * 12 + got.month) == months
    assert got.day == date.day or (got.day < date.day and (got + dt.timedelta(days=1)).day == 1)


def test_patches_of_one_actor_add_up_and_the_lead_comes_where_the_sum_is_reached():
    shapes = [box(1000 * i, 0, 1000 * i + 60, 50) for i in range(4)]  # 3000 m2 each, 10 mu are 6666.67
    found = rows([by(changes(*shapes), "a", "b", "a", "a")], FAR, FARM)
    leads = [(r["change_id"], r["status"]) for r in found if r["rule_id"] == "X1"]
    assert leads == [("c3", "suspected")]
    total = json.loads(next(r["trace"] for r in found if r["rule_id"] == "X1"))["total"]
    assert total["sure_m2"] == pytest.approx(9000, rel=1e-3)
    assert [s["change_id"] for s in total["shares"]] == ["c2", "c0", "c3"] or total["count"] == 3


@settings(max_examples=12, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_order_and_batches_do_not_change_who_is_named(order, size):
    shapes = [box(200 * i, 0, 200 * i + 60, 50) for i in range(6)]
    frame = by(changes(*shapes), "a", "b", "a", "b", "a", "c").iloc[list(order)].reset_index(drop=True)
    farm = layer(B, box(-500, -500, 3000, 1000))
    found = rows([frame], FAR, farm, settings=CheckSettings(batch_size=size))
    leads = [r for r in found if r["rule_id"] == "X1"]
    assert {r["actor"] for r in leads} == {"a"}
    assert max(json.loads(r["trace"])["total"]["sure_m2"] for r in leads) == pytest.approx(9000, rel=1e-3)


def test_an_unknown_actor_is_said_and_not_lumped_together():
    stats = CheckStats()
    shapes = [box(1000 * i, 0, 1000 * i + 60, 50) for i in range(4)]
    found = rows([changes(*shapes)], FAR, FARM, stats=stats)
    assert not [r for r in found if r["rule_id"] == "X1"]
    assert stats.actors_unknown == 4
    assert any("X1: the actor of 4 changes is not known" in note for note in stats.notes)


def test_a_permit_holder_is_the_actor_of_what_lies_beyond_it():
    approved = layer("permit", box(0, 0, 10, 100), kind="conversion", dates=(("2023-01-01", None),), YDDW=["甲公司"])
    row = run(changes(PATCH), FAR, layer(B, ALL), approved)["F2"]
    assert row["actor"] == "甲公司"


def test_an_earlier_change_counts_once_even_when_found_again():
    earlier = past(box(0, 0, 60, 50), net=3000.0, actor="a")
    frame = by(changes(box(0, 0, 60, 50), box(1000, 0, 1060, 50)), "a", "a")
    found = rows([frame], FAR, FARM, history=earlier)
    assert not [r for r in found if r["rule_id"] == "X1"]  # 3000 (once) + 3000
    assert {r["rule_id"] for r in found if json.loads(r["trace"])["earlier"]} >= {"F1"}


def test_disturbed_soil_seen_twice_is_worse_and_named():
    stats = CheckStats()
    row = run(changes(PATCH, to="bare_or_disturbed"), FARM, history=past(PATCH, rule="F11"), stats=stats)["F11"]
    assert row["severity"] == "S2"
    assert "earlier findings here: F11 2024-01-10 past0" in row["reason"]
    assert stats.as_dict()["earlier_findings_met"] == {"F11": 1}
    assert run(changes(PATCH, to="bare_or_disturbed"), FARM)["F11"]["finding_id"] == row["finding_id"]


def test_history_is_read_from_the_findings_of_a_run(tmp_path):
    first = run(by(changes(box(0, 0, 60, 50)), "a"), FAR, FARM, date_after=dt.date(2024, 1, 10))
    import geopandas as gpd

    findings = gpd.GeoDataFrame(list(first.values()), crs=CRS)
    write_layers(tmp_path / "findings.gpkg", crs=CRS, findings=[findings], changes=[])
    layer_read = open_history(tmp_path)
    assert layer_read.role == "history"
    frame = by(changes(box(1000, 0, 1080, 50)), "a")
    found = rows([frame], FAR, FARM, settings=CheckSettings(history=tmp_path / "findings.gpkg"))
    assert [r["status"] for r in found if r["rule_id"] == "X1"] == ["suspected"]
    late = rows([frame], FAR, FARM, settings=CheckSettings(history=tmp_path), date_after=dt.date(2025, 1, 11))
    assert not [r for r in late if r["rule_id"] == "X1"]


def test_no_history_there(tmp_path):
    with pytest.raises(VectorError, match=r"give a findings\.gpkg"):
        open_history(tmp_path / "nothing")
    changes(PATCH).to_file(tmp_path / "findings.gpkg", layer="findings")
    with pytest.raises(VectorError, match="finding_id"):
        open_history(tmp_path)


def test_permitted_areas_of_an_actor_do_not_count():
    frame = by(changes(PATCH), "a")
    assert "X1" in run(frame, FAR, FARM)
    assert "X1" not in run(frame, FAR, FARM, permit("conversion", ALL))
    assert PACK.rule("X1").examples[0].date == DAY
