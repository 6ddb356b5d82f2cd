"""What is made of a window: which outputs of the network become which uint8 rasters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tuban.data.classes import classes as land_classes
from tuban.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tuban.inference.windows import CoreWindow
    from tuban.models.bundle import Bundle

NODATA = 255
# Probability is stored in 255 steps: 0 = 0.0, 254 = 1.0.
PROBABILITY_STEPS = 254
LANDCOVER_NODATA = 0
_SCALE = f"probability = value / {PROBABILITY_STEPS}"


@dataclass(frozen=True, slots=True)
class RasterSpec:
    """One uint8 output raster.

    Attributes:
        name: file name without `.tif`.
        nodata: value of pixels that hold no result.
        description: what the band holds.
        colors: value -> `(red, green, blue)`, or empty for grey.
        resampling: how overviews are made: NEAREST for classes.
        tags: metadata of the file.
    """

    name: str
    nodata: int
    description: str
    colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    resampling: str = "NEAREST"
    tags: Mapping[str, str] = field(default_factory=dict)


class Product(Protocol):
    """A kind of result."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Inputs of the network, and attributes of what the source reads."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Outputs of the network."""

    @property
    def specs(self) -> tuple[RasterSpec, ...]:
        """Rasters that are made."""

    def encode(
        self, outputs: Mapping[str, NDArray[Any]], valid: NDArray[np.bool_], window: CoreWindow
    ) -> dict[str, NDArray[np.uint8]]:
        """Turn the outputs of one window into uint8 `(h, w)` for each raster by name.

        Args:
            outputs: `wanted` over the core, without the batch axis.
            valid: `(h, w)`, which pixels hold a result.
            window: where it is, for the message.

        Raises:
            ModelError: an output is not finite or no probability.
        """


def blank(specs: tuple[RasterSpec, ...], shape: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    """Return what stands where the network was not run."""
    return {spec.name: np.full(shape, spec.nodata, np.uint8) for spec in specs}


@dataclass(frozen=True)
class ChangeProduct:
    """Change, its probability, and land cover of both dates."""

    bundle: Bundle
    inputs: tuple[str, ...] = ("before", "after")
    wanted: tuple[str, ...] = ("change", "landcover_before_class", "landcover_after_class")

    @property
    def specs(self) -> tuple[RasterSpec, ...]:
        """The four rasters of a change map, signed with the bundle that made them."""
        tags = {"TUBAN_MODEL": self.bundle.model_id}
        change = {0: (235, 235, 235), 1: (214, 40, 40), NODATA: (0, 0, 0)}
        return (
            RasterSpec("change", NODATA, "0 unchanged, 1 changed", change, tags=tags),
            _probability("probability", "probability of change x 254", tags),
            _landcover("landcover_before", "land cover before", tags),
            _landcover("landcover_after", "land cover after", tags),
        )

    def encode(
        self, outputs: Mapping[str, NDArray[Any]], valid: NDArray[np.bool_], window: CoreWindow
    ) -> dict[str, NDArray[np.uint8]]:
        """See `Product.encode`."""
        change = outputs["change"]
        _check_probability(change, "change", self.bundle, window)
        return {
            "change": np.where(valid, (change >= self.bundle.threshold).view(np.uint8), np.uint8(NODATA)),
            "probability": np.where(valid, _steps(change), np.uint8(NODATA)),
            **{
                name: _classes(outputs[f"{name}_class"], valid, self.bundle)
                for name in ("landcover_before", "landcover_after")
            },
        }


@dataclass(frozen=True)
class LandcoverProduct:
    """Land cover of one date, and the probability of the class that was chosen."""

    bundle: Bundle
    inputs: tuple[str, ...] = ("image",)
    wanted: tuple[str, ...] = ("landcover_class", "landcover_confidence")

    @property
    def specs(self) -> tuple[RasterSpec, ...]:
        """The two rasters of a land-cover map."""
        tags = {"TUBAN_MODEL": self.bundle.model_id}
        return (
            _landcover("landcover", "land cover", tags),
            _probability("confidence", "probability of the class x 254", tags),
        )

    def encode(
        self, outputs: Mapping[str, NDArray[Any]], valid: NDArray[np.bool_], window: CoreWindow
    ) -> dict[str, NDArray[np.uint8]]:
        """See `Product.encode`."""
        confidence = outputs["landcover_confidence"]
        _check_probability(confidence, "landcover_confidence", self.bundle, window)
        return {
            "landcover": _classes(outputs["landcover_class"], valid, self.bundle),
            "confidence": np.where(valid, _steps(confidence), np.uint8(NODATA)),
        }


def _probability(name: str, description: str, tags: Mapping[str, str]) -> RasterSpec:
    return RasterSpec(name, NODATA, description, resampling="AVERAGE", tags={**tags, "SCALE": _SCALE})


def _landcover(name: str, description: str, tags: Mapping[str, str]) -> RasterSpec:
    colors = {value: _rgb(entry.color) for value, entry in land_classes().items()}
    return RasterSpec(name, LANDCOVER_NODATA, description, colors, tags=tags)


def _rgb(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def _steps(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    scaled: NDArray[np.float32] = np.rint(probability * np.float32(PROBABILITY_STEPS))
    return scaled.clip(0, PROBABILITY_STEPS).astype(np.uint8)


def _classes(index: NDArray[np.uint8], valid: NDArray[np.bool_], bundle: Bundle) -> NDArray[np.uint8]:
    table = np.asarray(bundle.classes, np.uint8)
    return np.where(valid, table[index], np.uint8(LANDCOVER_NODATA))


def _check_probability(output: NDArray[np.float32], name: str, bundle: Bundle, window: CoreWindow) -> None:
    low, high = float(output.min()), float(output.max())
    # NaN compares false, so it is refused too; rounding may exceed 1 by a little.
    if not (low >= -1e-3 and high <= 1.001):
        raise ModelError(
            f"{bundle.name}: {name} holds {low:g} to {high:g}, not probabilities, in the window at row "
            f"{window.row}, column {window.col}; export the model again"
        )
