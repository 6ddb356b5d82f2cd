"""Radiometry against known gains, offsets and shares of change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuban.data.radiometry import RadiometrySettings, fit_gain_offset, identity


def spectra(seed: int, bands: int = 4, n: int = 3000) -> np.ndarray:
    """Correlated, skewed values like those of a landscape."""
    rng = np.random.default_rng(seed)
    return rng.gamma(3, 0.03, (1, n)) + rng.gamma(2, 0.02, (bands, n))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000),
    st.floats(0.3, 3.0),
    st.floats(-0.2, 0.2),
    st.sampled_from([0.0, 0.1, 0.2]),
    st.sampled_from(["bright", "dark", "random"]),
)
def test_exact_under_outliers(seed, gain, offset, share, kind):
    before = spectra(seed)
    after = (before - offset) / gain
    rng = np.random.default_rng(seed)
    changed = rng.random(before.shape[1]) < share
    size = (before.shape[0], int(changed.sum()))
    level = {"bright": (0.6, 0.9), "dark": (-0.3, -0.2), "random": (-0.5, 0.9)}[kind]
    after[:, changed] = (rng.uniform(*level, size) - offset) / gain
    fit = fit_gain_offset(before, after)
    np.testing.assert_allclose(fit.gain, gain, rtol=1e-6)
    np.testing.assert_allclose(fit.offset, offset, atol=1e-6)
    assert fit.action == "normalised"
    assert min(fit.correlation) > 0.999999
    assert abs(fit.inlier_fraction - (1 - changed.mean())) < 0.02


def test_undoes_the_offset_of_baseline_0400():
    before = spectra(1) * 10000
    fit = fit_gain_offset(before, before + 1000)
    np.testing.assert_allclose(fit.offset, -1000, rtol=1e-9)
    np.testing.assert_allclose(fit.apply(before + 1000), before, rtol=1e-5)


def test_noise_on_both_dates_does_not_flatten():
    # An ordinary regression of noisy on noisy gives the attenuated slope var/(var+noise) = 0.8.
    rng = np.random.default_rng(3)
    truth = rng.normal(0.2, 0.04, (3, 20000))
    noise = 0.02
    fit = fit_gain_offset(truth + rng.normal(0, noise, truth.shape), truth + rng.normal(0, noise, truth.shape))
    np.testing.assert_allclose(fit.gain, 1.0, atol=0.03)
    np.testing.assert_allclose(fit.correlation, 0.8, atol=0.08)


def test_unrelated_images_are_refused():
    fit = fit_gain_offset(spectra(1), spectra(2))
    assert fit.action == "refused"
    assert "0.20" in fit.reason


def test_middle_ground_is_downgraded():
    rng = np.random.default_rng(5)
    shared = rng.normal(0, 1, (3, 5000))
    before, after = (np.sqrt(0.33) * shared + np.sqrt(0.67) * rng.normal(0, 1, shared.shape) for _ in range(2))
    assert fit_gain_offset(before, after).action == "downgraded"


def test_missing_band_and_bad_pixels_are_left_out():
    before = spectra(4)
    after = before / 2
    after[1] = np.nan
    before[0, :50], after[2, 50:90] = np.nan, np.inf
    fit = fit_gain_offset(before, after)
    np.testing.assert_allclose([fit.gain[i] for i in (0, 2, 3)], 2)
    assert (fit.gain[1], fit.offset[1]) == (1.0, 0.0)
    assert np.isnan(fit.correlation[1])
    assert fit.samples == before.shape[1] - 90
    assert fit.summary()["correlation"][1] is None


def test_flat_bands_get_an_offset_only():
    fit = fit_gain_offset(np.full((2, 500), 0.3), np.full((2, 500), 0.1))
    np.testing.assert_allclose(fit.apply(np.full((2, 1), 0.1)), 0.3, rtol=1e-6)
    assert fit.action == "downgraded"


def test_too_few_samples_and_wrong_shapes():
    few = fit_gain_offset(np.ones((2, 5)), np.ones((2, 5)))
    assert (few.action, few.gain) == ("downgraded", (1.0, 1.0))
    assert fit_gain_offset(np.full((2, 500), np.nan), np.ones((2, 500))).action == "downgraded"
    with pytest.raises(ValueError, match="must both be"):
        fit_gain_offset(np.ones((2, 5)), np.ones((3, 5)))
    assert identity(2, "off").score != identity(2, "off").score  # NaN


def test_same_samples_same_line_and_bounded_samples():
    before, after = spectra(6), spectra(6) * 1.5 + np.random.default_rng(0).normal(0, 0.01, (4, 3000))
    few = RadiometrySettings(max_pixels=500)
    assert fit_gain_offset(before, after, settings=few) == fit_gain_offset(before, after, settings=few)
