"""Class rasters that are judged by points: opened, checked, and read in strips of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from tuban.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

STRIP_PX = 4_000_000
"""Pixels of a strip."""


def opened(raster: str | Path) -> Any:
    """Open a raster of classes.

    Raises:
        SceneError: it cannot be read, is not of integers or has no CRS.
    """
    try:
        source = rasterio.open(raster)
    except RasterioError as error:
        raise SceneError(f"cannot read {raster}: {error}; give a class raster") from error
    if not source.crs or not np.issubdtype(np.dtype(source.dtypes[0]), np.integer):
        kind = source.dtypes[0]
        source.close()
        raise SceneError(
            f"{raster}: band 1 is {kind}, or it has no CRS; give a georeferenced raster of integer classes"
        )
    return source


def strips(source: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield first row and values of strips of whole rows.

    Raises:
        SceneError: one cannot be read.
    """
    height = max(STRIP_PX // source.width, 1)
    for row in range(0, source.height, height):
        rows = min(height, source.height - row)
        try:
            yield row, source.read(1, window=Window(0, row, source.width, rows))
        except RasterioError as error:
            raise SceneError(f"{source.name}: rows {row}–{row + rows} cannot be read ({error})") from error
