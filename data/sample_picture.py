"""A picture of random samples of a data set with their labels: what a person looks at before training on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rasterio.windows import Window

from tuban.data.classes import classes
from tuban.data.place import IGNORE
from tuban.data.places import read_place
from tuban.data.replacing import replacing
from tuban.data.views import open_views
from tuban.errors import SceneError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tuban.data.dataset import DatasetFolder
    from tuban.data.place import Place

CROP = 384
"""Pixels a side of a sample; of a smaller image all of it is shown."""

PANEL = 288
"""Pixels a side of a sample in the picture."""

_TRIES = 12  # windows drawn to find one with a label in it
_TEXT, _GAP = 18, 6
_CHANGE = {1: ("changed", (255, 0, 200)), IGNORE: ("unknown", (128, 128, 128))}
_OPACITY = 0.55


def draw_samples(folder: DatasetFolder, path: Path, count: int = 6, seed: int = 0) -> list[str]:
    """Draw random samples, one a row: each date as it is, and each label over its date.

    Args:
        folder: the data set.
        path: PNG file to write.
        count: samples, each of another item.
        seed: of the draw; the same seed gives the same picture.

    Returns:
        The names of the items shown, from top to bottom.

    Raises:
        SceneError: there is no item, or a file cannot be read.
        OutputError: the picture cannot be written.
    """
    items = folder.items()
    if not items:
        raise SceneError(f"{folder.path}: no item of {folder.dataset.id} to show")
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(len(items), size=min(count, len(items)), replace=False).tolist())
    bands = shown_bands(folder.bands)
    rows, seen = [], set[tuple[str, tuple[int, int, int]]]()
    for index in chosen:
        place = _sample(folder, index, bands, rng)
        rows.append(_row(place, seen))
    sheet = _sheet(rows, sorted(seen), f"{folder.dataset.id}: {', '.join(dict.fromkeys(bands))}")
    with replacing(path) as part:
        sheet.save(part, format="PNG")
    return [items[index].name for index in chosen]


def shown_bands(have: tuple[str, ...]) -> tuple[str, str, str]:
    """Return the bands shown as red, green and blue: natural colour, else with near infrared, else the first.

    Example:
        >>> shown_bands(("B08", "B04", "B03"))
        ('B08', 'B04', 'B03')
    """
    for wanted in (("B04", "B03", "B02"), ("B08", "B04", "B03")):
        if set(wanted) <= set(have):
            return wanted
    first = (*have, *have[-1:] * 2)
    return first[0], first[1], first[2]


def _sample(folder: DatasetFolder, index: int, bands: tuple[str, ...], rng: np.random.Generator) -> Place:
    """A window of an item, preferably with something labelled in it."""
    item = folder.items()[index]
    with open_views(folder, item) as views:
        height, width = min(views.height, CROP), min(views.width, CROP)
        for _ in range(_TRIES):
            row, column = (int(rng.integers(size + 1)) for size in (views.height - height, views.width - width))
            place = read_place(folder, item, views, Window(column, row, width, height), item.name, bands, _ALL)
            labelled = (place.change == 1).mean() if folder.layout.has("change") else _known(place)
            if labelled > 0.005 or (height, width) == (views.height, views.width):
                break
    return place


_ALL = tuple(value for value in classes() if value)


def _known(place: Place) -> float:
    return float((place.landcover_before != IGNORE).mean())


def _row(place: Place, seen: set[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """The panels of one sample side by side under its name; adds what it shows to the legend."""
    images = [place.before] if place.after is None else [place.before, place.after]
    pictures = _stretched(images)
    panels = [(("image", "before")[len(images) - 1], pictures[0])]
    if len(pictures) > 1:
        panels.append(("after", pictures[1]))
    if (place.change != IGNORE).any():
        panels.append(("change", _over(pictures[-1], place.change, _CHANGE, seen)))
    covers = ((pictures[0], place.landcover_before), (pictures[-1], place.landcover_after))
    names = {i: (classes()[value].name, _rgb(classes()[value].color)) for i, value in enumerate(_ALL)}
    for title, (picture, cover) in zip(("land cover", "land cover after"), covers, strict=True):
        if (cover != IGNORE).any():
            panels.append((title, _over(picture, cover, names, seen)))
    sheet = Image.new("RGB", (len(panels) * (PANEL + _GAP), PANEL + 2 * _TEXT), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 2), _caption(place), fill="black", font=_font())
    for number, (title, picture) in enumerate(panels):
        left = number * (PANEL + _GAP)
        draw.text((left + 2, _TEXT), title, fill=(90, 90, 90), font=_font())
        sheet.paste(_fitted(picture), (left, 2 * _TEXT))
    return sheet


def _caption(place: Place) -> str:
    height, width = place.shape
    said = [place.name, f"{height} x {width} px"]
    if place.gsd_m:
        said.append(f"{place.gsd_m:.2g} m a pixel")
    if (place.change != IGNORE).any():
        said.append(f"changed {(place.change == 1).sum() / (place.change != IGNORE).sum():.1%}")
    if "refused" in place.summary:
        said.append("refused as a pair")
    return ", ".join(said)


def _stretched(images: list[NDArray[np.float32]]) -> list[NDArray[np.uint8]]:
    """The images `(3, h, w)` as pictures `(h, w, 3)`, each band between its 1st and 99th percentile over all dates."""
    values = np.stack(images)
    low, high = np.zeros(3), np.ones(3)
    for band in range(3):
        finite = values[:, band][np.isfinite(values[:, band])]
        if finite.size:
            low[band], high[band] = np.percentile(finite, [1, 99])
    span = np.maximum(high - low, 1e-6)
    scaled = (np.moveaxis(values, 1, -1) - low) / span
    return list((np.nan_to_num(scaled).clip(0, 1) * 255).astype(np.uint8))


def _over(
    picture: NDArray[np.uint8],
    label: NDArray[np.uint8],
    table: dict[int, tuple[str, tuple[int, int, int]]],
    seen: set[tuple[str, tuple[int, int, int]]],
) -> NDArray[np.uint8]:
    """The picture, grey, with the label's colours over it."""
    out = np.repeat(picture.mean(axis=-1, keepdims=True), 3, axis=-1)
    for value, (name, color) in table.items():
        where = label == value
        if where.any():
            seen.add((name, color))
            out[where] = (1 - _OPACITY) * out[where] + _OPACITY * np.array(color)
    return out.astype(np.uint8)


def _sheet(rows: list[Image.Image], legend: list[tuple[str, tuple[int, int, int]]], title: str) -> Image.Image:
    width = max(480, *(row.width for row in rows))
    columns = max(1, width // 160)
    lines = -(-len(legend) // columns)
    height = _TEXT + sum(row.height + _GAP for row in rows) + (lines + 1) * _TEXT
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 2), title, fill="black", font=_font())
    top = _TEXT
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + _GAP
    for number, (name, color) in enumerate(legend):
        left, line = number % columns * 160 + 2, top + number // columns * _TEXT
        draw.rectangle((left, line + 2, left + 12, line + 14), fill=color, outline=(60, 60, 60))
        draw.text((left + 18, line), name, fill="black", font=_font())
    return sheet


def _fitted(picture: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(picture)
    scale = PANEL / max(image.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)


def _rgb(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=12)
