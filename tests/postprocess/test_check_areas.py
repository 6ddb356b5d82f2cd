from __future__ import annotations

import json
import math

import pytest
from check_factory import ALL, DAY, PACK, PATCH, B, P, U, box, changes, geod_area, layer, run
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

from tuban.data.plan import Plan, PlanLayer
from tuban.postprocess.check import CheckContext, check_changes

offsets = st.floats(-150, 150, allow_nan=False)


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


def test_conformity_parts_add_up():
    row = run(changes(PATCH), layer(B, ALL), layer(U, box(0, 0, 33.3, 300)))["F1"]
    assert row["conform_m2"] + row["nonconform_m2"] == pytest.approx(row["net_m2"], abs=1e-9)
    assert row["conform_m2"] == pytest.approx(geod_area(box(0, 0, 33.3, 100)), abs=0.02)


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
    # A cut adds a vertex; in degrees a straight edge is no geodesic, so the patch is measured as cut.
    whole = sum(geod_area(part, crs) for part in (patch & f & z, (patch & f) - z, patch - f) if not part.is_empty)
    assert whole == pytest.approx(geod_area(patch, crs), rel=5e-6 if crs.is_geographic else 1e-6)
    assert inside == pytest.approx(farmland_in_zone, rel=1e-6, abs=1e-3)
    assert inside + outside + rest == pytest.approx(whole, rel=1e-6)
