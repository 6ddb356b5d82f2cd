"""A labelled place run through the inference that users run, and read back strip by strip beside its labels."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window

from tuban.data.pictures import open_file
from tuban.data.place import IGNORE
from tuban.data.views import open_views
from tuban.errors import SceneError
from tuban.inference.change import predict_change
from tuban.inference.predict import predict
from tuban.inference.products import LandcoverProduct
from tuban.inference.units import rescale

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tuban.data.views import Views
    from tuban.inference.change import ChangeRasters
    from tuban.inference.reading import PixelReader
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle
    from tuban.training.labelled import LabelledItem

STRIP = 512
_RGB = ("B04", "B03", "B02")
_NOWHERE = CRS.from_wkt('LOCAL_CS["pixels of a picture",UNIT["metre",1]]')
"""Where pictures without georeference lie: results are written as rasters, which want a CRS."""


class SeenWindow(NamedTuple):
    """A window as inference reads it: images `(bands, h, w)` float32, and which pixels may hold a result `(h, w)`."""

    before: NDArray[np.float32]
    after: NDArray[np.float32] | None
    valid: NDArray[np.bool_]

    @property
    def image(self) -> NDArray[np.float32]:
        """The only date of a land-cover place."""
        return self.before


@dataclass(frozen=True, slots=True)
class PlaceReader:
    """The images of a place as a `tuban.inference.reading.PixelReader`."""

    views: Views

    @property
    def height(self) -> int:
        """Rows."""
        return self.views.height

    @property
    def width(self) -> int:
        """Columns."""
        return self.views.width

    @property
    def crs(self) -> CRS:
        """Coordinate reference system; a nominal one without georeference."""
        return self.views.grid.crs if self.views.grid else _NOWHERE

    @property
    def transform(self) -> Affine:
        """Pixel corner to CRS units."""
        size = self.views.gsd_m or 1.0
        return self.views.grid.transform if self.views.grid else Affine(size, 0, 0, 0, -size, 0)

    def read(self, window: Window, names: Sequence[str]) -> SeenWindow:
        """Read a window; a band that is missing is NaN."""
        before, after = self.views.read(window, names)
        valid = np.isfinite(before).any(axis=0)
        if after is not None:
            valid &= np.isfinite(after).any(axis=0)
        return SeenWindow(before, after, np.asarray(valid))


@dataclass(frozen=True, slots=True)
class ChangeStrip:
    """Whole rows of a place.

    Attributes:
        row: first row on the pair's grid.
        probability: `(h, w)` float32, NaN where unseen.
        label: `(h, w)` uint8, 0, 1 or 255 unknown or unseen.
        mapped: unified class before and after as mapped, `(h, w)` uint8, 0 nodata; empty without land cover.
        known: the same of the labels, 0 where unknown or not sure; empty where there are none.
    """

    row: int
    probability: NDArray[np.float32]
    label: NDArray[np.uint8]
    mapped: tuple[NDArray[np.uint8], ...]
    known: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True, slots=True)
class PredictedPair:
    """A pair with its results, valid while the block of `predicted_pair` runs.

    Attributes:
        place: labels.
        views: the matched images.
        rasters: what inference wrote.
    """

    place: LabelledItem
    views: Views
    rasters: ChangeRasters

    @property
    def pixel_m2(self) -> float:
        """Ground area of a pixel, m²; 1 where nothing tells it."""
        size = self.views.grid.pixel_size_m() if self.views.grid else self.views.gsd_m or 1.0
        return float(size**2)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the pair was doubted for, and what was assumed of it."""
        said = tuple(str(note) for note in self.views.summary.get("notes", ()))
        if self.views.grid is None and self.views.gsd_m is None:
            said += ("pixel size unknown: areas are in pixels; give gsd_m in dataset.yaml",)
        return said + self.rasters.notes

    def strips(self, rows: int = STRIP) -> Iterator[ChangeStrip]:
        """Yield the place from top to bottom in strips of at most `rows` rows.

        Raises:
            SceneError: a label does not lie on the grid of the first image.
        """
        covers = (self.rasters.landcover_before, self.rasters.landcover_after)
        width, height = self.views.width, self.views.height
        labelled = [second for second, there in enumerate(self.place.covered) if there]
        with contextlib.ExitStack() as stack:
            probability = stack.enter_context(rasterio.open(self.rasters.probability))
            maps = [stack.enter_context(rasterio.open(path)) for path in covers if path is not None]
            for row in range(0, height, rows):
                here = Window(0, row, width, min(rows, height - row))
                coded = probability.read(1, window=here)
                seen = coded != 255
                yield ChangeStrip(
                    row,
                    np.where(seen, coded / np.float32(254), np.nan).astype(np.float32),
                    np.where(seen, self.place.change(self.views, here), IGNORE).astype(np.uint8),
                    tuple(np.where(seen, m.read(1, window=here), 0).astype(np.uint8) for m in maps),
                    tuple(self.place.classes(self.views, here, second=bool(second)) for second in labelled)
                    if maps
                    else (),
                )

    def picture(self, step: int) -> NDArray[np.uint8]:
        """Return every `step`-th pixel of AFTER as an RGB image `(h, w, 3)`, grey where bands are missing."""
        return picture(self.views, self.place.folder.bands, step)


