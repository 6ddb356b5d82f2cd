"""Subpixel shift between two images of one place: phase correlation on windows and a robust vote."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rasterio.windows import Window
from skimage.registration import phase_cross_correlation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FloatArray = NDArray[np.floating[Any]]
Action = Literal["none", "corrected", "downgraded", "refused"]


class RegistrationSettings(BaseModel):
    """Limits of the registration; `docs/pairs.md` reports the measurements behind the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    windows: int = Field(25, ge=1, le=100, description="windows sampled at most")
    window_px: int = Field(256, ge=32, le=1024, description="pixels a side; smaller where the overlap is")
    min_window_px: int = Field(32, ge=16, description="an overlap narrower than this is not measured")
    min_valid: float = Field(0.75, gt=0, le=1, description="share of valid pixels that a window needs")
    upsample: int = Field(50, ge=1, description="steps per pixel of the subpixel search")
    correct_from_px: float = Field(0.15, ge=0, description="a smaller shift is left alone")
    max_correct_px: float = Field(5.0, gt=0, description="a larger shift is downgraded, not corrected")
    refuse_px: float = Field(10.0, gt=0, description="a larger shift, agreed on by the windows, is refused")
    min_consensus: float = Field(0.5, gt=0, le=1, description="share of windows that must agree")
    agree_px: float = Field(0.75, gt=0, description="how far from the median a window may lie and agree")
    max_residual_px: float = Field(0.75, gt=0, description="residual shift after correction that is downgraded")
    sure_sigmas: float = Field(3.0, ge=0, description="a shift is corrected only beyond this many standard errors")


@dataclass(frozen=True, slots=True)
class Registration:
    """Where AFTER lies relative to BEFORE, and what is done about it.

    Attributes:
        dx_px: columns by which AFTER's content stands to the right of BEFORE's, in BEFORE's pixels.
        dy_px: rows by which it stands below.
        windows_used: windows that agree on the shift.
        windows_measured: windows with enough valid pixels and contrast to be measured.
        spread_px: robust spread of the agreeing windows, one standard deviation.
        residual_px: shift measured again after correction, or the shift where nothing was corrected; NaN unmeasured.
        action: "none" (nothing to do), "corrected", "downgraded" (not to be trusted fully), "refused".
        reason: why it was downgraded or refused; empty otherwise.
    """

    dx_px: float
    dy_px: float
    windows_used: int
    windows_measured: int
    spread_px: float
    residual_px: float
    action: Action
    reason: str = ""

    @property
    def shift_px(self) -> float:
        """Length of the shift in BEFORE's pixels."""
        return math.hypot(self.dx_px, self.dy_px)

    @property
    def disagrees(self) -> bool:
        """Whether several windows were measured and no shift found enough of them behind it."""
        return (
            self.action == "downgraded" and self.windows_measured >= 4 and 2 * self.windows_used < self.windows_measured
        )

    @property
    def correction(self) -> tuple[float, float]:
        """Columns and rows to add to a BEFORE position to find the same place in AFTER; zero unless corrected."""
        return (self.dx_px, self.dy_px) if self.action == "corrected" else (0.0, 0.0)

    def summary(self) -> dict[str, object]:
        """Return the JSON-ready record for run.json; what was not measured is null."""
        numbers = {name: getattr(self, name) for name in ("dx_px", "dy_px", "spread_px", "residual_px")}
        return {
            **{name: round(value, 3) if math.isfinite(value) else None for name, value in numbers.items()},
            "windows_used": self.windows_used,
            "windows_measured": self.windows_measured,
            "action": self.action,
            "reason": self.reason,
        }


class Shift(NamedTuple):
    """Shift of one window in pixels: columns (`dx`) and rows (`dy`) of AFTER relative to BEFORE."""

    dx: float
    dy: float


def unmeasured(reason: str, *, action: Action = "downgraded") -> Registration:
    """Return a registration that corrects nothing, with the reason why nothing was measured."""
    return Registration(math.nan, math.nan, 0, 0, math.nan, math.nan, action, reason)


def corrected_by(dx_px: float, dy_px: float) -> Registration:
    """Return a registration that moves AFTER by a known shift in BEFORE's pixels."""
    return Registration(dx_px, dy_px, 0, 0, math.nan, math.nan, "corrected")


