"""Class rasters to valid, gap-free polygons, in strips of bounded memory.

`docs/vectorize.md` explains the method, what is equal to what, and the bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
import shapely
from rasterio.errors import RasterioError
from rasterio.windows import Window

from tuban.errors import SceneError, UsageError
from tuban.postprocess.trace import Rings, Tracer
from tuban.postprocess.vectorize_settings import VectorizeSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from tuban.postprocess.trace import Tally

    Prepare = Callable[
        [Window, npt.NDArray[Any], npt.NDArray[np.bool_]], tuple[npt.NDArray[Any], npt.NDArray[np.bool_], Tally | None]
    ]


_LARGEST = 2**53  # integers up to here are exact as floats too


class PolygonBatch(NamedTuple):
    """Polygons in the raster's CRS: geometry `(n,)`, class value `(n,)`, tallied sums `(n, features)`."""

    geometry: npt.NDArray[np.object_]
    value: npt.NDArray[Any]
    sums: npt.NDArray[np.int64]


def iter_polygons(
    path: str | Path,
    *,
    band: int = 1,
    mask_values: Sequence[int] = (),
    settings: VectorizeSettings | None = None,
    prepare: Prepare | None = None,
) -> Iterator[PolygonBatch]:
    """Polygonise a class raster strip by strip.

    Pixels of one class that share an edge form one polygon (4-connected); nodata, masked pixels and
    `mask_values` form none. Polygons are valid, keep their holes, are not cut at strip lines, and neighbours
    share their edges. A polygon is yielded once the strip that completes it is read.

    Args:
        path: any raster rasterio opens, of an integer type or of floats that hold whole numbers.
        band: band to read, from 1.
        mask_values: classes to leave out, in addition to those of the settings.
        settings: defaults where None; minimum mapping units and simplification belong to `vectorize`.
        prepare: called with each window, its classes and what is kept; returns both, changed, and a tally.

    Yields:
        One batch a strip, never empty.

    Raises:
        SceneError: the raster cannot be read, or holds no whole numbers of up to 2**53.
        UsageError: the raster has no such band.
    """
    settings = settings or VectorizeSettings()
    masked = sorted({*mask_values, *settings.mask_values})
    try:
        with rasterio.open(path) as source:
            if not 1 <= band <= source.count:
                raise UsageError(f"band {band} of {path}: it has bands 1 to {source.count}")
            tracer = Tracer(source.width, noded=settings.noded, transform=source.transform)
            for window in strips(source, settings.strip_pixels):
                values, keep = read_classes(source, band, window, masked)
                tally = None
                if prepare is not None:
                    values, keep, tally = prepare(window, values, keep)
                yield from _batch(tracer.push(values, keep, tally))
            yield from _batch(tracer.finish())
    except RasterioError as error:
        raise SceneError(f"cannot read {path}: {error}; check that the file is a complete raster") from error


def strips(source: Any, pixels: int) -> Iterator[Window]:
    """Yield full-width windows from top to bottom of about `pixels`, whole blocks where they are not too tall."""
    block = int(source.block_shapes[0][0])
    rows = max(1, pixels // source.width)
    if rows >= block:
        rows -= rows % block
    for row in range(0, source.height, rows):
        yield Window(0, row, source.width, min(rows, source.height - row))


def _batch(rings: Rings) -> Iterator[PolygonBatch]:
    if len(rings.values):
        polygons = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, rings.xy, (rings.ring_starts, rings.polygon_starts)
        )
        yield PolygonBatch(polygons, rings.values, rings.sums)


def read_classes(
    source: Any, band: int, window: Window, masked: Sequence[int]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return the classes in a window, and which of them form polygons."""
    values = source.read(band, window=window)
    keep = source.read_masks(band, window=window) != 0
    if values.dtype.kind == "f" or values.dtype.itemsize == 8:
        keep &= np.isfinite(values)
        inside = np.where(keep, values, 0)
        if (inside != np.trunc(inside)).any():
            raise SceneError(f"{source.name}: band {band} holds fractions, not classes; classify or round it first")
        if ((inside > _LARGEST) | (inside < -_LARGEST)).any():
            raise SceneError(f"{source.name}: band {band} holds classes beyond {_LARGEST}; renumber them first")
        values = inside.astype(np.int64)
    if masked:
        keep &= ~np.isin(values, masked)
    return values, keep
