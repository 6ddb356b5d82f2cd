import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tuban.training.stratified_interval import binomial, linear, ratio


@pytest.mark.parametrize(("method", "name"), [("clopper-pearson", "exact"), ("wilson", "wilson")])
@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 30), (15, 30), (30, 30)])
def test_one_stratum_is_the_textbook_interval(method, name, hits, n):
    low, high = binomial(np.array(hits), np.array(n), method=method)
    expected = binomtest(hits, n).proportion_ci(method=name)
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-9)
    made = linear(np.array([1.0]), np.array([hits]), np.array([n]), method=method)
    assert (float(made.low), float(made.high)) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_ratio_in_one_stratum_against_the_binomial_of_those_seen():
    """Given how many have either attribute, the hits are binomial: nearly the same interval."""
    made = ratio(np.array([1.0]), np.array([40]), np.array([20]), np.array([2000]))
    expected = binomtest(40, 60).proportion_ci(method="exact")
    assert float(made.estimate) == pytest.approx(2 / 3)
    assert float(made.low) == pytest.approx(expected.low, abs=0.03)
    assert float(made.high) == pytest.approx(expected.high, abs=0.03)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 9)), min_size=1, max_size=5))
def test_limits_enclose_the_estimate(strata):
    y, z, rest = (np.array(v) for v in zip(*strata, strict=True))
    weights = np.full(len(strata), 1 / len(strata))
    made = ratio(weights, y, z, y + z + rest)
    assert 0 <= float(made.low) <= float(made.high) <= 1
    assert float(made.high - made.low) > 1e-3
    if not np.isnan(made.estimate):
        assert float(made.low) <= float(made.estimate) + 1e-9
        assert float(made.estimate) <= float(made.high) + 1e-9


def test_coverage_where_the_usual_interval_fails():
    """Omissions of 0.2 % of a stratum of 99 % of the area; benchmarks/interval_coverage.py has 10,000 runs of more."""
    rng, weights, n = np.random.default_rng(0), np.array([0.01, 0.99]), np.array([100, 500])
    p = np.array([0.7, 0.002])
    hits = rng.binomial(n, p, (2000, 2))
    true = float(weights @ p)
    made = linear(weights, hits, n)
    covered = ((made.low <= true) & (true <= made.high)).mean()
    share = hits / n
    se = np.sqrt((weights**2 * share * (1 - share) / (n - 1)).sum(axis=1))
    usual = (np.abs((weights * share).sum(axis=1) - true) <= 1.96 * se).mean()
    assert covered >= 0.94
    assert usual < 0.75
    recall = ratio(weights, hits * [1, 0], hits * [0, 1], n)
    target = 0.01 * 0.7 / true
    assert ((recall.low <= target) & (target <= recall.high)).mean() >= 0.94
