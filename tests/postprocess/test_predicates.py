"""What a rule looks at: zones, strips, chosen features, neighbours of the change, permits, ridges, exemptions."""

from __future__ import annotations

import json
import math

import pytest
import shapely
from check_factory import ALL, CRS, PACK, PATCH, B, E, P, box, changes, geod_area, layer, permit, rows, run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shapely import affinity

from tuban.postprocess.check import CheckSettings, CheckStats
from tuban.postprocess.rule_schema import RulePack


def pack_of(*rules, **more):
    """A pack of rules given as data."""
    base = {"title": {"zh": "规", "en": "rule"}, "effective_from": "2000-01-01", "severity": "S2", "route": "r",
            "basis": {"zh": "据", "en": "basis", "mark": "K"}}  # fmt: skip
    content = PACK.model_dump(mode="json", exclude={"rules"}) | more
    content["zones"] |= {"river": {"title": {"zh": "河", "en": "river"}, "fields": ["STATE"]}}
    return RulePack.model_validate(content | {"rules": [base | rule for rule in rules]})


def only(found):
    (row,) = found
    return row


@settings(max_examples=15, deadline=None)
@given(st.floats(1, 60), st.floats(-80, 60), st.sampled_from([CRS, "EPSG:4490"]))
def test_a_strip_is_the_zone_grown_by_metres(strip, edge, crs):
    pack = pack_of({"id": "R", "when": {"zones": ["river"], "strip_m": strip}})
    river = box(-200, -300, edge, 400)
    found = rows([changes(PATCH, crs=crs)], layer("river", river, crs=crs), pack=pack)
    want = PATCH & box(-1000, -1000, edge + strip, 1000)
    if want.area < 1:
        assert not found or found[0]["overlap_m2"] < 2
    else:
        assert only(found)["overlap_m2"] == pytest.approx(geod_area(want), rel=2e-3, abs=2)


def test_only_features_whose_field_matches():
    pack = pack_of({"id": "R", "when": {"at": [{"role": "river", "field": "STATE", "matches": "^wet"}]}})
    river = layer("river", box(0, 0, 30, 100), box(30, 0, 100, 100), STATE=["wet", "dry"])
    assert only(rows([changes(PATCH)], river, pack=pack))["overlap_m2"] == pytest.approx(3000, rel=1e-4)
    assert not rows([changes(PATCH)], layer("river", ALL, STATE=["dry"]), pack=pack)


@pytest.mark.parametrize(("gap", "met"), [(19.5, True), (20.5, False)])
@pytest.mark.parametrize("crs", [CRS, "EPSG:4490"])
def test_near_is_a_distance_in_metres(gap, met, crs):
    pack = pack_of({"id": "R", "when": {"near": {"role": "river", "within_m": 20}}})
    found = rows([changes(PATCH, crs=crs)], layer("river", box(100 + gap, 0, 150 + gap, 100)), pack=pack)
    assert bool(found) == met


def test_near_an_earlier_finding():
    near = {"role": "history", "within_m": 20, "field": "rule_id", "matches": "^F11$"}
    pack = pack_of({"id": "R", "when": {"near": near}, "if_missing": {"history": "skip"}})
    from check_factory import past

    assert rows([changes(PATCH)], pack=pack, history=past(box(110, 0, 120, 10), rule="F11"))
    assert not rows([changes(PATCH)], pack=pack, history=past(box(110, 0, 120, 10), rule="F1"))
    assert not rows([changes(PATCH)], pack=pack)


def test_size_of_the_patch():
    pack = pack_of({"id": "R", "when": {"min_patch_m2": 500, "max_patch_m2": 2000}})
    shapes = [box(0, 0, 20, 20), box(100, 0, 130, 30), box(200, 0, 250, 50)]
    assert [r["change_id"] for r in rows([changes(*shapes)], pack=pack)] == ["c1"]


def test_a_permit_that_covers_the_whole_change():
    whole = pack_of({"id": "R", "permits": ["conversion"]}, permits={
        "conversion": {"title": {"zh": "批", "en": "p"}, "coverage": "whole"}})  # fmt: skip
    part = pack_of({"id": "R", "permits": ["conversion"]})
    approved = permit("conversion", box(0, 0, 10, 10))
    assert only(rows([changes(PATCH)], approved, pack=whole))["status"] == "permitted"
    assert only(rows([changes(PATCH)], approved, pack=part))["status"] == "suspected"


def test_rules_that_yield_leave_the_change_to_the_other():
    village = layer(B, box(0, 0, 100, 100), box(100, 0, 200, 100), codes=["0101", "0702"])
    found = run(changes(box(80, 0, 100, 20)), village)
    assert "F4" in found
    assert not {"F1", "F2"} & set(found)
    assert found["F4"]["route"] == "agriculture_rural_affairs"
    # Without a baseline nobody knows: the rule that yields says so.
    assert run(changes(box(80, 0, 100, 20)), layer(P, box(900, 900, 901, 901)))["F1"]["status"] == "undetermined"


def test_ridges():
    codes = ["0101", "0103"]
    farm = layer(B, box(-500, -500, 50, 1000), box(50, -500, 1000, 1000), codes=codes, KCXS=["0.10", "0.20"])
    row = run(changes(PATCH), farm)["F1"]
    assert row["farmland_m2"] == pytest.approx(10000, rel=1e-4)
    assert row["farmland_net_m2"] == pytest.approx(5000 * 0.9 + 5000 * 0.8, rel=1e-4)
    half = layer(B, box(-500, -500, 50, 1000), box(50, -500, 1000, 1000), codes=codes, KCXS=["0.10", None])
    row = run(changes(PATCH), half)["F1"]
    assert row["farmland_net_m2"] == pytest.approx(5000 * 0.9 + 5000, rel=1e-4)
    assert "give no share" in row["reason"]
    row = run(changes(PATCH), layer(B, ALL))["F1"]
    assert math.isnan(row["farmland_net_m2"])
    assert "net is not known" in row["reason"]
    percent = layer(B, ALL, KCXS=["12.5"])  # a percentage is not guessed at
    assert math.isnan(run(changes(PATCH), percent)["F1"]["farmland_net_m2"])
    area = layer(B, ALL, KCMJ=["100"], TBMJ=["1000"])
    assert run(changes(PATCH), area)["F1"]["farmland_net_m2"] == pytest.approx(9000, rel=1e-4)


