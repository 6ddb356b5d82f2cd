"""Crops composed of several: pseudo-pairs of single images, pasted change, rectangles of other crops.

References:
    Zheng et al., "Change is Everywhere: Single-Temporal Supervised Object Change Detection", ICCV 2021.
    Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", CVPR 2021.
    Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from tuban.data.place import IGNORE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tuban.training.cutting import Crop
    from tuban.training.settings import AugmentSettings, DataSettings

_AFTER = ("after", "landcover_after", "weight_after")
_REGIONS = 3
"""Most regions that are pasted into a pseudo-pair."""


def composed(
    rng: np.random.Generator, draw: Callable[[bool], Crop], data: DataSettings, augment: AugmentSettings
) -> Crop:
    """Return a crop of a pair, perhaps with parts of further crops.

    Args:
        rng: decides what is done.
        draw: cuts a crop of some place, around a change if told so.
        data: share of crops around a change, and what counts as change.
        augment: shares of what is composed.
    """
    crop = draw(bool(rng.random() < data.foreground))
    if crop.pop("single", None) is not None and rng.random() < augment.pseudo_change:
        crop = with_regions(crop, draw(False), rng, data)
    if rng.random() < augment.paste:
        crop = with_change(crop, _turned(draw(True), rng))
    if rng.random() < augment.cutmix:
        crop = with_rectangle(crop, draw(bool(rng.random() < data.foreground)), rng)
    return swapped(crop) if rng.random() < augment.swap_dates else crop


def single_image(crop: Crop) -> Crop:
    """Make a pair without change of a single image; `single` marks it."""
    valid = np.isfinite(crop["before"]).any(axis=0)
    pair: Crop = {
        "after": crop["before"],
        "change": np.where(valid, 0, IGNORE).astype(np.uint8),
        "landcover_after": crop["landcover_before"],
        "weight_after": crop["weight_before"],
    }
    pair["single"] = np.asarray(valid)
    return crop | pair


def with_regions(crop: Crop, donor: Crop, rng: np.random.Generator, data: DataSettings) -> Crop:
    """Paste regions of one class each from `donor` into AFTER; change is where the class then differs.

    Where either class is unknown, so is the change. Only classes of `data.change_to`, if given, count as change.
    """
    cover = donor["landcover_before"]
    mask = np.zeros(cover.shape, dtype=bool)
    present = np.flatnonzero(np.bincount(cover.ravel(), minlength=256)[:IGNORE])
    if len(present) == 0:
        return crop
    for _ in range(int(rng.integers(1, _REGIONS + 1))):
        mask |= _region(cover == rng.choice(present), rng)
    result = _pasted(crop, donor["before"], cover, donor["weight_before"], mask)
    first, second = result["landcover_before"], result["landcover_after"]
    counts = [position for position, value in enumerate(data.classes) if value in data.change_to]
    changed = (first != second) & (np.isin(second, counts) if data.change_to else True)
    unknown = (first == IGNORE) | (second == IGNORE)
    change = np.where(unknown, IGNORE, changed).astype(np.uint8)
    here = mask & (crop["change"] != IGNORE)
    return result | {"change": np.where(here, change, crop["change"])}


def _region(of_class: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return one connected part of a class, of at most half the crop in each direction."""
    numbered, _ = ndimage.label(of_class)
    rows, columns = np.nonzero(of_class)
    seed = rng.integers(len(rows))
    part = numbered == numbered[rows[seed], columns[seed]]
    reach = of_class.shape[0] // 4
    near = np.zeros_like(part)
    near[max(rows[seed] - reach, 0) : rows[seed] + reach, max(columns[seed] - reach, 0) : columns[seed] + reach] = True
    return np.asarray(part & near)


def with_change(crop: Crop, donor: Crop) -> Crop:
    """Paste what changed in `donor` into AFTER, in the radiometry of this crop, and label it.

    Nothing is pasted where this crop has no labels at all, where either image is invalid, or onto land of the class
    that it would become.
    """
    if "after" not in donor or not (crop["change"] != IGNORE).any():
        return crop
    becomes = donor["landcover_after"]
    same = (becomes == crop["landcover_before"]) & (becomes != IGNORE)
    finite = np.isfinite(crop["before"]).any(axis=0) & np.isfinite(donor["after"]).any(axis=0)
    mask = (donor["change"] == 1) & finite & ~same
    if not mask.any():
        return crop
    result = _pasted(crop, _matched(donor, crop), becomes, donor["weight_after"], mask)
    return result | {"change": np.where(mask, 1, crop["change"]).astype(np.uint8)}


def _matched(donor: Crop, crop: Crop) -> NDArray[np.float32]:
    """Return the donor's AFTER with the mean level of what is unchanged here, within a factor of 1.5 a band."""
    levels = []
    for part in (donor, crop):
        quiet = part["change"] != 1
        values = part["after"][:, quiet]
        count = np.isfinite(values).sum(axis=1)
        levels.append(np.nansum(values, axis=1) / np.maximum(count, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where((levels[0] > 0) & (levels[1] > 0), levels[1] / levels[0], 1.0)
    return np.asarray(donor["after"] * np.clip(gain, 1 / 1.5, 1.5)[:, None, None], dtype=np.float32)


def _pasted(
    crop: Crop, image: NDArray[np.float32], cover: NDArray[np.uint8], weight: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> Crop:
    """Return the crop with AFTER and its labels replaced where `mask`."""
    layers: tuple[NDArray[Any], ...] = (image, cover, weight)
    return crop | {name: np.where(mask, new, crop[name]) for name, new in zip(_AFTER, layers, strict=True)}


def with_rectangle(crop: Crop, donor: Crop, rng: np.random.Generator) -> Crop:
    """Replace a rectangle of a tenth to half of the area by that of `donor`, both dates and all labels."""
    size = crop["change"].shape[0]
    area, ratio = rng.uniform(0.1, 0.5), np.exp(rng.uniform(-0.7, 0.7))
    height, width = (
        int(min(size, max(1, side))) for side in (size * (area * ratio) ** 0.5, size * (area / ratio) ** 0.5)
    )
    row, column = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    window = (..., slice(row, row + height), slice(column, column + width))
    result = {}
    for name, array in crop.items():
        mixed = array.copy()
        mixed[window] = donor[name][window]
        result[name] = mixed
    return result


def swapped(crop: Crop) -> Crop:
    """Return the crop with its dates exchanged."""
    other = {"before": "after", "after": "before"}
    return {
        name if name == "change" else "_".join([*name.split("_")[:-1], other[name.split("_")[-1]]]): array
        for name, array in crop.items()
    }


def _turned(crop: Crop, rng: np.random.Generator) -> Crop:
    """Rotate a donor, so that what is pasted does not always lie as it did."""
    quarter = int(rng.integers(4))
    return {name: np.rot90(array, quarter, axes=(-2, -1)) for name, array in crop.items()}
