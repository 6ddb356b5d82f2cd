"""Scenes whose values are not reflectance, brought to the model's range.

A model of 8-bit colour reads 8-bit numbers divided by 255, and nothing is guessed. For any other, old archives hold
8-bit numbers without a scale. Their land still has dark and bright places in every band, so the
scene's median and spread are mapped onto the model's training mean and deviation. That is a guess about units and
said as one; it is made once per scene, so it cannot make seams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rasterio.windows import Window

from tuban.errors import PairError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from tuban.inference.reading import PixelReader
    from tuban.models.bundle import Bundle

BYTE = 1 / 255
_SAMPLE_WINDOWS = 16
_SAMPLE_SIZE = 128
_NORMAL_IQR = 1.349  # interquartile range of a normal distribution in standard deviations


class RescaledWindow(NamedTuple):
    """A window in the model's units: `(bands, height, width)` float32, and `(height, width)` as the pair says."""

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    valid: NDArray[np.bool_]
    unseen: NDArray[np.bool_] | None
    causes: NDArray[np.uint8] | None


@dataclass(frozen=True)
class RescaledPair:
    """A pair whose values are mapped by one gain and offset per band, the same for both dates.

    Attributes:
        pair: the pair, AFTER already normalised to BEFORE.
        gain: per band name, multiplies.
        offset: per band name, is added after the gain.
        guessed: whether gain and offset are a guess about units; False where they are the model's own.
    """

    pair: PixelReader
    gain: dict[str, float]
    offset: dict[str, float]
    guessed: bool = True

    @property
    def height(self) -> int:
        """Rows."""
        return self.pair.height

    @property
    def width(self) -> int:
        """Columns."""
        return self.pair.width

    @property
    def crs(self) -> CRS:
        """Coordinate reference system."""
        return self.pair.crs

    @property
    def transform(self) -> Affine:
        """Pixel corner to CRS units."""
        return self.pair.transform

    def read(self, window: Window, names: Sequence[str]) -> RescaledWindow:
        """Read both dates in the model's units; a missing band stays NaN."""
        read = self.pair.read(window, names)
        return RescaledWindow(
            self._mapped(read.before, names),
            self._mapped(read.after, names),
            read.valid,
            getattr(read, "unseen", None),
            getattr(read, "causes", None),
        )

    def _mapped(self, values: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
        mapped = np.empty_like(values)
        for band, name in enumerate(names):
            # In double precision: a narrow spread far from 0 would drown in the rounding of gain times value.
            gain, offset = self.gain.get(name, np.nan), self.offset.get(name, np.nan)
            mapped[band] = values[band].astype(np.float64) * gain + offset
        return mapped


def rescale(pair: PixelReader, bundle: Bundle) -> RescaledPair:
    """Bring values that are no reflectance into the bundle's units.

    8-bit numbers are divided by 255 for a bundle that was made for them. Else the median and interquartile range of
    BEFORE are mapped, band by band, onto the bundle's training statistics.

    Args:
        pair: the pair, in unknown units.
        bundle: its `units`, or its `mean` and `std`, are the aim.

    Raises:
        PairError: no valid pixel among the samples.
    """
    scenes = [getattr(pair, date, None) for date in ("before", "after")]
    if bundle.units == "byte" and all(getattr(scene, "eight_bit", False) for scene in scenes):
        return RescaledPair(pair, dict.fromkeys(bundle.bands, BYTE), dict.fromkeys(bundle.bands, 0.0), guessed=False)
    side = int(np.sqrt(_SAMPLE_WINDOWS))
    samples = []
    for row in np.linspace(0, max(pair.height - _SAMPLE_SIZE, 0), side).astype(int):
        for column in np.linspace(0, max(pair.width - _SAMPLE_SIZE, 0), side).astype(int):
            size = (min(_SAMPLE_SIZE, pair.width), min(_SAMPLE_SIZE, pair.height))
            read = pair.read(Window(int(column), int(row), *size), bundle.bands)
            samples.append(read.before[:, read.valid])
    values = np.concatenate(samples, axis=1)
    if values.shape[1] == 0:
        raise PairError("no pixel is valid at both dates among the samples; check the nodata values and the overlap")
    gain, offset = {}, {}
    for name, band, mean, std in zip(bundle.bands, values, bundle.mean, bundle.std, strict=True):
        if np.isnan(band).all():
            continue
        low, middle, high = np.percentile(band, [25, 50, 75])
        gain[name] = float(std / max((high - low) / _NORMAL_IQR, 1e-9))
        offset[name] = float(mean - gain[name] * middle)
    return RescaledPair(pair, gain, offset)
