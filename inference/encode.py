"""Turns probabilities into the uint8 rasters of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tuban.data.classes import classes as land_classes
from tuban.errors import ModelError
from tuban.inference.backends import Prediction
from tuban.inference.writer import RasterSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tuban.inference.windows import CoreWindow
    from tuban.models.bundle import Bundle

NODATA = 255
# Probability is stored in 255 steps: 0 = 0.0, 254 = 1.0.
PROBABILITY_STEPS = 254
LANDCOVER_NODATA = 0


def raster_specs(bundle: Bundle) -> list[RasterSpec]:
    """Return the four rasters of a change map, signed with the bundle that made them."""
    tags = {"TUBAN_MODEL": bundle.model_id}
    cover = {value: _rgb(entry.color) for value, entry in land_classes().items()}
    change = {0: (235, 235, 235), 1: (214, 40, 40), NODATA: (0, 0, 0)}
    scaled = {**tags, "SCALE": f"probability = value / {PROBABILITY_STEPS}"}
    return [
        RasterSpec("change", NODATA, "0 unchanged, 1 changed", change, tags=tags),
        RasterSpec("probability", NODATA, "probability of change x 254", resampling="AVERAGE", tags=scaled),
        RasterSpec("landcover_before", LANDCOVER_NODATA, "land cover before", cover, tags=tags),
        RasterSpec("landcover_after", LANDCOVER_NODATA, "land cover after", cover, tags=tags),
    ]


def _rgb(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def encode(
    prediction: Prediction | None, valid: NDArray[np.bool_], bundle: Bundle, window: CoreWindow
) -> dict[str, NDArray[np.uint8]]:
    """Turn probabilities into the four uint8 rasters of one window.

    Args:
        prediction: outputs over the core, `(classes, h, w)` and `(h, w)`; None where the model was not run.
        valid: `(h, w)`, which pixels hold a result.
        bundle: gives the threshold and the classes.
        window: where it is, for the message.

    Returns:
        uint8 `(h, w)` for each raster by name; nodata where not `valid`.

    Raises:
        ModelError: an output is not finite or no probability.
    """
    if prediction is None:
        blank = np.full(valid.shape, NODATA, np.uint8)
        none = np.full(valid.shape, LANDCOVER_NODATA, np.uint8)
        return {"change": blank, "probability": blank, "landcover_before": none, "landcover_after": none}
    for name, output in zip(Prediction._fields, prediction, strict=True):
        low, high = float(output.min()), float(output.max())
        # NaN compares false, so it is refused too; rounding may exceed 1 by a little.
        if not (low >= -1e-3 and high <= 1.001):
            raise ModelError(
                f"{bundle.name}: {name} holds {low:g} to {high:g}, not probabilities, in the window at row "
                f"{window.row}, column {window.col}; export the model again"
            )
    steps = np.rint(prediction.change * PROBABILITY_STEPS).clip(0, PROBABILITY_STEPS).astype(np.uint8)
    table = np.asarray(bundle.classes, np.uint8)
    covers = {
        name: np.where(valid, table[output.argmax(axis=0)], np.uint8(LANDCOVER_NODATA))
        for name, output in zip(Prediction._fields[:2], prediction[:2], strict=True)
    }
    return {
        "change": np.where(valid, (prediction.change >= bundle.threshold).astype(np.uint8), np.uint8(NODATA)),
        "probability": np.where(valid, steps, np.uint8(NODATA)),
        **covers,
    }
