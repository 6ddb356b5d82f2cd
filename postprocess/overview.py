"""The report's overview: AFTER, decimated to a bounded size, with zones and every finding drawn on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from PIL import Image, ImageDraw
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from tuban.errors import SceneError
from tuban.postprocess.chips import FALSE_COLOUR, TRUE_COLOUR, jpeg_uri, paint, read_colours, stretch_limits
from tuban.postprocess.legend import role_colors
from tuban.postprocess.sources import grid_bounds, ground_size, to_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tuban.postprocess.sources import PixelSource, ZoneSource

_READ_LIMIT_PX = 4096 * 4096
_MARK_PX = 22  # diameter of a number on the picture


class Overview:
    """A bounded picture of the pair to which polygons are added as they stream by.

    Args:
        source: the pair.
        zones: plan layers to outline.
        longest_px: longest side of the picture.

    Attributes:
        width: of the picture in pixels.
        height: of the picture in pixels.
        available: False where AFTER could not be read decimated; then nothing is drawn.
    """

    def __init__(self, source: PixelSource, zones: Sequence[ZoneSource] = (), *, longest_px: int = 1400) -> None:
        across, down = ground_size(source, source.width / 2, source.height / 2)
        ground_w, ground_h = source.width * across, source.height * down
        scale = longest_px / max(ground_w, ground_h)
        # Never more pixels than the scene has on its finer axis.
        scale = min(scale, 2.0 / min(across, down))
        self.width = max(1, round(ground_w * scale))
        self.height = max(1, round(ground_h * scale))
        grid, step_x, step_y = source.transform, source.width / self.width, source.height / self.height
        self._transform = Affine(grid.a * step_x, grid.b * step_y, grid.c, grid.d * step_x, grid.e * step_y, grid.f)
        image = _decimated(source, self._transform, self.width, self.height) or _subsampled(
            source, self.width, self.height
        )
        self.available = image is not None
        self._image = image or Image.new("RGB", (1, 1))
        self._draw = ImageDraw.Draw(self._image)
        if self.available:
            self._draw_zones(source, zones)

    def add(self, geometries: NDArray[np.object_], colors: Sequence[str]) -> None:
        """Draw polygons (in the pair's CRS); one too small to see becomes a dot."""
        if not self.available:
            return
        for geometry, color in zip(to_pixels(geometries, self._transform), colors, strict=True):
            left, top, right, bottom = geometry.bounds
            if max(right - left, bottom - top) < 7:
                x, y = (left + right) / 2, (top + bottom) / 2
                self._draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color, outline="white", width=1)
            else:
                self._outline(geometry, color, 2)

    def place(self, geometry: shapely.Geometry) -> tuple[float, float]:
        """Return where on the picture (x, y) a number for a polygon goes: just above its top right."""
        bounds = shapely.bounds(to_pixels(geometry, self._transform))
        return (
            round(float(np.clip(bounds[2] + 8, 12, self.width - 12)), 1),
            round(float(np.clip(bounds[1] - 8, 12, self.height - 12)), 1),
        )

    def uri(self) -> str | None:
        """Return the picture as a JPEG data URI, or None where there is none."""
        return jpeg_uri(self._image, quality=86) if self.available else None

    def _draw_zones(self, source: PixelSource, zones: Sequence[ZoneSource]) -> None:
        bounds = grid_bounds(source.transform, 0, 0, source.width, source.height)
        colors = role_colors(zone.role for zone in zones)
        for zone in zones:
            color = colors[zone.role]
            for frame in zone.batches(bounds, source.crs):
                for geometry in to_pixels(frame.geometry.to_numpy(), self._transform):
                    self._outline(geometry, color, 2)

    def _outline(self, geometry: shapely.Geometry, color: str, width: int) -> None:
        for part in shapely.get_parts(geometry):
            if part.geom_type == "Polygon" and not part.is_empty:
                for ring in (part.exterior, *part.interiors):
                    points = [(float(x), float(y)) for x, y in shapely.get_coordinates(ring)]
                    self._draw.line(points, fill="white", width=width + 2, joint="curve")
                    self._draw.line(points, fill=color, width=width, joint="curve")


def apart(places: Sequence[tuple[float, float]], width: float) -> list[tuple[float, float]]:
    """Move numbers that would cover one another, as those of one change under several rules, side by side.

    Args:
        places: (x, y) of each number on the picture, pixels; the first ones keep their place.
        width: of the picture; what does not fit goes into the next line.

    Example:
        >>> apart([(50.0, 50.0), (50.0, 50.0), (90.0, 50.0)], 200)
        [(50.0, 50.0), (72.0, 50.0), (112.0, 50.0)]
    """
    taken: list[tuple[float, float]] = []
    for left, top in places:
        x, y = left, top
        while any(abs(x - other) < _MARK_PX and abs(y - line) < _MARK_PX for other, line in taken):
            x += _MARK_PX
            if x > width - _MARK_PX / 2:
                x, y = left, y + _MARK_PX
        taken.append((round(x, 1), round(y, 1)))
    return taken


def _decimated(source: PixelSource, transform: Affine, width: int, height: int) -> Image.Image | None:
    """Read AFTER straight from its file on a coarse grid, which uses its overviews; None where that is not possible."""
    scene: Any = getattr(source, "after", None)
    opened = getattr(getattr(scene, "source", None), "opened", None)
    if opened is None:
        return None
    index = {band.name: band.index for band in scene.bands}
    names = next((names for names in (TRUE_COLOUR, FALSE_COLOUR) if all(name in index for name in names)), None)
    names = names or tuple(index)[:1]
    try:
        with (
            opened() as dataset,
            WarpedVRT(
                dataset,
                crs=rasterio.crs.CRS.from_user_input(source.crs),
                transform=transform,
                width=width,
                height=height,
                src_nodata=scene.nodata,
                nodata=scene.nodata,
                resampling=Resampling.average,
            ) as coarse,
        ):
            got = coarse.read([index[name] for name in names], masked=True).astype(np.float32)
    except (RasterioError, SceneError):
        return None
    valid = ~np.ma.getmaskarray(got).any(axis=0) & np.isfinite(got.data).all(axis=0)
    return _painted(np.repeat(got.data, 3 // len(names), axis=0), valid)


def _subsampled(source: PixelSource, width: int, height: int) -> Image.Image | None:
    """Read AFTER through the pair in strips and keep every n-th pixel; None for a scene too large for that."""
    if source.width * source.height > _READ_LIMIT_PX:
        return None
    columns = np.minimum((np.arange(width) + 0.5) * source.width / width, source.width - 1).astype(int)
    rows = np.minimum((np.arange(height) + 0.5) * source.height / height, source.height - 1).astype(int)
    values = np.zeros((3, height, width), np.float32)
    valid = np.zeros((height, width), bool)
    for start in range(0, source.height, 256):
        window = Window(0, start, source.width, min(256, source.height - start))
        inside = (rows >= start) & (rows < start + 256)
        shown = read_colours(source, window) if inside.any() else None
        if shown is None:
            continue
        _, after, good, _ = shown
        picked = np.ix_(rows[inside] - start, columns)
        valid[inside] = good[picked]
        values[:, inside] = after[:, picked[0], picked[1]]
    return _painted(values, valid)


def _painted(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> Image.Image | None:
    if not valid.any():
        return None
    low, high = stretch_limits(values[:, valid], (2.0, 98.0))
    return paint(values, valid, low, high)
