"""A labelled place run through the inference that users run, and read back strip by strip beside its labels."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.windows import Window

from tuban.data.crosswalk import crosswalk
from tuban.data.pair import open_pair
from tuban.data.place import IGNORE
from tuban.data.scene import Scene
from tuban.errors import SceneError
from tuban.inference.change import predict_change
from tuban.inference.landcover import SceneReader, predict_landcover
from tuban.inference.units import rescale

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tuban.data.pair import Pair
    from tuban.inference.change import ChangeRasters
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle

STRIP = 512
CONFIDENT = 153
"""Weak labels of less than 60 % confidence (153 of 255) are unknown."""
_RGB = ("B04", "B03", "B02")


@dataclass(frozen=True, slots=True)
class ChangeStrip:
    """Whole rows of a place.

    Attributes:
        row: first row on the pair's grid.
        probability: `(h, w)` float32, NaN where unseen.
        label: `(h, w)` uint8, 0, 1 or 255 unknown or unseen.
        mapped: unified class before and after as mapped, `(h, w)` uint8, 0 nodata; empty without land cover.
        weak: the same of the weak labels that are confident; empty where there are none.
    """

    row: int
    probability: NDArray[np.float32]
    label: NDArray[np.uint8]
    mapped: tuple[NDArray[np.uint8], ...]
    weak: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True, slots=True)
class PredictedPair:
    """A pair with its results, valid while the block of `predicted_pair` runs.

    Attributes:
        folder: of the place: labels.
        pair: the opened pair.
        rasters: what inference wrote.
    """

    folder: Path
    pair: Pair
    rasters: ChangeRasters

    @property
    def pixel_m2(self) -> float:
        """Ground area of a pixel, m²."""
        return float(self.pair.grid.pixel_size_m() ** 2)

    def strips(self, rows: int = STRIP) -> Iterator[ChangeStrip]:
        """Yield the place from top to bottom in strips of at most `rows` rows.

        Raises:
            SceneError: a label does not lie on BEFORE's grid.
        """
        moved = self.pair.before.grid.whole_pixel_offset(self.pair.grid) or (0, 0)
        column, top = -moved[0], -moved[1]
        dates = ("before", "after")
        covers = [getattr(self.rasters, f"landcover_{date}") for date in dates]
        weak = [self.folder / f"{date}_dynamicworld.tif" for date in dates]
        with contextlib.ExitStack() as stack:
            probability = stack.enter_context(rasterio.open(self.rasters.probability))
            label = _opened(stack, self.folder / "change.tif")
            maps = [stack.enter_context(rasterio.open(path)) for path in covers if path is not None]
            classes = [_opened(stack, path) for path in weak if path.is_file()]
            for row in range(0, self.pair.height, rows):
                here = Window(0, row, self.pair.width, min(rows, self.pair.height - row))
                there = Window(column, top + row, here.width, here.height)
                coded = probability.read(1, window=here)
                seen = coded != 255
                known = _read(label, 1, there) if label else np.full(coded.shape, IGNORE, np.uint8)
                yield ChangeStrip(
                    row,
                    np.where(seen, coded / np.float32(254), np.nan).astype(np.float32),
                    np.where(seen, known, IGNORE).astype(np.uint8),
                    tuple(np.where(seen, m.read(1, window=here), 0).astype(np.uint8) for m in maps),
                    tuple(confident_classes(c, there) for c in classes),
                )

    def picture(self, step: int) -> NDArray[np.uint8]:
        """Return every `step`-th pixel of AFTER as an RGB image `(h, w, 3)`, grey where bands are missing."""
        names = [n for n in _RGB if n in self.pair.after.names] or [self.pair.radiometry_names[0]]
        rows, width, height = STRIP - STRIP % step, self.pair.width, self.pair.height
        windows = (Window(0, row, width, min(rows, height - row)) for row in range(0, height, rows))
        image = np.concatenate([self.pair.read(w, names).after[:, ::step, ::step] for w in windows], axis=1)
        image = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)
        seen = image[image != 0]
        low, high = np.nanpercentile(seen, [2, 98]) if seen.size else (0.0, 1.0)
        stretched = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255)
        return np.asarray(np.nan_to_num(stretched).astype(np.uint8).transpose(1, 2, 0))


@contextlib.contextmanager
def predicted_pair(
    bundle: Bundle,
    folder: Path,
    settings: InferenceSettings | None = None,
    *,
    before: Path | None = None,
    after: Path | None = None,
) -> Iterator[PredictedPair]:
    """Open `before.tif` and `after.tif` of a place as `tuban detect` does, run the bundle, and yield the results.

    Args:
        bundle: the model.
        folder: of the place.
        settings: how inference runs.
        before: another earlier image.
        after: another later image, for example a perturbed one.

    Raises:
        PairError: the pair is refused.
        SceneError: an image cannot be used.
    """
    with (
        open_pair(before or folder / "before.tif", after or folder / "after.tif") as pair,
        tempfile.TemporaryDirectory() as scratch,
    ):
        reader: Any = pair if pair.before.radiometry == "reflectance" else rescale(pair, bundle)
        yield PredictedPair(folder, pair, predict_change(reader, bundle, Path(scratch), settings=settings))


def landcover_strips(
    bundle: Bundle, image: Path, settings: InferenceSettings | None = None, rows: int = STRIP
) -> Iterator[NDArray[np.uint8]]:
    """Map the land cover of one image as `tuban landcover` does; yield unified classes, strip by strip, 0 nodata."""
    with Scene.open(image) as scene, tempfile.TemporaryDirectory() as scratch:
        made = predict_landcover(SceneReader(scene), bundle, Path(scratch), settings=settings)
        with rasterio.open(made.paths["landcover"]) as source:
            for row in range(0, source.height, rows):
                yield source.read(1, window=Window(0, row, source.width, min(rows, source.height - row)))


def confident_classes(source: Any, window: Window) -> NDArray[np.uint8]:
    """Return unified classes `(h, w)` of a Dynamic World raster; 0 where unknown or less than 60 % sure."""
    weak = np.asarray(crosswalk("dynamicworld"))[_read(source, 1, window)]
    return np.where(_read(source, 2, window) >= CONFIDENT, weak, 0).astype(np.uint8)


def _opened(stack: contextlib.ExitStack, path: Path) -> Any:
    return stack.enter_context(rasterio.open(path)) if path.is_file() else None


def _read(source: Any, band: int, window: Window) -> NDArray[np.uint8]:
    bottom, right = window.row_off + window.height, window.col_off + window.width
    if source.height < bottom or source.width < right:
        raise SceneError(
            f"{source.name}: {source.height} x {source.width} pixels do not cover rows to {bottom} and columns to "
            f"{right} of the pair; labels must lie on BEFORE's grid"
        )
    return np.asarray(source.read(band, window=window), dtype=np.uint8)
