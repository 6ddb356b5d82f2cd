"""Registration against shifts made by sampling an analytic scene, so that no resampling blurs the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuban.data.registration import (
    RegistrationSettings,
    Shift,
    confirm,
    corrected_by,
    sample_windows,
    unmeasured,
    vote,
    window_shift,
)

SETTINGS = RegistrationSettings()


def blobs(size: int, dx: float, dy: float, seed: int = 0, count: int = 150) -> np.ndarray:
    """Two bands of soft-edged discs whose centres stand `dx`, `dy` pixels to the right and below."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[0:size, 0:size].astype(float)
    image = np.zeros((2, size, size))
    for y, x, radius, a, b in zip(
        rng.uniform(-5, size + 5, count), rng.uniform(-5, size + 5, count), rng.uniform(3, 9, count),
        rng.uniform(0.1, 0.4, count), rng.uniform(0.1, 0.4, count), strict=True,
    ):  # fmt: skip
        disc = 1 / (1 + np.exp((np.hypot(row - y - dy, col - x - dx) - radius) / 0.8))
        image += np.array([a, b])[:, None, None] * disc
    return image


@settings(max_examples=12, deadline=None)
@given(st.floats(-4, 4), st.floats(-4, 4), st.integers(0, 20))
def test_window_shift_is_right_and_has_the_right_sign(dx, dy, seed):
    rng = np.random.default_rng(seed)
    before = blobs(96, 0, 0, seed)
    after = 0.7 * blobs(96, dx, dy, seed) + 0.05 + rng.normal(0, 0.005, before.shape)
    shift = window_shift(before, after, np.ones((96, 96), dtype=bool))
    assert shift is not None
    assert np.hypot(shift.dx - dx, shift.dy - dy) < 0.12


def test_inverted_contrast_does_not_matter():
    shift = window_shift(blobs(96, 0, 0), 1 - blobs(96, 1.5, -0.5), np.ones((96, 96), dtype=bool))
    assert shift is not None
    assert np.hypot(shift.dx - 1.5, shift.dy + 0.5) < 0.1


def test_nodata_edges_do_not_pull():
    valid = np.ones((96, 96), dtype=bool)
    valid[:, :20] = False  # the same columns are missing in both: a shift of zero would be the easy wrong answer
    before, after = blobs(96, 0, 0) * valid, blobs(96, 2, 1) * valid
    shift = window_shift(before, after, valid)
    assert shift is not None
    assert np.hypot(shift.dx - 2, shift.dy - 1) < 0.2


def test_flat_window_is_not_measured():
    flat, valid = np.full((2, 64, 64), 0.3), np.ones((64, 64), dtype=bool)
    assert window_shift(flat, flat, valid) is None
    assert window_shift(flat, flat, ~valid) is None


@given(st.integers(2, 9), st.floats(-4, 4), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_vote_outvotes_a_minority(wrong, dx, dy):
    rng = np.random.default_rng(wrong)
    good = [Shift(*(np.array([dx, dy]) + rng.normal(0, 0.05, 2))) for _ in range(14)]
    bad = [Shift(*rng.uniform(-60, 60, 2)) for _ in range(wrong)]
    result = vote(bad + good, SETTINGS)
    assert np.hypot(result.dx_px - dx, result.dy_px - dy) < 0.15
    assert result.windows_used >= 14


def test_noise_around_zero_is_not_corrected():
    rng = np.random.default_rng(0)
    for _ in range(200):
        result = vote([Shift(*rng.normal(0, 0.3, 2)) for _ in range(5)], SETTINGS)
        assert result.action != "corrected" or result.shift_px >= 3 * 1.25 * 0.05 / np.sqrt(5)
    actions = [vote([Shift(*rng.normal(0, 0.3, 2)) for _ in range(9)], SETTINGS).action for _ in range(200)]
    assert actions.count("corrected") <= 20  # of 200 well registered pairs with very noisy windows


@pytest.mark.parametrize(
    ("shifts", "action"),
    [
        ([Shift(0.05, 0.05)] * 6, "none"),
        ([Shift(0.3, 0.2)] * 6, "corrected"),
        ([Shift(0.3, 0.2)], "none"),  # one window cannot vouch for a small shift
        ([Shift(3.0, 0.2)], "corrected"),
        ([Shift(6.0, 0.0)] * 6, "downgraded"),
        ([Shift(0.0, 12.0)] * 6, "refused"),
        ([Shift(20.0 * i, -15.0 * i) for i in range(8)], "downgraded"),
        ([], "downgraded"),
    ],
)
def test_actions(shifts, action):
    result = vote(shifts, SETTINGS)
    assert result.action == action
    assert bool(result.reason) == (action in {"downgraded", "refused"})
    assert result.correction == ((result.dx_px, result.dy_px) if action == "corrected" else (0.0, 0.0))


def test_confirm():
    first = vote([Shift(2.0, 0.0)] * 6, SETTINGS)
    assert confirm(first, vote([Shift(0.05, 0.0)] * 6, SETTINGS), SETTINGS).action == "corrected"
    assert confirm(first, vote([Shift(0.9, 0.0)] * 6, SETTINGS), SETTINGS).action == "downgraded"
    assert confirm(first, unmeasured("none"), SETTINGS).action == "downgraded"
    small = vote([Shift(0.2, 0.0)] * 6, SETTINGS)
    assert confirm(small, vote([Shift(0.5, 0.0)] * 6, SETTINGS), SETTINGS).action == "downgraded"
    assert corrected_by(1.0, 2.0).correction == (1.0, 2.0)
    assert unmeasured("x").summary()["dx_px"] is None


@given(st.integers(1, 3000), st.integers(1, 3000))
@settings(max_examples=60, deadline=None)
def test_sample_windows_lie_inside_and_are_bounded(height, width):
    windows = list(sample_windows(height, width, SETTINGS))
    assert len(windows) <= SETTINGS.windows
    assert bool(windows) == (min(height, width) >= SETTINGS.min_window_px)
    for w in windows:
        assert w.col_off >= 0
        assert w.row_off >= 0
        assert w.col_off + w.width <= width
        assert w.row_off + w.height <= height
