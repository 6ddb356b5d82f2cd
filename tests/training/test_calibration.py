import numpy as np
import pytest

from tuban.errors import UsageError
from tuban.training.accuracy import BINS, Histogram
from tuban.training.calibration import (
    calibration_summary,
    fit_platt,
    fit_scaling,
    precision_summary,
    reliability,
    scaled,
    threshold_for_precision,
)


def overconfident(seed: int, factor: float = 2.0, count: int = 60_000) -> Histogram:
    """Probabilities whose logits are `factor` times too large."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1, 1.2, count)
    label = (rng.random(count) < 1 / (1 + np.exp(-true))).astype(np.uint8)
    return Histogram.of(1 / (1 + np.exp(-factor * true)), label)


def test_a_temperature_is_found_again():
    histogram = overconfident(0)
    slope, intercept = fit_scaling(histogram, temperature_only=True)
    assert slope == pytest.approx(0.5, abs=0.03)
    assert intercept == 0
    assert scaled(histogram, slope, intercept).ece() < 0.01 < histogram.ece()


def test_scaling_held_out():
    summary = calibration_summary({str(i): overconfident(i) for i in range(3)})
    assert summary["temperature"]["temperature"] == pytest.approx(2, abs=0.1)
    assert summary["temperature"]["ece_held_out"] < 0.01
    assert summary["platt"]["ece_held_out"] < 0.01
    assert summary["ece"] > 0.05


def test_reliability_is_the_share_changed_of_each_bin():
    score = np.array([0.1, 0.1, 0.9, 0.9, 0.9, 0.9])
    label = np.array([0, 1, 1, 1, 1, 0], np.uint8)
    rows = reliability(Histogram.of(score, label), bins=2)
    assert [(r["changed"], r["pixels"]) for r in rows] == [(0.5, 2), (0.75, 4)]
    assert rows[1]["probability"] == pytest.approx(0.9, abs=1 / BINS)


def test_the_threshold_for_a_precision_is_the_lowest_that_has_it():
    histogram = overconfident(1)
    at = threshold_for_precision(histogram, 0.7)
    assert histogram.at(at)["precision"] >= 0.7
    assert max(histogram.at(t)["precision"] for t in range(at)) < 0.7
    with pytest.raises(UsageError, match="no threshold reaches"):
        threshold_for_precision(Histogram.of(np.full(100, 0.9), np.zeros(100, np.uint8)), 0.5)
    with pytest.raises(UsageError, match="out of range"):
        threshold_for_precision(histogram, 60)


def test_no_place_chooses_its_own_threshold():
    places = {"a": overconfident(2), "b": overconfident(3), "odd": overconfident(4, count=200)}
    upside_down = Histogram(places["odd"].unchanged, places["odd"].changed)
    summary = precision_summary({**places, "odd": upside_down}, 0.7)
    assert summary["held_out"]["precision"] == pytest.approx(0.7, abs=0.03)
    alone = precision_summary({"a": places["a"]}, 0.7)
    assert alone["threshold"] is not None
    assert alone["held_out"] is None
    assert "one place" in alone["why"]


def test_a_precision_out_of_reach_is_said_and_loses_nothing():
    never = Histogram.of(np.full(100, 0.9), np.zeros(100, np.uint8))
    summary = precision_summary({"a": never, "b": never}, 0.5)
    assert (summary["threshold"], summary["held_out"]) == (None, None)
    assert "no threshold reaches a precision of 0.5" in summary["why"]
    # Reached together, but not without the one place that has changes.
    only = precision_summary({"a": overconfident(2), "b": never}, 0.5)
    assert only["threshold"] is not None
    assert only["held_out"] is None
    assert only["why"].startswith("without a, no threshold")


def test_platt_recovers_a_known_miscalibration():
    rng = np.random.default_rng(0)
    true = rng.normal(-1, 1.5, 200_000)
    label = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(np.uint8)
    slope, intercept = fit_platt([(true - 0.7) * 2], [label])
    assert slope == pytest.approx(0.5, abs=0.02)
    assert intercept == pytest.approx(0.7, abs=0.03)
