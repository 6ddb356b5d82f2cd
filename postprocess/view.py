"""A square of ground around a polygon and the drawing's coordinate system, shared by chips and overlay figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pyproj
import shapely
from affine import Affine
from rasterio.windows import Window

from tuban.postprocess.sources import grid_bounds, ground_size, north_angle, round_length, to_pixels

if TYPE_CHECKING:
    from tuban.inference.reading import Grid

WIDTH = 1000.0
"""Width of a drawing's coordinate system; its height follows the ground's proportions."""


@dataclass(frozen=True, slots=True)
class PlainGrid:
    """A grid without pixels, for figures of polygons that no image is known of."""

    crs: object
    transform: Affine

    @classmethod
    def around(cls, geometry: shapely.Geometry, crs: object, *, cells: int = 400) -> Self:
        """Lay a grid over a polygon so that its longer side has `cells` cells, but none below 0.1 m."""
        west, south, east, north = geometry.bounds
        parsed = pyproj.CRS.from_user_input(crs)
        least = 0.1 / 111_320 if parsed.is_geographic else 0.1
        size = max(max(east - west, north - south) / cells, least)
        return cls(crs, Affine(size, 0.0, west, 0.0, -size, north))


@dataclass(frozen=True, slots=True)
class View:
    """What a drawing shows: a window of a grid.

    Attributes:
        grid: the pair, or a grid without pixels.
        left, up, columns, rows: the window, in pixels.
        size_x, size_y: of a pixel, metres on the ground.
        partial: whether the polygon reaches beyond it.
    """

    grid: Grid
    left: int
    up: int
    columns: int
    rows: int
    size_x: float
    size_y: float
    partial: bool

    @classmethod
    def around(cls, grid: Grid, geometry: shapely.Geometry, *, context: float, min_px: int, max_px: int) -> Self:
        """Return the view around a polygon of the grid's CRS.

        Args:
            grid: what the window belongs to.
            geometry: the polygon.
            context: side of the view in multiples of the polygon's longer side.
            min_px: least side, pixels.
            max_px: longest side, pixels; a longer polygon is shown in part.
        """
        west, top, east, bottom = to_pixels(geometry, grid.transform).bounds
        middle = ((west + east) / 2, (top + bottom) / 2)
        size_x, size_y = ground_size(grid, *middle)
        wanted = context * max((east - west) * size_x, (bottom - top) * size_y)
        side_m = min(max(wanted, min_px * max(size_x, size_y)), max_px * min(size_x, size_y))
        columns, rows = round(side_m / size_x), round(side_m / size_y)
        left, up = math.floor(middle[0] - columns / 2), math.floor(middle[1] - rows / 2)
        partial = west < left or top < up or east > left + columns or bottom > up + rows
        return cls(grid, left, up, columns, rows, size_x, size_y, bool(partial))

    @property
    def window(self) -> Window:
        """The window to read."""
        return Window(self.left, self.up, self.columns, self.rows)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Of the view, in the grid's CRS."""
        return grid_bounds(self.grid.transform, self.left, self.up, self.columns, self.rows)

    @property
    def height(self) -> float:
        """Of the drawing; its width is `WIDTH`."""
        return WIDTH * (self.rows * self.size_y) / (self.columns * self.size_x)

    @property
    def scale_m(self) -> float:
        """Length of the scale bar, metres."""
        return round_length(0.3 * self.columns * self.size_x)

    @property
    def scale_units(self) -> float:
        """Length of the scale bar in the drawing."""
        return round(self.scale_m / self.size_x * WIDTH / self.columns, 1)

    @property
    def north_deg(self) -> float:
        """Direction of true north, clockwise from the top."""
        return round(north_angle(self.grid, self.left + self.columns / 2, self.up + self.rows / 2), 1)

    def drawn(self, geometry: shapely.Geometry) -> Any:
        """Return a geometry (or an array of them) of the grid's CRS in drawing units, without needless vertices."""
        scale_x, scale_y = WIDTH / self.columns, self.height / self.rows
        pixels = to_pixels(geometry, self.grid.transform)
        moved = shapely.transform(
            pixels, lambda x, y: ((x - self.left) * scale_x, (y - self.up) * scale_y), interleaved=False
        )
        return shapely.simplify(moved, 1.0, preserve_topology=True)

    def cut(self, drawn: Any) -> Any:
        """Return drawn geometries as far as they are in view, with a margin that hides the edge of the cut."""
        near = shapely.box(-40, -40, WIDTH + 40, self.height + 40)
        return shapely.intersection(shapely.make_valid(drawn), near)


def svg_path(geometry: shapely.Geometry) -> str:
    """Return the rings of an areal geometry as an SVG path (fill rule `evenodd`), rounded to 0.1 unit."""
    rings: list[str] = []
    for part in shapely.get_parts(geometry):
        if part.geom_type == "GeometryCollection":
            rings.append(svg_path(part))
        elif part.geom_type == "Polygon" and not part.is_empty:
            for ring in (part.exterior, *part.interiors):
                points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shapely.get_coordinates(ring)[:-1])
                rings.append(f"M{points}Z")
    return "".join(rings)
