"""Values of unknown units brought to the model's range: against numpy on the whole array."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.windows import Window

from tuban.errors import PairError
from tuban.inference.units import rescale

BUNDLE = SimpleNamespace(bands=("B03", "B04"), mean=(0.25, 0.5), std=(0.05, 0.2), units="reflectance")


@dataclass
class Pixels:
    """A pair in memory."""

    before: np.ndarray
    after: np.ndarray
    valid: np.ndarray
    crs: CRS = field(default_factory=lambda: CRS.from_epsg(32650))
    transform: Affine = field(default_factory=lambda: Affine(10, 0, 500000, 0, -10, 4000000))

    @property
    def height(self):
        return self.valid.shape[0]

    @property
    def width(self):
        return self.valid.shape[1]

    def read(self, window, names):
        rows = slice(window.row_off, window.row_off + window.height)
        cols = slice(window.col_off, window.col_off + window.width)
        return SimpleNamespace(
            before=self.before[:, rows, cols], after=self.after[:, rows, cols], valid=self.valid[rows, cols]
        )


def pixels(seed=0, shape=(60, 70), scale=40.0, offset=90.0):
    rng = np.random.default_rng(seed)
    before, after = (rng.normal(offset, scale, (2, *shape)).astype(np.float32) for _ in range(2))
    return Pixels(before, after, rng.random(shape) > 0.2)


def quartiles(values):
    return np.percentile(values, [25, 50, 75])


@given(seed=st.integers(0, 50), scale=st.floats(0.01, 1e4), offset=st.floats(-1e3, 1e4))
def test_median_and_spread_become_the_models(seed, scale, offset):
    pair = pixels(seed, scale=scale, offset=offset)
    done = rescale(pair, BUNDLE)
    read = done.read(Window(0, 0, pair.width, pair.height), BUNDLE.bands)
    for band, mean, std in zip(read.before, BUNDLE.mean, BUNDLE.std, strict=True):
        low, middle, high = quartiles(band[pair.valid])
        assert middle == pytest.approx(mean, abs=0.02 * std)
        assert (high - low) / 1.349 == pytest.approx(std, rel=0.02)


def test_both_dates_are_mapped_alike_so_that_no_change_stays_none():
    pair = pixels()
    pair.after = pair.before.copy()
    read = rescale(pair, BUNDLE).read(Window(3, 5, 20, 10), BUNDLE.bands)
    np.testing.assert_array_equal(read.before, read.after)


def test_windows_agree_so_there_are_no_seams():
    pair = pixels()
    done = rescale(pair, BUNDLE)
    whole = done.read(Window(0, 0, 70, 60), BUNDLE.bands)
    part = done.read(Window(11, 7, 30, 20), BUNDLE.bands)
    np.testing.assert_array_equal(part.after, whole.after[:, 7:27, 11:41])
    np.testing.assert_array_equal(part.valid, pair.valid[7:27, 11:41])


def test_invalid_pixels_do_not_count():
    pair = pixels()
    spoilt = pixels()
    spoilt.before[:, ~spoilt.valid] = 1e6
    assert rescale(pair, BUNDLE).gain == rescale(spoilt, BUNDLE).gain


def test_a_band_that_is_missing_stays_nan():
    pair = pixels()
    pair.before[1] = pair.after[1] = np.nan
    done = rescale(pair, BUNDLE)
    assert set(done.gain) == {"B03"}
    read = done.read(Window(0, 0, 10, 10), BUNDLE.bands)
    assert np.isnan(read.before[1]).all()
    assert np.isfinite(read.before[0]).all()


def test_a_flat_band_does_not_divide_by_zero():
    pair = pixels()
    pair.before[0] = 7
    assert np.isfinite(list(rescale(pair, BUNDLE).gain.values())).all()


def test_nothing_valid_is_refused():
    pair = pixels()
    pair.valid[:] = False
    with pytest.raises(PairError, match="no pixel is valid"):
        rescale(pair, BUNDLE)
