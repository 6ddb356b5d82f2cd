"""Radiometric comparability of two images: a robust gain and offset per band over the pixels that did not change.

AFTER is mapped onto BEFORE, `before ≈ gain * after + offset`. The line is a reduced major axis (the ratio of
spreads), because both images carry noise and an ordinary regression would flatten the image it is applied to.
Changed pixels are found jointly over all bands and left out, so what changed does not decide what is normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

FloatArray = NDArray[np.floating[Any]]
Action = Literal["none", "normalised", "downgraded", "refused"]


class RadiometrySettings(BaseModel):
    """Limits of the radiometric comparison; `docs/pairs.md` reports the measurements behind the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    min_pixels: int = Field(64, ge=8, description="fewer jointly valid samples: no fit, the pair is downgraded")
    max_pixels: int = Field(60_000, ge=64, description="samples used, spread over the overlap")
    refuse_below: float = Field(0.20, ge=-1, le=1, description="score (see `Radiometry.score`) that cannot be compared")
    downgrade_below: float = Field(0.45, ge=-1, le=1, description="score that is compared with less confidence")
    outlier_sigmas: float = Field(2.5, gt=0, description="RMS residual over the bands, in robust sigmas, of a change")
    max_iterations: int = Field(30, ge=1)


@dataclass(frozen=True, slots=True)
class Radiometry:
    """What was measured between two images and what is done about it.

    Attributes:
        gain: per band, multiplies AFTER; 1 where the band is missing or flat.
        offset: per band, is added to AFTER after the gain, in BEFORE's units.
        correlation: per band, Pearson, over the pixels taken as unchanged; NaN where a band is missing or flat.
        inlier_fraction: share of samples taken as unchanged, 0 to 1.
        samples: number of jointly valid samples.
        action: "none" (identity), "normalised", "downgraded" (normalised, but less to be trusted), "refused".
        reason: why the action is not simply "normalised"; empty otherwise.
    """

    gain: tuple[float, ...]
    offset: tuple[float, ...]
    correlation: tuple[float, ...]
    inlier_fraction: float
    samples: int
    action: Action
    reason: str = ""

    @property
    def score(self) -> float:
        """Mean correlation of the measured bands; NaN where none could be measured."""
        known = [value for value in self.correlation if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    def apply(self, after: FloatArray) -> NDArray[np.float32]:
        """Map AFTER `(bands, ...)` onto BEFORE's radiometry; NaN stays NaN."""
        shape = (-1,) + (1,) * (after.ndim - 1)
        gain = np.asarray(self.gain, dtype=np.float32).reshape(shape)
        offset = np.asarray(self.offset, dtype=np.float32).reshape(shape)
        return np.asarray(after, dtype=np.float32) * gain + offset

    def summary(self) -> dict[str, object]:
        """Return the JSON-ready record for run.json; an unmeasured correlation is null."""
        return {
            "gain": [round(v, 6) for v in self.gain],
            "offset": [round(v, 6) for v in self.offset],
            "correlation": [None if math.isnan(v) else round(v, 4) for v in self.correlation],
            "score": None if math.isnan(self.score) else round(self.score, 4),
            "inlier_fraction": round(self.inlier_fraction, 4),
            "samples": self.samples,
            "action": self.action,
            "reason": self.reason,
        }


def identity(bands: int, reason: str, *, action: Action = "none", samples: int = 0) -> Radiometry:
    """Return the mapping that changes nothing, with the reason why nothing was fitted."""
    return Radiometry((1.0,) * bands, (0.0,) * bands, (math.nan,) * bands, 0.0, samples, action, reason)


def fit_gain_offset(before: FloatArray, after: FloatArray, *, settings: RadiometrySettings | None = None) -> Radiometry:
    """Fit the gain and offset per band that map AFTER onto BEFORE over unchanged pixels.

    Samples that are NaN or infinite in any measured band of either image are left out; a band that is NaN
    everywhere in one image is not measured and keeps gain 1 and offset 0.

    Args:
        before: `(bands, n)` samples of the first date, in any unit.
        after: `(bands, n)` samples of the same places at the second date, in any unit.
        settings: limits; the defaults are those used for `tuban detect`.

    Returns:
        The mapping, the correlation over unchanged samples, and the action that follows from the settings.

    Raises:
        ValueError: the shapes differ or are not `(bands, n)`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> before = rng.uniform(0.0, 0.4, (2, 500))
        >>> fit = fit_gain_offset(before, (before + 0.1) / 2)
        >>> [round(v, 6) for v in fit.gain + fit.offset]
        [2.0, 2.0, -0.1, -0.1]

    References:
        Canty & Nielsen (2008), Automatic radiometric normalization of multitemporal satellite imagery with the
        iteratively re-weighted MAD transformation, for the use of unchanged pixels in all bands together.
    """
    settings = settings or RadiometrySettings()
    if before.ndim != 2 or before.shape != after.shape:
        raise ValueError(f"before {before.shape} and after {after.shape} must both be (bands, samples)")
    bands = before.shape[0]
    x, y = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    measured: NDArray[np.bool_] = np.logical_and(np.isfinite(x).any(axis=1), np.isfinite(y).any(axis=1))
    valid = np.isfinite(x[measured]).all(axis=0) & np.isfinite(y[measured]).all(axis=0)
    samples = int(valid.sum()) if measured.any() else 0
    if samples < settings.min_pixels:
        reason = f"{samples} jointly valid samples, fewer than {settings.min_pixels}: not normalised"
        return identity(bands, reason, action="downgraded", samples=samples)
    x, y = x[np.ix_(measured, valid)], y[np.ix_(measured, valid)]
    step = -(-samples // settings.max_pixels)
    gain, offset, keep = _fit(x[:, ::step], y[:, ::step], settings)
    correlation = _correlation(x[:, ::step][:, keep], y[:, ::step][:, keep])
    full = identity(bands, "", action="normalised", samples=samples)
    result = replace(
        full,
        gain=_spread_out(measured, gain, 1.0),
        offset=_spread_out(measured, offset, 0.0),
        correlation=_spread_out(measured, correlation, math.nan),
        inlier_fraction=float(keep.mean()),
    )
    return _judge(result, settings)


def _judge(result: Radiometry, settings: RadiometrySettings) -> Radiometry:
    """Decide the action from the score."""
    score = result.score
    if math.isnan(score):
        return replace(result, action="downgraded", reason="no band varies in both images: only offsets were fitted")
    if score < settings.refuse_below:
        reason = f"correlation {score:.2f} over unchanged pixels is below {settings.refuse_below:.2f}"
        return replace(result, action="refused", reason=reason)
    if score < settings.downgrade_below:
        reason = f"correlation {score:.2f} over unchanged pixels is below {settings.downgrade_below:.2f}"
        return replace(result, action="downgraded", reason=reason)
    return result


def _fit(
    x: FloatArray, y: FloatArray, settings: RadiometrySettings
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Trim and refit until the set of unchanged samples stands still; start from medians of pairwise slopes."""
    gain, offset = _start(x, y)
    # Exact data have a spread of zero: a floor far below any sensor's noise keeps the division defined.
    floor = 1e-6 * np.maximum(_mad(y), 1e-12)
    keep = np.ones(x.shape[1], dtype=bool)
    for _ in range(settings.max_iterations):
        residual = y - (gain[:, None] * x + offset[:, None])
        z = residual / np.maximum(_mad(residual), floor)[:, None]
        trimmed = np.sqrt((z**2).mean(axis=0)) <= settings.outlier_sigmas
        if np.array_equal(trimmed, keep) or trimmed.sum() < 8:
            break
        keep = trimmed
        gain, offset = _reduced_major_axis(x[:, keep], y[:, keep])
    return gain, offset, keep


def _start(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Median slope and intercept over distant pairs of samples (Theil-Sen): right with up to 29 % outliers."""
    rng = np.random.default_rng(20_240_901)  # fixed: the same samples always give the same line
    first, second = rng.integers(0, x.shape[1], (2, 4000))
    dx, dy = x[:, first] - x[:, second], y[:, first] - y[:, second]
    far = np.abs(dx) >= np.median(np.abs(dx), axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(far & (dx != 0), dy / dx, np.nan)
    flat = np.isnan(slopes).all(axis=1)
    slopes[flat] = 1.0
    gain = np.nanmedian(slopes, axis=1)
    # Noise or a season that inverts contrast can pull the slope to zero; the ratio of spreads is never zero.
    ratio = np.divide(_mad(y), _mad(x), out=np.ones_like(gain), where=(_mad(x) > 0) & (_mad(y) > 0))
    gain = np.where(gain < 0.2 * ratio, ratio, gain)
    return gain, np.median(y - gain[:, None] * x, axis=1)


def _reduced_major_axis(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ratio of standard deviations and the offset through the means; gain 1 where a band is flat."""
    sx, sy = x.std(axis=1), y.std(axis=1)
    tiny = 1e-12
    gain = np.divide(sy, sx, out=np.ones_like(sx), where=(sx > tiny) & (sy > tiny))
    return gain, y.mean(axis=1) - gain * x.mean(axis=1)


def _correlation(x: FloatArray, y: FloatArray) -> FloatArray:
    """Pearson correlation per band; NaN where a band is flat."""
    xc, yc = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    power = np.sqrt((xc**2).sum(axis=1) * (yc**2).sum(axis=1))
    nan = np.full(x.shape[0], np.nan)
    # Rounding may leave a perfect line a hair above 1.
    return np.asarray(np.clip(np.divide((xc * yc).sum(axis=1), power, out=nan, where=power > 1e-24), -1.0, 1.0))


def _mad(values: FloatArray) -> FloatArray:
    """Robust sigma per band from the median absolute deviation."""
    centred = values - np.median(values, axis=1, keepdims=True)
    return np.asarray(1.4826 * np.median(np.abs(centred), axis=1))


def _spread_out(measured: NDArray[np.bool_], values: FloatArray, fill: float) -> tuple[float, ...]:
    """Put the values of the measured bands back among all bands."""
    full = np.full(measured.shape, fill)
    full[measured] = values
    return tuple(float(v) for v in full)
