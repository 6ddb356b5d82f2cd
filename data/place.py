"""One labelled place of a data set, as training and evaluation see it, whatever the data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

IGNORE = 255
"""Label of a pixel about which nothing is known."""


@dataclass(frozen=True, slots=True)
class Place:
    """One place with its labels, on the grid of its first image; a pair, or a single image (`after` is None).

    Images are reflectance 0–1 (8-bit imagery divided by 255), float32, NaN where invalid or where the sensor lacks
    the band.

    Attributes:
        name: unique in its data set; splits are made by place, never by crop.
        before: `(bands, h, w)` float32.
        after: the same, registered and radiometrically normalised to `before`; None for a single image.
        change: `(h, w)` uint8, 0 or 1, 255 unknown; all 255 where no change was labelled.
        landcover_before: `(h, w)` uint8, index into the class list, 255 unknown.
        landcover_after: the same for the second date.
        weight_before: `(h, w)` uint8, confidence of the label, 0–255; 255 for labels drawn by hand.
        weight_after: the same for the second date.
        summary: what `Pair` measured; empty for imagery without georeference.
        dataset: id of the data set.
        group: places of one group (neighbours, tiles of one image) never stand on both sides of a split; "" is `name`.
        gsd_m: pixel size in metres, None where unknown.
        footprint: west, south, east, north in degrees WGS 84, None without georeference.
    """

    name: str
    before: NDArray[np.float32]
    after: NDArray[np.float32] | None
    change: NDArray[np.uint8]
    landcover_before: NDArray[np.uint8]
    landcover_after: NDArray[np.uint8]
    weight_before: NDArray[np.uint8]
    weight_after: NDArray[np.uint8]
    summary: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = ""
    group: str = ""
    gsd_m: float | None = None
    footprint: tuple[float, float, float, float] | None = None

    @property
    def labelled(self) -> bool:
        """Whether change labels exist here."""
        return bool((self.change != IGNORE).any())

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.change.shape[0], self.change.shape[1]
