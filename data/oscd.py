"""Onera Satellite Change Detection: Sentinel-2 pairs by city, read through the same `Pair` as at inference.

References:
    Daudt et al., "Urban Change Detection for Multispectral Earth Observation Using Convolutional Neural
        Networks", IGARSS 2018.
    Brown et al., "Dynamic World, Near real-time global 10 m land use land cover mapping", Scientific Data
        2022 (weak labels).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.windows import Window

from tuban.data.crosswalk import crosswalk
from tuban.data.pair import open_pair
from tuban.data.place import IGNORE, Place
from tuban.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def city_folders(root: Path) -> Iterator[Path]:
    """Yield every folder under `root` that holds `before.tif` and `after.tif`, sorted by name.

    Raises:
        SceneError: there is none.
    """
    folders = sorted(path.parent for path in root.glob("*/before.tif") if (path.parent / "after.tif").is_file())
    if not folders:
        raise SceneError(
            f"{root}: no folder with before.tif and after.tif; expected <root>/<city>/before.tif as in OSCD"
        )
    yield from folders


def load_city(folder: Path, bands: Sequence[str], classes: Sequence[int]) -> Place:
    """Read one city whole; OSCD's places are about a megapixel, so this stays small.

    Args:
        folder: holds `before.tif`, `after.tif`, `scene.json` and optionally `change.tif` and `*_dynamicworld.tif`.
        bands: canonical band names in network order.
        classes: unified classes in network order; others become unknown.

    Raises:
        SceneError: an image cannot be read or a label does not lie on BEFORE's grid.
    """
    with open_pair(folder / "before.tif", folder / "after.tif") as pair:
        window = pair.read(Window(0, 0, pair.width, pair.height), bands)
        origin = ~pair.before.transform @ (pair.transform.c, pair.transform.f)
        offset = (round(origin[1]), round(origin[0]))
        shape = (pair.height, pair.width)
        summary = pair.summary()
    before, after = window.before.copy(), window.after.copy()
    before[:, ~window.valid] = np.nan
    after[:, ~window.valid] = np.nan
    change = _labels(folder / "change.tif", 1, offset, shape, IGNORE)
    change[~window.valid] = IGNORE
    index = np.full(256, IGNORE, dtype=np.uint8)
    for position, value in enumerate(classes):
        index[value] = position
    unified = index[crosswalk("dynamicworld")]
    weak = [folder / f"{date}_dynamicworld.tif" for date in ("before", "after")]
    cover_before, cover_after = (unified[_labels(path, 1, offset, shape, 0)] for path in weak)
    weight_before, weight_after = (_labels(path, 2, offset, shape, 0) for path in weak)
    return Place(
        folder.name,
        before,
        after,
        change,
        cover_before,
        cover_after,
        weight_before,
        weight_after,
        summary,
        dataset="oscd",
        gsd_m=10.0,
    )


def _labels(path: Path, band: int, offset: tuple[int, int], shape: tuple[int, int], fill: int) -> NDArray[np.uint8]:
    if not path.is_file():
        return np.full(shape, fill, dtype=np.uint8)
    with rasterio.open(path) as source:
        if source.height < offset[0] + shape[0] or source.width < offset[1] + shape[1]:
            raise SceneError(
                f"{path}: {source.height} x {source.width} pixels do not cover the pair's {shape}; use BEFORE's grid"
            )
        return np.asarray(source.read(band, window=Window(offset[1], offset[0], shape[1], shape[0])), dtype=np.uint8)
