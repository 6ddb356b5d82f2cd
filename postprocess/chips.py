"""Before/after chips: small pictures cut from a pair around one polygon, with what is drawn over them as SVG paths.

Both dates share one stretch, so that a difference in brightness on paper is one in the data. The pictures hold pixels
only; outlines, zones, scale bar and north stand above them as vectors, which stay sharp in print.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from tuban.postprocess.view import WIDTH, View, svg_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rasterio.windows import Window

    from tuban.inference.reading import Grid
    from tuban.postprocess.sources import PixelSource, ZoneSource

TRUE_COLOUR = ("B04", "B03", "B02")
FALSE_COLOUR = ("B08", "B04", "B03")
_GREY = 205  # pixels without data


class ChipSettings(BaseModel):
    """How chips are cut and drawn.

    Attributes:
        min_px: least side of a chip in pixels of the scene.
        max_read_px: longest side that is read; a longer polygon is shown in part, and the chip says so.
        display_px: least side of the picture in the report; smaller chips are enlarged (bicubic).
        context: side of the chip in multiples of the polygon's longer side.
        percentiles: low and high percentile of the stretch, shared by both dates.
        quality: JPEG quality.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_px: int = Field(64, ge=16, le=1024)
    max_read_px: int = Field(1024, ge=64, le=8192)
    display_px: int = Field(384, ge=256, le=2048)
    context: float = Field(2.2, ge=1.0, le=20.0)
    percentiles: tuple[float, float] = (1.0, 99.0)
    quality: int = Field(88, ge=30, le=95)


@dataclass(frozen=True, slots=True)
class Chip:
    """One polygon on two dates.

    Attributes:
        before: JPEG of the first date as a data URI.
        after: JPEG of the second date as a data URI.
        height: of the drawing in SVG units; its width is 1000.
        outline: SVG path of the polygon.
        zones: role and SVG path of each plan zone in view.
        scale_units: length of the scale bar in SVG units.
        scale_m: the same in metres.
        north_deg: direction of true north, clockwise from the chip's top.
        bands: names of the bands shown as red, green and blue.
        partial: whether the polygon reaches beyond the chip.
    """

    before: str
    after: str
    height: float
    outline: str
    zones: tuple[tuple[str, str], ...]
    scale_units: float
    scale_m: float
    north_deg: float
    bands: tuple[str, ...]
    partial: bool


def chip_view(grid: Grid, geometry: shapely.Geometry, settings: ChipSettings) -> View:
    """Return the ground that the pictures of a polygon (in the grid's CRS) show."""
    return View.around(grid, geometry, context=settings.context, min_px=settings.min_px, max_px=settings.max_read_px)


def make_chip(
    source: PixelSource, geometry: shapely.Geometry, zones: Sequence[ZoneSource] = (), *, settings: ChipSettings
) -> Chip | None:
    """Cut the chip around a polygon.

    Args:
        source: the pair.
        geometry: the polygon, in the pair's CRS.
        zones: plan layers whose areas are outlined.
        settings: sizes and stretch.

    Returns:
        The chip, or None where the pair has no valid pixel around the polygon.
    """
    view = chip_view(source, geometry, settings)
    shown = read_colours(source, view.window)
    if shown is None:
        return None
    before, after, valid, bands = shown
    low, high = stretch_limits(np.concatenate([before[:, valid], after[:, valid]], axis=1), settings.percentiles)
    target = _enlarged(WIDTH, view.height, settings.display_px)
    return Chip(
        before=jpeg_uri(paint(before, valid, low, high), target, settings.quality),
        after=jpeg_uri(paint(after, valid, low, high), target, settings.quality),
        height=round(view.height, 1),
        outline=svg_path(view.drawn(geometry)),
        zones=_zone_paths(view, zones),
        scale_units=view.scale_units,
        scale_m=view.scale_m,
        north_deg=view.north_deg,
        bands=bands,
        partial=view.partial,
    )


def read_colours(
    source: PixelSource, window: Window
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], tuple[str, ...]] | None:
    """Read true colour, or false colour where blue is lacking, or the one of these bands there is, as grey.

    Returns:
        Before and after `(3, height, width)`, valid `(height, width)` and the band names shown; None where nothing
        is valid.
    """
    for names in (TRUE_COLOUR, FALSE_COLOUR, ("B08",), ("B04",), ("B03",), ("B02",)):
        got = source.read(window, names)
        finite = np.isfinite(got.before).all(axis=0) & np.isfinite(got.after).all(axis=0)
        valid = got.valid & finite
        if valid.any():
            times = 3 // len(names)
            return np.repeat(got.before, times, axis=0), np.repeat(got.after, times, axis=0), valid, names
        if not got.valid.any():
            return None
    return None


def stretch_limits(
    values: NDArray[np.float32], percentiles: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the low and high value of each band, never equal, from values `(bands, n)`."""
    low, high = np.percentile(values, percentiles, axis=1).astype(np.float64)
    return low, np.where(high - low > 1e-9, high, low + 1.0)


def paint(
    values: NDArray[np.float32], valid: NDArray[np.bool_], low: NDArray[np.float64], high: NDArray[np.float64]
) -> Image.Image:
    """Return values `(3, height, width)` as a picture; pixels without data are grey."""
    share = (np.where(valid, values, 0.0) - low[:, None, None]) / (high - low)[:, None, None]
    colours = np.where(valid, np.clip(share, 0, 1) * 255, _GREY)
    return Image.fromarray(np.moveaxis(np.rint(colours), 0, -1).astype(np.uint8))


def jpeg_uri(image: Image.Image, size: tuple[int, int] | None = None, quality: int = 88) -> str:
    """Return a picture, enlarged to `size` (width, height) where that is larger, as a JPEG data URI."""
    if size is not None:
        image = image.resize((max(size[0], image.width), max(size[1], image.height)), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _zone_paths(view: View, zones: Sequence[ZoneSource]) -> tuple[tuple[str, str], ...]:
    found = []
    for zone in zones:
        cut: list[shapely.Geometry] = []
        for frame in zone.batches(view.bounds, view.grid.crs):
            cut.extend(view.cut(view.drawn(frame.geometry.to_numpy())))
        path = svg_path(shapely.union_all(cut)) if cut else ""
        if path:
            found.append((zone.role, path))
    return tuple(found)


def _enlarged(width: float, height: float, least: int) -> tuple[int, int]:
    factor = least / min(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))
