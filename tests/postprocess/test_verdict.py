from __future__ import annotations

import math

import pytest
from check_factory import PACK
from hypothesis import given
from hypothesis import strategies as st

from tuban.postprocess.verdict import decide, doubts, final_status, least_confidence, severity, total_status

F1, F2 = PACK.rule("F1"), PACK.rule("F2")
T = PACK.threshold_m2(F1)
area = st.floats(0, 1e5)


def areas(**values):
    return dict.fromkeys(("net", "net_min", "net_max", "permitted", "undated", "exempt", "uncovered"), 0.0) | values


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"net": T, "net_min": 0, "net_max": T}, "compliant"),
        ({"net": T + 0.01, "net_min": T + 0.001, "net_max": 2 * T}, "suspected"),
        ({"net": T + 0.01, "net_min": T, "net_max": 2 * T}, "inconclusive"),
        ({"net": 3.0, "net_min": 0, "net_max": T + 0.01}, "inconclusive"),
        ({"net": 3.0, "net_min": 0, "net_max": T + 0.01, "exempt": 500.0}, "compliant"),
        ({"net": 900.0, "net_min": 900.0, "net_max": 900.0, "undated": 900.0}, "undetermined"),
        ({"net": 0.0, "net_max": 0.0, "permitted": 900.0}, "permitted"),
        ({"net": 0.0, "net_max": 0.0, "permitted": 900.0, "uncovered": 7.0}, "undetermined"),
    ],
)
def test_status_by_hand(values, status):
    assert decide(F1, PACK, areas(**values), missing=False, handed_on=False) == status
    assert decide(F1, PACK, areas(**values), missing=True, handed_on=False) == "undetermined"


def test_a_partial_permit_is_handed_on_or_not():
    values = areas(net=500.0, net_min=500.0, net_max=500.0, permitted=500.0)
    assert decide(F1, PACK, values, missing=False, handed_on=True) == "permitted"
    assert decide(F1, PACK, values, missing=False, handed_on=False) == "suspected"
    assert decide(F2, PACK, areas(permitted=500.0), missing=False, handed_on=False) == "compliant"


@given(area, area, area)
def test_an_interval_that_spans_the_threshold_is_never_suspected(net, down, up):
    low, high = max(net - down, 0.0), net + up
    status = decide(F1, PACK, areas(net=net, net_min=low, net_max=high), missing=False, handed_on=False)
    if low <= T < high:
        assert status == "inconclusive"
    else:
        assert status == ("suspected" if low > T else "compliant")


@given(
    st.sampled_from(["suspected", "inconclusive", "permitted", "compliant", "undetermined"]),
    st.floats(0, 1), st.floats(0, 1), st.booleans(),
)  # fmt: skip
def test_doubts_are_kept_apart_and_never_make_a_suspicion(status, confidence, least, downgraded):
    found = doubts(status, confidence, least, downgraded=downgraded)
    final = final_status(status, found)
    assert (final == "suspected") == (status == "suspected" and confidence >= least and not downgraded)
    if status in {"suspected", "inconclusive"}:
        assert ("position" in found) == (status == "inconclusive")
        assert ("confidence" in found) == (confidence < least)
        assert ("pair" in found) == downgraded
    else:
        assert (final, found) == (status, ())


def test_unknown_confidence_is_no_doubt():
    assert doubts("suspected", math.nan, 0.9, downgraded=False) == ()


def test_the_strictest_minimum_counts():
    eu = PACK.model_copy(update={"min_confidence": 0.5})
    own = F1.model_copy(update={"min_confidence": 0.2})
    assert least_confidence(F1, eu, 0.0) == 0.5
    assert least_confidence(own, eu, 0.0) == 0.2
    assert least_confidence(own, eu, 0.7) == 0.7


def test_sums_and_severities():
    assert (total_status(10, 10, 10), total_status(9, 10, 10), total_status(9, 9.99, 10)) == (
        "suspected", "inconclusive", None,
    )  # fmt: skip
    assert severity("S1", ["S3", "S2"], 1) == "S4"
    assert severity("S3", [], 3) == "S4"