def test_uplift_needs_the_overlap_not_just_the_change():
    black = "black_soil_area"
    farm = layer(B, box(0, 0, 50, 100), box(50, 0, 100, 100), codes=["0101", "0305"])
    assert run(changes(PATCH), farm, layer(black, box(60, 0, 100, 100)))["F1"]["severity"] == "S3"
    row = run(changes(PATCH), farm, layer(black, box(40, 0, 100, 100)))["F1"]
    assert row["severity"] == "S4"
    assert "raised by B1" in row["reason"]
    stats = CheckStats()
    run(changes(PATCH), farm, stats=stats)
    assert any("B1 raises no severity" in note for note in stats.notes)


def test_map_scale_gives_accuracy_to_layers_that_state_none():
    from dataclasses import replace

    unstated = replace(layer(B, ALL, accuracy=1.0), accuracy_stated=False)
    stated = layer(B, ALL, accuracy=1.0)
    scale = CheckSettings(map_scale=10_000)
    assert run(changes(PATCH), unstated, settings=scale)["F1"]["tolerance_m"] == 3.0  # 0.3 mm of the map
    assert run(changes(PATCH), stated, settings=scale)["F1"]["tolerance_m"] == 1.0
    assert run(changes(PATCH), unstated)["F1"]["tolerance_m"] == 1.0


def test_unknown_permit_kinds_are_said():
    stats = CheckStats()
    assert run(changes(PATCH), layer(B, ALL), permit("charter", ALL), stats=stats)["F1"]["status"] == "suspected"
    assert any("permits of kind charter count for nothing" in note for note in stats.notes)


side = st.floats(-60, 120)


# An overlap of 4060.075 m2, which rounds down as a float and up as hundredths; and a part that misses by an edge's bow.
@example(
    [
        (0.0, 21.447588337071366, 78.30150721415679, 191.3746077861046),
        (62.95462168735672, 21.447588337071366, 5.0, 191.3746077861046),
        (5.0, 13.40910549642848, 135.71114996783973, 1.192092896e-07),
    ],
    True,
)
@example([(0.0, 76.0, 57.0, 0.0), (0.0, 0.0, 5.0, 0.0), (0.0, 0.0, 5.0, 0.0)], True)
@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(side, side, st.floats(5, 150), st.floats(0, 360)), min_size=3, max_size=3), st.booleans())
def test_parts_and_remainder_are_the_whole_over_any_stack(stack, geographic):
    """overlap = exempt + permitted + net, and the overlap with what lies outside is the patch."""
    crs = "EPSG:4490" if geographic else CRS
    zone, farm, approved = (affinity.rotate(box(x, y, x + size, y + size), turn) for x, y, size, turn in stack)
    frame = changes(affinity.rotate(PATCH, 17), crs=crs)
    patch, geo = frame.geometry.iloc[0], layer("river", zone, crs=crs).source.geometry.iloc[0]
    pack = pack_of(
        {"id": "IN", "when": {"zones": ["river"]}, "permits": ["conversion"],
         "exempt": [{"baseline": ["farmland"], "reason": {"zh": "免", "en": "exempt"}}]},
        {"id": "OUT", "when": {"not_zones": ["river"]}, "permits": ["conversion"]},
    )  # fmt: skip
    plan = (layer("river", zone, crs=crs), layer(B, farm, crs=crs), permit("conversion", approved))
    found = {r["rule_id"]: r for r in rows([frame], *plan, pack=pack)}
    traces = {name: json.loads(r["trace"])["areas_m2"] for name, r in found.items()}
    # A cut adds a vertex, and in degrees a straight edge is no geodesic: at 100 m it bows by up to 0.15 mm, 0.01 m2 for
    # each of the patch's four edges. So the sum is compared with the patch as cut, and one part within that bow.
    bow = 0.04 if geographic else 0.0
    whole = sum(geod_area(part, crs) for part in (patch & geo, patch - geo) if not part.is_empty)
    # A sliver below 0.005 m2 is no finding, so it is missing from the sum.
    assert sum(t["overlap"] for t in traces.values()) == pytest.approx(whole, rel=1e-6, abs=bow + 0.006)
    for name, areas in traces.items():
        parts = areas["exempt"] + areas["permitted"] + areas["net"]
        assert parts == pytest.approx(areas["overlap"], rel=1e-6, abs=2e-4)
        row = found[name]
        rounded = row["exempt_m2"] + row["permitted_m2"] + row["net_m2"]
        assert round(rounded, 2) == row["overlap_m2"]  # to the last decimal
    if "IN" in traces:
        assert traces["IN"]["overlap"] == pytest.approx(
            geod_area(shapely.intersection(patch, geo), crs), rel=1e-6, abs=bow + 1e-4
        )


def test_red_line_construction_in_place_is_exempt_only_there():
    base = layer(B, box(0, 0, 50, 100), box(50, 0, 100, 100), codes=["0702", "0305"])
    row = run(changes(PATCH), layer(E, ALL), base)["E1"]
    assert (row["status"], row["exempt_m2"]) == ("suspected", pytest.approx(5000, rel=1e-4))
