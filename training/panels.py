"""Pictures of what a network says of a place: before | after | label | prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from tuban.data.classes import classes
from tuban.data.place import IGNORE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tuban.data.place import Place
    from tuban.models.spec import NetworkSpec
    from tuban.training.predictions import Prediction

    Picture = NDArray[np.uint8]

SIDE = 512
"""Longest side of each picture of a panel, pixels."""
_TITLE = 14
_GREY = 110
"""Unknown pixels."""
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)
"""Corners of matplotlib's `inferno`, from 0 to 1."""


def panel(place: Place, prediction: Prediction, spec: NetworkSpec) -> Picture:
    """Return a panel `(h, w, 3)` uint8: both dates, label and prediction of change, or of land cover.

    Large places are shown at every n-th pixel.
    """
    step = -(-max(place.shape) // SIDE)
    take = (slice(None, None, step), slice(None, None, step))
    dates = [place.before] if place.after is None else [place.before, place.after]
    stretch = _stretch(place.before, spec.bands)
    parts = [
        (title, _rgb(image, spec.bands, stretch)[take])
        for title, image in zip(("before", "after"), dates, strict=False)
    ]
    if prediction.change is not None:
        parts += [("label", _label(place.change[take])), ("probability", _heat(_probability(prediction.change[take])))]
    if prediction.landcover is not None and prediction.change is None:
        covers = (("label", place.landcover_before), ("land cover", prediction.landcover[0]))
        parts += [(title, _colours(cover[take], spec.classes)) for title, cover in covers]
    return _beside(parts)


def save_panel(path: Path, picture: Picture) -> None:
    """Write a panel as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def _bands(bands: Sequence[str]) -> list[int]:
    """Return the channels to show as red, green and blue."""
    names = list(bands)
    wanted = [names.index(band) for band in ("B04", "B03", "B02") if band in names]
    return wanted if len(wanted) == 3 else [0] * 3


def _stretch(image: NDArray[np.float32], bands: Sequence[str]) -> NDArray[np.float64]:
    """Return the 2 % and 98 % quantile of each shown channel `(2, 3)`, the same for both dates."""
    shown = image[_bands(bands), ::4, ::4].reshape(3, -1)
    limits = [np.nanquantile(channel, (0.02, 0.98)) if np.isfinite(channel).any() else (0.0, 1.0) for channel in shown]
    return np.array(limits, dtype=np.float64).T


def _rgb(image: NDArray[np.float32], bands: Sequence[str], stretch: NDArray[np.float64]) -> Picture:
    low, high = stretch[:, :, None, None]
    scaled = (image[_bands(bands)] - low) / np.maximum(high - low, 1e-6)
    return np.asarray(np.nan_to_num(np.clip(scaled, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))


def _label(change: NDArray[np.uint8]) -> Picture:
    shade = np.select([change == 1, change == IGNORE], [255, _GREY], 0).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=2)


def _probability(logit: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit.astype(np.float64), -30, 30))))


def _heat(probability: NDArray[np.float64]) -> Picture:
    corners = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(probability, corners, _HEAT[:, channel]) for channel in range(3)]
    return np.nan_to_num(np.stack(channels, axis=-1), nan=_GREY).astype(np.uint8)


def _colours(cover: NDArray[np.uint8], names: Sequence[int]) -> Picture:
    table = np.full((256, 3), _GREY, dtype=np.uint8)
    for position, value in enumerate(names):
        colour = classes()[value].color.lstrip("#")
        table[position] = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
    return table[cover]


def _beside(parts: Sequence[tuple[str, Picture]]) -> Picture:
    """Put pictures of one size in a row, each under its title."""
    height, width = parts[0][1].shape[:2]
    canvas = Image.new("RGB", (len(parts) * (width + 4) - 4, height + _TITLE), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (title, picture) in enumerate(parts):
        left = number * (width + 4)
        pen.text((left + 2, 1), title, fill="black")
        canvas.paste(Image.fromarray(picture), (left, _TITLE))
    return np.asarray(canvas)
