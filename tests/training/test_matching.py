import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from tuban.training.matching import ObjectStream, Overlaps, match, overlaps


def by_hand(called: np.ndarray, label: np.ndarray, min_iou: float) -> tuple[int, float]:
    """Best assignment by trying all: number of pairs and total IoU."""
    eight = np.ones((3, 3))
    truth, t = ndimage.label(label == 1, eight)
    mapped, c = ndimage.label(called & (label <= 1), eight)
    iou = np.zeros((t, c))
    for i in range(t):
        for j in range(c):
            a, b = truth == i + 1, mapped == j + 1
            iou[i, j] = (a & b).sum() / (a | b).sum()
    iou[iou < min_iou] = 0

    def best(row: int, free: frozenset[int]) -> float:
        if row == t:
            return 0.0
        return max([best(row + 1, free), *(iou[row, j] + best(row + 1, free - {j}) for j in free if iou[row, j])])

    return iou, best(0, frozenset(range(c)))


def total_iou(objects: Overlaps, min_iou: float) -> float:
    """Total IoU of what was matched, found again from the masks of matched objects."""
    made = match(objects, min_iou)
    keep = made.found[objects.pairs[:, 0]] & made.right[objects.pairs[:, 1]] & (objects.iou >= min_iou)
    # Of the pairs among matched objects the best assignment is the one taken; rebuild it from them alone.
    from scipy.optimize import linear_sum_assignment

    worth = np.zeros((objects.truth_px.size, objects.called_px.size))
    worth[objects.pairs[keep, 0], objects.pairs[keep, 1]] = objects.iou[keep]
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return float(worth[rows, columns].sum())


@settings(max_examples=60, deadline=None)
@given(
    arrays(bool, (8, 9)),
    arrays(np.uint8, (8, 9), elements=st.sampled_from([0, 0, 1, 255])),
    st.sampled_from([0.1, 0.3]),
)
def test_the_assignment_is_the_best_of_all(called, label, min_iou):
    objects = overlaps(called, label)
    iou, expected = by_hand(called, label, min_iou)
    assert sorted(objects.iou[objects.iou >= min_iou]) == pytest.approx(sorted(iou[iou > 0]))
    assert total_iou(objects, min_iou) == pytest.approx(expected)
    made = match(objects, min_iou)
    assert made.found.sum() == made.right.sum()


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (13, 7)), arrays(bool, (13, 7)), st.integers(1, 6))
def test_strips_make_no_difference(called, label, rows):
    stream = ObjectStream()
    for row in range(0, 13, rows):
        stream.add(called[row : row + rows], label[row : row + rows].astype(np.uint8))
    whole, parts = overlaps(called, label.astype(np.uint8)), stream.overlaps(100.0)
    assert sorted(whole.truth_px) == sorted(parts.truth_px)
    assert sorted(whole.called_px) == sorted(parts.called_px)
    assert sorted(whole.iou) == pytest.approx(sorted(parts.iou))
    assert match(whole, 0.2).counts() == match(parts, 0.2).counts()


def test_splits_and_merges_are_counted_apart():
    label = np.zeros((20, 40), np.uint8)
    label[2:8, 2:14] = 1  # seen as two
    label[12:18, 2:8] = label[12:18, 10:16] = 1  # seen as one
    called = np.zeros((20, 40), bool)
    called[2:8, 2:7] = called[2:8, 9:14] = True
    called[12:18, 2:16] = True
    called[2:8, 30:36] = True  # a false alarm
    counts = match(overlaps(called, label)).counts()
    assert counts == {
        "truth": 3, "found": 2, "called": 4, "right": 2, "split": 1, "merge": 1,
        "recall": 0.6667, "precision": 0.5, "f1": 0.5714,
    }  # fmt: skip


def test_size_decides_what_counts_not_what_matches():
    label = np.zeros((12, 12), np.uint8)
    label[2:6, 2:8] = 1  # 24 pixels
    called = np.zeros((12, 12), bool)
    called[2:6, 2:6] = True  # 16 pixels
    made = match(overlaps(called, label, 100.0))
    assert made.counts(2000)["found"] == 1
    assert made.counts(2000)["called"] == 0
    assert made.counts(1000, 2000)["right"] == 1
    nominal = match(overlaps(called, label, 99.6 * 20 / 24))
    assert nominal.counts(2000 * 20 / 24 * 24 / 20)["truth"] == 1  # 24 px of 83 m2: 1,992 m2 are 2,000 nominally


def test_nothing_anywhere():
    made = match(overlaps(np.zeros((4, 4), bool), np.zeros((4, 4), np.uint8)))
    assert made.counts()["truth"] == made.counts()["called"] == 0
