from types import SimpleNamespace

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from tuban.inference.background import RelativeBackend, _spread, measure_background


class Reader:
    """A pair of one band; AFTER minus BEFORE is the logit."""

    crs = CRS.from_epsg(32650)
    transform = Affine(10, 0, 5e5, 0, -10, 4e6)

    def __init__(self, logit: np.ndarray, valid: np.ndarray | None = None) -> None:
        self.logit, self.height, self.width = logit.astype(np.float32), *logit.shape
        self.valid = np.ones(logit.shape, bool) if valid is None else valid

    def read(self, window, names):
        rows = slice(int(window.row_off), int(window.row_off + window.height))
        cols = slice(int(window.col_off), int(window.col_off + window.width))
        after = self.logit[None, rows, cols]
        return SimpleNamespace(before=np.zeros_like(after), after=after.copy(), valid=self.valid[rows, cols])


class Backend:
    name = "exact"

    def run(self, feeds, wanted):
        assert list(wanted) == ["change"]
        change = 1 / (1 + np.exp(-(feeds["after"] - feeds["before"])[:, 0].astype(np.float64)))
        return {"change": np.nan_to_num(change).astype(np.float32)}


def bundle(quantile: float | None) -> SimpleNamespace:
    calibration = {"slope": 1.0, "intercept": -3.0} | ({} if quantile is None else {"background_quantile": quantile})
    required = ("B04",)
    return SimpleNamespace(calibration=calibration, stride=16, bands=required, required_bands=required, name="trial")


def test_without_a_quantile_nothing_is_touched():
    assert measure_background(Backend(), Reader(np.zeros((64, 64))), bundle(None)) == {}


@pytest.mark.parametrize("haze", [-2.0, 0.0, 2.5])
def test_a_scene_wide_level_makes_no_difference(haze):
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 1, (300, 280))
    logit[50:60, 50:60] += 6
    reader = Reader(logit + haze)
    measured = measure_background(Backend(), reader, bundle(0.9))
    backend = RelativeBackend(Backend(), measured["shift"])
    assert measured["background_logit"] == pytest.approx(np.quantile(reader.logit, 0.9), abs=1e-3)
    feeds = {"before": np.zeros((1, 1, 300, 280), np.float32), "after": reader.logit[None, None]}
    got = backend.run(feeds, ["change"])["change"][0]
    expected = 1 / (1 + np.exp(-(logit - np.quantile(logit, 0.9) - 3.0)))
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_invalid_pixels_do_not_count():
    logit = np.zeros((64, 64))
    logit[:32] = 9
    valid = np.ones((64, 64), bool)
    valid[:32] = False
    measured = measure_background(Backend(), Reader(logit, valid), bundle(0.9))
    assert measured["background_logit"] == pytest.approx(0, abs=1e-3)


def test_nothing_valid_measures_nothing():
    reader = Reader(np.zeros((64, 64)), np.zeros((64, 64), bool))
    assert measure_background(Backend(), reader, bundle(0.9)) == {}


def test_a_little_that_the_sample_misses_still_decides():
    logit = np.full((2048, 2048), 2.0, dtype=np.float32)
    valid = np.zeros(logit.shape, bool)
    valid[300:310, 600:610] = True
    measured = measure_background(Backend(), Reader(logit, valid), bundle(0.9))
    assert measured["pixels"] == 100
    assert measured["background_logit"] == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize(("rows", "cols"), [(3, 4), (4, 4), (15, 15), (16, 16), (17, 31), (300, 2), (2, 300), (1, 40)])
def test_the_sample_is_spread_whatever_the_shape(rows, cols):
    """Equal steps through the row-major index fell on one column where its length divided the step."""
    chosen = np.array(_spread(rows, cols))
    assert len(set(chosen.tolist())) == len(chosen)
    assert chosen.min() >= 0
    assert chosen.max() < rows * cols
    if rows * cols <= 16:
        assert len(chosen) == rows * cols
    else:
        assert len(chosen) >= 14
        for place, count in ((chosen // cols, rows), (chosen % cols, cols)):
            quarters = {int(quarter) for quarter in place * min(4, count) // count}
            assert len(quarters) == min(4, count)
