"""Pixel grids: ground sampling distance, extents, and where one grid lies in another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as transform_coordinates
from rasterio.windows import Window

from tuban.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

LONLAT = CRS.from_epsg(4326)
_GEOD = Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True)
class Grid:
    """A pixel grid: CRS, affine transform (pixel corner to CRS units), height and width in pixels."""

    crs: CRS
    transform: Affine
    height: int
    width: int

    def pixel_size_m(self) -> float:
        """Ground sampling distance in metres at the centre: side of the square with the pixel's geodesic area.

        Raises:
            SceneError: the CRS cannot be related to longitude and latitude.
        """
        size = math.sqrt(self.pixel_area_m2(self.height / 2, self.width / 2))
        if not math.isfinite(size) or size == 0:
            raise SceneError(
                f"pixels of {self.transform.a:g} x {self.transform.e:g} have no size on the ground "
                f"in {name_of(self.crs)}; check the CRS and the transform"
            )
        return size

    def pixel_area_m2(self, row: float, col: float) -> float:
        """Geodesic area of the pixel whose upper left corner is at a row and column."""
        lon, lat = self._lonlat(np.array([col, col + 1, col + 1, col]), np.array([row, row, row + 1, row + 1]))
        area, _ = _GEOD.polygon_area_perimeter(lon, lat)
        return abs(float(area))

    def spacing_m(self) -> tuple[float, float]:
        """Geodesic distance at the centre from a row to the next, and from a column to the next."""
        col, row = self.width / 2, self.height / 2
        lon, lat = self._lonlat(np.array([col, col, col + 1]), np.array([row, row + 1, row]))
        _, _, metres = _GEOD.inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])
        return float(metres[0]), float(metres[1])

    def bounds_lonlat(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees (WGS 84)."""
        lon, lat = self._lonlat(*self.outline())
        return float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())

    def outline(self, points: int = 33) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Columns and rows of points along the border, dense enough for curved projections."""
        t = np.linspace(0.0, 1.0, points)
        zero, one = np.zeros_like(t), np.ones_like(t)
        cols = np.concatenate([t, one, t[::-1], zero]) * self.width
        rows = np.concatenate([zero, t, one, t[::-1]]) * self.height
        return cols, rows

    def window(self, window: Window) -> Grid:
        """Return the grid of a window of this grid."""
        moved = self.transform @ Affine.translation(window.col_off, window.row_off)
        return Grid(self.crs, moved, int(window.height), int(window.width))

    def tiles(self, size: int) -> Iterator[Window]:
        """Yield windows of `size` pixels that cover the grid, centre first: data are seldom missing in the middle."""
        rows, cols = -(-self.height // size), -(-self.width // size)
        for i in range(rows):
            for j in range(cols):
                row, col = (rows // 2 + i) % rows * size, (cols // 2 + j) % cols * size
                yield Window(col, row, min(size, self.width - col), min(size, self.height - row))

    def pixels_of(self, other: Grid) -> tuple[float, float, float, float]:
        """Bounding box of another grid in this grid's pixels: first column, first row, last column, last row."""
        x, y = other.transform @ other.outline()
        if other.crs != self.crs:
            x, y = (np.asarray(v) for v in transform_coordinates(other.crs, self.crs, x, y))
        cols, rows = ~self.transform @ (x, y)
        finite = np.isfinite(cols) & np.isfinite(rows)
        if not finite.any():
            return 0.0, 0.0, 0.0, 0.0
        cols, rows = cols[finite], rows[finite]
        return float(cols.min()), float(rows.min()), float(cols.max()), float(rows.max())

    def whole_pixel_offset(self, other: Grid, tolerance: float = 1e-3) -> tuple[int, int] | None:
        """Columns and rows from this grid's origin to the same place in `other`, where both share pixels; else None."""
        if self.crs != other.crs:
            return None
        relative = ~other.transform @ self.transform
        far = np.array([relative @ corner for corner in ((0, 0), (self.width, self.height))])
        near = np.array([(0, 0), (self.width, self.height)])
        shift = far - near
        whole = np.round(shift[0])
        if np.abs(shift - whole).max() > tolerance or max(abs(relative.b), abs(relative.d)) > 1e-6:
            return None
        return int(whole[0]), int(whole[1])

    def _lonlat(
        self, cols: NDArray[np.float64], rows: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x, y = self.transform @ (cols, rows)
        lon, lat = transform_coordinates(self.crs, LONLAT, x, y)
        return np.asarray(lon), np.asarray(lat)


def name_of(crs: CRS) -> str:
    """Short name of a CRS for messages: `EPSG:4326`, or the start of its WKT."""
    text: str = crs.to_string()
    return text if len(text) <= 60 else text[:57] + "..."


def describe_bounds(bounds: tuple[float, float, float, float]) -> str:
    """Bounds as text: `lon 2.21741..2.29649, lat 48.66681..48.74027`."""
    west, south, east, north = bounds
    return f"lon {west:.5f}..{east:.5f}, lat {south:.5f}..{north:.5f}"
