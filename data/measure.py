"""Measuring a pair before it is used: registration and radiometry on windows spread over the overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from rasterio.windows import Window

from tuban.data.radiometry import Radiometry, RadiometrySettings, fit_gain_offset
from tuban.data.registration import (
    Registration,
    RegistrationSettings,
    Shift,
    confirm,
    sample_windows,
    unmeasured,
    vote,
    window_shift,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    # Reads a window of the pair.
    Read = Callable[[Window, Sequence[str]], "Dates"]


class Dates(Protocol):
    """A window of a pair, as measurements and pictures need it; what clouds hide is not valid."""

    @property
    def before(self) -> NDArray[np.float32]:
        """First date, float32 `(bands, height, width)`."""

    @property
    def after(self) -> NDArray[np.float32]:
        """Second date, float32 `(bands, height, width)`."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where both dates hold a value, bool `(height, width)`."""


# Visible and near infrared: the sharpest bands of the sensors that have bands of several resolutions.
_SHARP = ("B02", "B03", "B04", "B08")


def measure_registration(
    read: Callable[[tuple[float, float]], Read],
    height: int,
    width: int,
    names: Sequence[str],
    settings: RegistrationSettings,
) -> Registration:
    """Measure the shift of AFTER, and where it is corrected measure again what is left.

    Args:
        read: given a correction (columns, rows), returns the reader of the pair with AFTER moved by it.
        height: rows of the overlap.
        width: columns of the overlap.
        names: bands that both scenes have.
        settings: limits.
    """
    windows = list(sample_windows(height, width, settings))
    if not windows:
        reason = (
            f"overlap of {height} x {width} px is below {settings.min_window_px} px a side: registration not measured"
        )
        return unmeasured(reason)
    chosen = [name for name in _SHARP if name in names] or list(names)
    first = vote(list(_shifts(read((0.0, 0.0)), windows, chosen, settings)), settings)
    if first.action != "corrected":
        return first
    again = vote(list(_shifts(read(first.correction), windows, chosen, settings)), settings)
    return confirm(first, again, settings)


def measure_radiometry(
    read: Read, height: int, width: int, names: Sequence[str], settings: RadiometrySettings
) -> Radiometry:
    """Fit gain and offset on at most `settings.max_pixels` pixels spread over the overlap."""
    spread = RegistrationSettings(min_window_px=16, window_px=128)
    windows = list(sample_windows(height, width, spread)) or [Window(0, 0, min(width, 512), min(height, 512))]
    quota = -(-settings.max_pixels // len(windows))
    samples: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for window in windows:
        got = read(window, names)
        places = np.flatnonzero(got.valid.ravel())
        places = places[:: max(1, -(-len(places) // quota))]
        before, after = (values.reshape(len(names), -1)[:, places] for values in (got.before, got.after))
        samples.append((before, after))
    first, second = (np.concatenate(parts, axis=1) for parts in zip(*samples, strict=True))
    return fit_gain_offset(first, second, settings=settings)


def _shifts(
    read: Read, windows: Sequence[Window], names: Sequence[str], settings: RegistrationSettings
) -> Iterator[Shift]:
    for window in windows:
        got = read(window, names)
        if got.valid.mean() >= settings.min_valid:
            shift = window_shift(got.before, got.after, got.valid, upsample=settings.upsample)
            if shift is not None:
                yield shift