def sample_windows(height: int, width: int, settings: RegistrationSettings) -> Iterator[Window]:
    """Yield at most `settings.windows` square windows spread evenly over a grid of `height` x `width` pixels."""
    size = min(settings.window_px, height, width)
    if size < settings.min_window_px:
        return
    # Small overlaps still deserve a vote: windows shrink to a half of the overlap, not below 64 px.
    while size > 64 and (height // size) * (width // size) < 4:
        size //= 2
    rows, cols = height // size, width // size
    while rows * cols > settings.windows:
        rows, cols = (rows - 1, cols) if rows >= cols else (rows, cols - 1)
    for row in np.linspace(0, height - size, rows).round().astype(int) if rows > 1 else [(height - size) // 2]:
        for col in np.linspace(0, width - size, cols).round().astype(int) if cols > 1 else [(width - size) // 2]:
            yield Window(int(col), int(row), size, size)


def structure(image: FloatArray, valid: NDArray[np.bool_]) -> FloatArray:
    """Return the edges of an image: gradient magnitude summed over bands, each band by its own spread.

    Edges stay where fields change colour with the season, even where the contrast inverts.

    Args:
        image: `(bands, height, width)`.
        valid: `(height, width)`; gradients that touch an invalid pixel are 0.
    """
    total = np.zeros(valid.shape, dtype=np.float64)
    inner = valid.copy()
    inner[1:] &= valid[:-1]
    inner[:-1] &= valid[1:]
    inner[:, 1:] &= valid[:, :-1]
    inner[:, :-1] &= valid[:, 1:]
    for band in image:
        rows, cols = np.gradient(np.where(valid, band, 0.0).astype(np.float64))
        edges = np.where(inner, np.hypot(rows, cols), 0.0)
        # Without a cap one bright roof would outweigh a thousand field edges.
        spread = np.median(edges[inner]) if inner.any() else 0.0
        if spread > 0:
            total += np.minimum(edges / spread, 6.0)
    return total


def window_shift(
    before: FloatArray, after: FloatArray, valid: NDArray[np.bool_], *, upsample: int = 50
) -> Shift | None:
    """Measure the shift of AFTER relative to BEFORE in one window, or None where there is no contrast.

    Args:
        before: `(bands, height, width)`.
        after: the same bands and window.
        valid: `(height, width)`, valid in both.
        upsample: steps per pixel.

    References:
        Guizar-Sicairos, Thurman & Fienup (2008), Efficient subpixel image registration algorithms.
    """
    left, right = structure(before, valid), structure(after, valid)
    taper = np.outer(np.hanning(valid.shape[0]), np.hanning(valid.shape[1]))
    left = np.where(valid, left - left[valid].mean(), 0) * taper if valid.any() else left
    right = np.where(valid, right - right[valid].mean(), 0) * taper if valid.any() else right
    if not left.any() or not right.any():
        return None
    correlate: Any = phase_cross_correlation  # skimage publishes no types
    shift, _, _ = correlate(right, left, upsample_factor=upsample, normalization=None)
    return Shift(float(shift[1]), float(shift[0]))


def vote(shifts: Sequence[Shift], settings: RegistrationSettings) -> Registration:
    """Agree on one shift: the median, then the windows near it, then their median and spread.

    The result's action is what the shift alone suggests; `residual_px` is the shift itself until measured again.
    """
    if not shifts:
        return unmeasured("no window has enough valid pixels and contrast: registration not measured")
    points = np.asarray(shifts, dtype=np.float64)
    centre = np.median(points, axis=0)
    for _ in range(10):
        distance = np.hypot(*(points - centre).T)
        near = distance <= settings.agree_px
        if not near.any():
            # No window lies near the median: take the window that has the most neighbours.
            apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
            centre = points[(apart <= settings.agree_px).sum(axis=1).argmax()]
            continue
        moved = np.median(points[near], axis=0)
        if np.allclose(moved, centre):
            break
        centre = moved
    agreeing = points[near]
    used, measured = int(near.sum()), len(points)
    spread = float(1.4826 * np.median(np.hypot(*(agreeing - centre).T)) / math.sqrt(math.log(4))) if used > 1 else 0.0
    dx, dy = (float(v) for v in centre)
    result = Registration(dx, dy, used, measured, spread, math.hypot(dx, dy), "none")
    return _judge(result, settings)


def _judge(result: Registration, settings: RegistrationSettings) -> Registration:
    """Decide from the shift, its consensus and its spread."""
    shift = result.shift_px
    if result.windows_used < settings.min_consensus * result.windows_measured:
        reason = f"only {result.windows_used} of {result.windows_measured} windows agree on a shift: not corrected"
        return replace(result, action="downgraded", reason=reason)
    if shift > settings.refuse_px:
        reason = f"shift of {shift:.1f} px is beyond {settings.refuse_px:g} px"
        return replace(result, action="refused", reason=reason)
    if shift > settings.max_correct_px:
        reason = f"shift of {shift:.1f} px is beyond the {settings.max_correct_px:g} px that are corrected"
        return replace(result, action="downgraded", reason=reason)
    # A median of n windows is known to about 1.25 spread / sqrt(n): less than that is noise, not a shift.
    # One or two windows say nothing about their own spread, and no window is surer than a twentieth of a pixel.
    spread = max(result.spread_px, 0.05 if result.windows_used >= 3 else 0.3)
    error = 1.25 * spread / math.sqrt(result.windows_used)
    if shift >= max(settings.correct_from_px, settings.sure_sigmas * error):
        return replace(result, action="corrected")
    return result


def confirm(first: Registration, again: Registration, settings: RegistrationSettings) -> Registration:
    """Judge a correction by what is left when it is measured again with AFTER moved.

    Args:
        first: the measurement that was corrected.
        again: the measurement after the correction.
        settings: limits.
    """
    left = again.shift_px
    result = replace(first, residual_px=left)
    if not math.isfinite(left) or left > settings.max_residual_px:
        limit = f"more than {settings.max_residual_px:g} px"
        reason = f"correcting {first.shift_px:.2f} px left {left:.2f} px, {limit}: not corrected"
        return replace(result, action="downgraded", reason=reason)
    if left > first.shift_px:
        reason = f"correcting {first.shift_px:.2f} px left {left:.2f} px: not corrected"
        return replace(result, action="downgraded", reason=reason)
    return result
