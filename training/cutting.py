"""Crops of places: images with all their labels, at the place's resolution or coarser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.data.place import IGNORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tuban.data.place import Place

Crop = dict[str, "NDArray[Any]"]
"""`before` and, of a pair, `after` `(bands, h, w)` float32, NaN invalid; `change` `(h, w)` uint8; `landcover_before`,
`landcover_after`, `weight_before`, `weight_after` `(h, w)` uint8, as in `tuban.data.place.Place`."""

_FILL = {"weight_before": 0, "weight_after": 0}


def cut(place: Place, rng: np.random.Generator, size: int, factor: int, centre: NDArray[np.int32] | None) -> Crop:
    """Return a crop of `size` pixels at random, or with `centre` in its middle half.

    Args:
        place: what is cut from; one smaller than the crop is padded with unknown.
        rng: chooses the position.
        size: side of the result, pixels.
        factor: a pixel of the result covers `factor` x `factor` of the place's; 1 where the place is too small.
        centre: row and column in the place.
    """
    if min(place.shape) < size * factor:
        factor = 1
    row, column = _origin(rng, place.shape, size * factor, centre)
    window = (slice(row, row + size * factor), slice(column, column + size * factor))
    crop: Crop = {
        "before": coarser(place.before[:, *window], factor),
        "change": coarser_label(place.change[window], factor),
    }
    if place.after is not None:
        crop["after"] = coarser(place.after[:, *window], factor)
    half = factor // 2
    for name in ("landcover_before", "landcover_after", "weight_before", "weight_after"):
        crop[name] = getattr(place, name)[window][half::factor, half::factor]
    if crop["change"].shape == (size, size):
        return crop
    fills = {"before": np.nan, "after": np.nan} | _FILL
    return {name: _padded(array, size, fills.get(name, IGNORE)) for name, array in crop.items()}


def _origin(
    rng: np.random.Generator, shape: tuple[int, int], size: int, centre: NDArray[np.int32] | None
) -> tuple[int, int]:
    limits = [max(extent - size, 0) for extent in shape]
    if centre is None:
        return int(rng.integers(limits[0] + 1)), int(rng.integers(limits[1] + 1))
    corner = centre - rng.integers(size // 4, size - size // 4, size=2)
    return int(np.clip(corner[0], 0, limits[0])), int(np.clip(corner[1], 0, limits[1]))


def coarser(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Average `(bands, h, w)` over blocks of `factor`; a block with any invalid pixel is invalid."""
    if factor == 1:
        return image
    bands, height, width = image.shape
    blocks = image.reshape(bands, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(2, 4)), dtype=np.float32)


def coarser_label(change: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """A coarse pixel has changed where at least half of it did, is unknown where any of it is."""
    if factor == 1:
        return change
    height, width = change.shape
    blocks = change.reshape(height // factor, factor, width // factor, factor)
    unknown = (blocks == IGNORE).any(axis=(1, 3))
    share = (blocks == 1).mean(axis=(1, 3))
    return np.where(unknown, IGNORE, share >= 0.5).astype(np.uint8)


def _padded(array: NDArray[Any], size: int, fill: float) -> NDArray[Any]:
    """Pad the last two axes at the lower right."""
    missing = [(0, 0)] * (array.ndim - 2) + [(0, size - extent) for extent in array.shape[-2:]]
    return np.pad(array, missing, constant_values=fill)