def picture(views: Views, have: Sequence[str], step: int) -> NDArray[np.uint8]:
    """Return every `step`-th pixel of the last image as RGB `(h, w, 3)`, grey where bands are missing."""
    names = [name for name in _RGB if name in have] or list(have[:1])
    parts = []
    rows = STRIP - STRIP % step
    for row in range(0, views.height, rows):
        before, after = views.read(Window(0, row, views.width, min(rows, views.height - row)), names)
        parts.append((before if after is None else after)[:, ::step, ::step])
    image = np.concatenate(parts, axis=1)
    image = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)
    low, high = np.nanpercentile(image, [2, 98]) if np.isfinite(image).any() else (0.0, 1.0)
    stretched = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255)
    return np.asarray(np.nan_to_num(stretched).astype(np.uint8).transpose(1, 2, 0))


@contextlib.contextmanager
def predicted_pair(
    bundle: Bundle, place: LabelledItem, settings: InferenceSettings | None = None
) -> Iterator[PredictedPair]:
    """Open the two dates of a place as `tuban detect` does, run the bundle, and yield the results.

    Args:
        bundle: the model.
        place: what is measured on.
        settings: how inference runs.

    Raises:
        PairError: the pair is refused.
        SceneError: an image cannot be used.
    """
    with open_views(place.folder, place.item, strict=True) as views, tempfile.TemporaryDirectory() as scratch:
        source = _in_units(PlaceReader(views), bundle, place)
        yield PredictedPair(place, views, predict_change(source, bundle, Path(scratch), settings=settings))


def landcover_strips(
    bundle: Bundle, place: LabelledItem, settings: InferenceSettings | None = None, *, rows: int = STRIP
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Map the land cover of one image as `tuban landcover` does, strip by strip.

    Args:
        bundle: for land cover.
        place: a single image.
        settings: how inference runs.
        rows: at most so many in a strip.

    Yields:
        Unified classes as mapped and as labelled, `(h, w)` uint8 each, 0 nodata or unknown.

    Raises:
        SceneError: the image or its label cannot be used.
    """
    with open_views(place.folder, place.item) as views, tempfile.TemporaryDirectory() as scratch:
        if _byte(place) and bundle.units != "byte":
            raise SceneError(
                f"{place.image}: 8-bit numbers are no reflectance, which "
                f"{bundle.name} wants; choose a model for 8-bit colour"
            )
        made = predict(PlaceReader(views), bundle, LandcoverProduct(bundle), Path(scratch), settings=settings)
        with rasterio.open(made.paths["landcover"]) as mapped:
            for row in range(0, views.height, rows):
                here = Window(0, row, views.width, min(rows, views.height - row))
                yield mapped.read(1, window=here), place.classes(views, here)


def _in_units(reader: PlaceReader, bundle: Bundle, place: LabelledItem) -> PixelReader:
    """The reader in the model's units: what is no reflectance is mapped as for users."""
    stored = reader.views.summary.get("before", {}).get("radiometry") == "dn"
    if bundle.units != "byte" and (stored or _byte(place)):
        return rescale(reader, bundle)
    return reader


def _byte(place: LabelledItem) -> bool:
    """Whether a place's images are 8-bit numbers."""
    if place.image is None:
        return False
    with open_file(place.image) as source:
        return bool(source.dtypes[0] == "uint8")
