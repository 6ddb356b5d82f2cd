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
    """Change, its probability, and land cover of both dates where the bundle tells it."""

    bundle: Bundle
    inputs: tuple[str, ...] = ("before", "after")

    @property
    def covers(self) -> tuple[str, ...]:
        """The land covers the bundle tells; none of a bundle without classes."""
        return ("landcover_before", "landcover_after") if self.bundle.classes else ()

    @property
    def wanted(self) -> tuple[str, ...]:
        """See `Product.wanted`."""
        return ("change", *(f"{name}_class" for name in self.covers))

    @property
    def specs(self) -> tuple[RasterSpec, ...]:
        """The rasters of a change map, signed with the bundle that made them."""
        tags = {"TUBAN_MODEL": self.bundle.model_id}
        change = {0: (235, 235, 235), 1: (214, 40, 40), NODATA: (0, 0, 0)}
        return (
            RasterSpec("change", NODATA, "0 unchanged, 1 changed", change, tags=tags),
            _probability("probability", "probability of change x 254", tags),
            *(_landcover(name, name.replace("landcover_", "land cover "), tags) for name in self.covers),
        )

    def encode(
        self, outputs: Mapping[str, NDArray[Any]], valid: NDArray[np.bool_], window: CoreWindow
    ) -> dict[str, NDArray[np.uint8]]:
        """See `Product.encode`."""
        changed = (outputs["change"] >= self.bundle.threshold).view(np.uint8)
        return {
            "change": np.where(valid, changed, np.uint8(NODATA)),
            "probability": _probabilities(outputs, "change", valid, self.bundle, window),
            **{name: _classes(outputs, name, valid, self.bundle) for name in self.covers},
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
        return {
            "landcover": _classes(outputs, "landcover", valid, self.bundle),
            "confidence": _probabilities(outputs, "landcover_confidence", valid, self.bundle, window),
        }


def _probability(name: str, description: str, tags: Mapping[str, str]) -> RasterSpec:
    return RasterSpec(name, NODATA, description, resampling="AVERAGE", tags={**tags, "SCALE": _SCALE})


def _landcover(name: str, description: str, tags: Mapping[str, str]) -> RasterSpec:
    colors = {value: _rgb(entry.color) for value, entry in land_classes().items()}
    return RasterSpec(name, LANDCOVER_NODATA, description, colors, tags=tags)


def _rgb(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def _classes(
    outputs: Mapping[str, NDArray[Any]], cover: str, valid: NDArray[np.bool_], bundle: Bundle
) -> NDArray[np.uint8]:
    """Return the unified classes of a land cover from their positions in the bundle's."""
    table = np.asarray(bundle.classes, np.uint8)
    return np.where(valid, table[outputs[f"{cover}_class"]], np.uint8(LANDCOVER_NODATA))


def _probabilities(
    outputs: Mapping[str, NDArray[Any]], name: str, valid: NDArray[np.bool_], bundle: Bundle, window: CoreWindow
) -> NDArray[np.uint8]:
    """Return an output in steps of a probability, after a look at whether it is one."""
    output = outputs[name]
    low, high = float(output.min()), float(output.max())
    # NaN compares false, so it is refused too; rounding may exceed 1 by a little.
    if not (low >= -1e-3 and high <= 1.001):
        raise ModelError(
            f"{bundle.name}: {name} holds {low:g} to {high:g}, not probabilities, in the window at row "
            f"{window.row}, column {window.col}; export the model again"
        )
    scaled: NDArray[np.float32] = np.rint(output * np.float32(PROBABILITY_STEPS))
    return np.where(valid, scaled.clip(0, PROBABILITY_STEPS).astype(np.uint8), np.uint8(NODATA))
