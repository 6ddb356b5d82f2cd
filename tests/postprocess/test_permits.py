from __future__ import annotations

import datetime as dt

import pytest
from check_factory import ALL, DAY, PACK, PATCH, B, P, box, changes, layer, permit, run

from tuban.postprocess.permits import permit_state


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
