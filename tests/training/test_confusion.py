import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tuban.training.confusion import Confusion, Transitions, macro_f1

CLASSES = st.sampled_from([0, 1, 5, 9, 255])


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, (9, 6), elements=CLASSES), arrays(np.uint8, (9, 6), elements=CLASSES))
def test_measures_are_those_counted_by_hand(mapped, truth):
    values = (1, 5, 9)
    counted = Confusion(["a", "b", "c"], values)
    for row in range(0, 9, 4):
        counted.add(mapped[row : row + 4], truth[row : row + 4])
    known = np.isin(mapped, values) & np.isin(truth, values)
    assert counted.pixels == known.sum()
    found = counted.measures()
    for name, value in zip("abc", values, strict=True):
        tp = int(((mapped == value) & (truth == value) & known).sum())
        fp = int(((mapped == value) & (truth != value) & known).sum())
        fn = int(((mapped != value) & (truth == value) & known).sum())
        if not tp + fp + fn:
            assert name not in found
            continue
        assert found[name]["support"] == tp + fn
        assert found[name]["precision"] == pytest.approx(tp / max(tp + fp, 1), abs=1e-4)
        assert found[name]["recall"] == pytest.approx(tp / max(tp + fn, 1), abs=1e-4)
        assert found[name]["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-4)
        assert found[name]["iou"] == pytest.approx(tp / (tp + fp + fn), abs=1e-4)
    assert counted.macro_f1() == pytest.approx(macro_f1(counted.matrix()), abs=1e-4)


def test_transitions_are_pairs_of_different_classes():
    before = np.array([[1] * 6, [5] * 6], np.uint8)
    after = np.array([[5] * 6, [5] * 6], np.uint8)
    mapped_after = after.copy()
    mapped_after[0, :2] = 1
    counted = Transitions(["crop", "built"], (1, 5))
    counted.add((before, mapped_after), (before, after))
    assert counted.measures(least=1) == {
        "crop → built": {"precision": 1.0, "recall": 0.6667, "f1": 0.8, "iou": 0.6667, "support": 6}
    }
    assert counted.measures(least=7) == {}
