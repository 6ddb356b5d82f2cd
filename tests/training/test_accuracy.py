import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_calibration_error,
    binary_f1_score,
    binary_jaccard_index,
)

from tuban.training.accuracy import BINS, Histogram, best_threshold, bootstrap, objects, pool


def scores(seed: int = 0, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(count) < 0.1).astype(np.uint8)
    score = np.clip(rng.normal(0.3 + 0.3 * label, 0.15), 0, 0.999).astype(np.float32)
    # Scores at bin centres, so that binning loses nothing and torchmetrics must agree.
    return (np.floor(score * BINS) + 0.5) / BINS, label


def test_against_torchmetrics():
    score, label = scores()
    histogram = Histogram.of(score, label)
    threshold = 200
    called, truth = torch.from_numpy(score), torch.from_numpy(label.astype(int))
    at = threshold / BINS
    assert histogram.at(threshold)["f1"] == pytest.approx(float(binary_f1_score(called, truth, threshold=at)), abs=1e-6)
    assert histogram.at(threshold)["iou"] == pytest.approx(
        float(binary_jaccard_index(called, truth, threshold=at)), abs=1e-6
    )
    assert histogram.auc() == pytest.approx(float(binary_auroc(called, truth)), abs=1e-6)
    assert histogram.ece(16) == pytest.approx(float(binary_calibration_error(called, truth, n_bins=16)), abs=1e-5)


def test_best_threshold_is_best():
    score, label = scores(1)
    histogram = Histogram.of(score, label)
    best = best_threshold(histogram)
    assert histogram.at(best)["f1"] == pytest.approx(max(histogram.at(t)["f1"] for t in range(BINS)))


def test_unknown_pixels_do_not_count():
    score, label = scores(2)
    odd = label.copy()
    odd[::2] = 255
    assert np.array_equal(Histogram.of(score, odd).changed, Histogram.of(score[1::2], label[1::2]).changed)


def test_pooling_adds_counts():
    score, label = scores(3)
    halves = pool([Histogram.of(score[:1000], label[:1000]), Histogram.of(score[1000:], label[1000:])])
    assert np.array_equal(halves.changed, Histogram.of(score, label).changed)


def test_bootstrap_covers_a_known_mean():
    """Of 95 % intervals over samples of a known distribution, about 95 % hold its mean (fewer for small samples)."""
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        sample = rng.normal(5, 2, 40)
        low, high = bootstrap(40, lambda index, sample=sample: float(sample[index].mean()), draws=300, seed=trial)
        inside += low <= 5 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_objects():
    label = np.zeros((30, 30), dtype=np.uint8)
    label[2:7, 2:7] = 1  # found by a quarter
    label[12:17, 2:7] = 1  # missed
    label[20:22, 20:22] = 1  # too small to count
    called = np.zeros((30, 30), dtype=bool)
    called[2:7, 2:4] = True  # right, but below the minimum size
    called[20:25, 5:10] = True  # wrong
    assert objects(called, label) == {"truth": 2, "found": 1, "called": 1, "right": 0}


def test_size_classes_partition_the_objects():
    rng = np.random.default_rng(0)
    label = (rng.random((60, 60)) < 0.3).astype(np.uint8)
    called = rng.random((60, 60)) < 0.3
    parts = [objects(called, label, min_pixels=low, below=high) for low, high in ((1, 4), (4, 20), (20, np.inf))]
    whole = objects(called, label, min_pixels=1)
    assert {key: sum(part[key] for part in parts) for key in whole} == whole


@settings(max_examples=50, deadline=None)
@given(arrays(bool, (12, 12)), st.integers(1, 6))
def test_a_perfect_map_finds_everything(mask, smallest):
    counted = objects(mask, mask.astype(np.uint8), min_pixels=smallest)
    assert counted["truth"] == counted["found"] == counted["called"] == counted["right"]
