import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuban.errors import UsageError
from tuban.training.area_accuracy import StratifiedSample, accuracy_table

OLOFSSON = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = {"deforestation": 200_000, "gain": 150_000, "forest": 3_200_000, "other": 6_450_000}


def olofsson() -> StratifiedSample:
    names = list(PIXELS)
    rows = [(names[i], names[j]) for i in range(4) for j in range(4) for _ in range(OLOFSSON[i, j])]
    mapped, reference = [r[0] for r in rows], [r[1] for r in rows]
    return StratifiedSample.of(mapped, mapped, reference, PIXELS)


def test_the_worked_example_of_olofsson_2014():
    """Their section 5: half widths are 1.96 standard errors, a pixel is 30 m, areas in ha."""
    sample = olofsson()
    expected = {  # user's accuracy and area in ha with half widths; producer's accuracy, its error is tested below
        "deforestation": ((0.88, 0.07), 0.75, (21_158, 6_158)),
        "gain": ((0.73, 0.10), 0.85, (11_686, 3_756)),
        "forest": ((0.93, 0.04), 0.93, (285_770, 15_510)),
        "other": ((0.96, 0.02), 0.96, (581_386, 16_282)),
    }
    for name, (users, producers, area) in expected.items():
        assert sample.users(name).value == pytest.approx(users[0], abs=0.0051)
        assert 1.96 * sample.users(name).se == pytest.approx(users[1], abs=0.0051)
        assert sample.producers(name).value == pytest.approx(producers, abs=0.0051)
        hectares = sample.area(name).times(10_000_000 * 900 / 10_000)
        assert hectares.value == pytest.approx(area[0], abs=1)
        assert 1.96 * hectares.se == pytest.approx(area[1], rel=0.002)
    overall = sample.overall()
    assert overall.value == pytest.approx(0.95, abs=0.005)
    assert 1.96 * overall.se == pytest.approx(0.02, abs=0.005)


def test_producers_accuracy_against_equation_7_of_olofsson_2014():
    sample, pixels = olofsson(), np.array(list(PIXELS.values()), float)
    n = OLOFSSON.sum(axis=1)
    users = np.diag(OLOFSSON) / n
    for j, name in enumerate(PIXELS):
        truth = (pixels * OLOFSSON[:, j] / n).sum()
        recall = pixels[j] * users[j] / truth
        others = [i for i in range(4) if i != j]
        shares = OLOFSSON[:, j] / n
        inside = pixels[j] ** 2 * (1 - recall) ** 2 * users[j] * (1 - users[j]) / (n[j] - 1)
        outside = recall**2 * sum(pixels[i] ** 2 * shares[i] * (1 - shares[i]) / (n[i] - 1) for i in others)
        assert sample.producers(name).value == pytest.approx(recall)
        # The paper leaves the finite population correction out.
        assert sample.producers(name).se == pytest.approx(np.sqrt(inside + outside) / truth, rel=5e-4)


def stehman() -> StratifiedSample:
    """Table 2 of Stehman 2014: four strata of 10 points, classes A to D."""
    strata = "A" * 10 + "B" * 10 + "C" * 10 + "D" * 10
    mapped = "AAAAAAABBB" + "A" + "B" * 9 + "BBCCCCCCBB" + "D" * 10
    reference = "AAAAACBABC" + "ABBBBBAABB" + "CCCCCDDBBA" + "DDDDDDDCCB"
    sizes = {"A": 40_000, "B": 30_000, "C": 20_000, "D": 10_000}
    return StratifiedSample.of(list(strata), list(mapped), list(reference), sizes)


def test_the_worked_example_of_stehman_2014():
    """Pages 4932 to 4936; strata are not the map's classes."""
    sample = stehman()
    expected = [
        (sample.area("A"), 0.35, 0.082),
        (sample.area("C"), 0.20, 0.064),
        (sample.overall(), 0.63, 0.085),
        (sample.users("B"), 0.574, 0.125),
        (sample.producers("B"), 0.794, 0.117),
    ]
    for estimate, value, se in expected:
        assert estimate.value == pytest.approx(value, abs=0.0005)
        assert estimate.se == pytest.approx(se, abs=0.0005)
    assert sample.matrix()[1, 2] == pytest.approx(0.08)


def test_stehman_against_another_implementation():
    """All classes, standard errors included, as R's `mapac` prints them for the same data."""
    sample = stehman()
    expected = {
        "A": (0.7419355, 0.1645627, 0.6571429, 0.1477318),
        "B": (0.5744681, 0.1248023, 0.7941176, 0.1165671),
        "C": (0.5000000, 0.2151657, 0.3000000, 0.1504438),
        "D": (0.7000000, 0.1527525, 0.6363636, 0.1623242),
    }
    for name, numbers in expected.items():
        users, producers = sample.users(name), sample.producers(name)
        # `mapac` leaves the finite population correction out, here a factor of sqrt(1 - 10 / N) > 0.9995.
        assert (users.value, users.se, producers.value, producers.se) == pytest.approx(numbers, rel=6e-4)


def test_no_error_seen_is_no_certainty():
    sample = StratifiedSample.of(list("aabb") * 20, list("aabb") * 20, list("aabb") * 20, {"a": 100, "b": 9_900})
    overall = sample.overall()
    assert overall.value == 1
    assert overall.high == 1
    assert overall.low < 0.95
    assert overall.flags == ("no variation seen",)


def test_a_class_that_was_never_mapped():
    sample = StratifiedSample.of(list("aaaa"), list("aaaa"), list("aaab"), {"a": 1000})
    users = sample.users("b")
    assert math.isnan(users.value)
    assert (users.low, users.high, users.flags) == (0, 1, ("not seen",))
    assert accuracy_table(sample)["classes"]["b"]["users"]["value"] is None


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(UsageError, match="no interpreted point"):
        StratifiedSample.of(["a"], ["a"], ["a"], {"a": 10, "b": 10})
    with pytest.raises(UsageError, match="no size"):
        StratifiedSample.of(["a", "c"], ["a", "a"], ["a", "a"], {"a": 10})
    with pytest.raises(UsageError, match="fill in"):
        StratifiedSample.of([], [], [], {"a": 10})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=6, max_size=60))
def test_estimates_lie_in_their_limits_and_never_have_zero_width(points):
    points = [*points, *((h, h, h) for h in range(3) for _ in range(2))]
    sample = StratifiedSample.of(
        [p[0] for p in points], [p[1] for p in points], [p[2] for p in points], {0: 50.0, 1: 900.0, 2: 9000.0}
    )
    assert sum(sample.area(c).value for c in sample.classes) == pytest.approx(1)
    assert sample.matrix().sum() == pytest.approx(1)
    everything = [sample.overall()]
    for name in sample.classes:
        everything += [sample.users(name), sample.producers(name), sample.area(name)]
    for estimate in everything:
        assert 0 <= estimate.low <= estimate.high <= 1
        assert estimate.high - estimate.low > 1e-4
        if not math.isnan(estimate.value):
            assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9
