"""What pictures need of a pair and of a plan, and the ground measures of a pair's grid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import pyproj
import shapely

from tuban.inference.reading import PixelReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import geopandas as gpd
    from affine import Affine
    from rasterio.windows import Window

    from tuban.data.measure import Dates
    from tuban.inference.reading import Grid


class PixelSource(PixelReader, Protocol):
    """The part of `tuban.data.pair.Pair` that pictures need."""

    def read(self, window: Window, names: Sequence[str]) -> Dates:
        """Return both dates of a window, boundless."""


class ZoneSource(Protocol):
    """The part of `tuban.data.plan.PlanLayer` that pictures need."""

    @property
    def role(self) -> str:
        """Role of the layer, such as `permanent_basic_farmland`."""

    def batches(
        self, bbox: tuple[float, float, float, float] | None = None, crs: object = None
    ) -> Iterator[gpd.GeoDataFrame]:
        """Yield the features that touch `bbox` (in `crs`), in `crs`, some at a time."""
        ...


def role_of(zone: ZoneSource) -> str:
    """Return the role of a layer, of a permit with its kind: `permit/temporary`."""
    kind = getattr(zone, "kind", None)
    return f"{zone.role}/{kind}" if kind else zone.role


def to_pixels(geometry: shapely.Geometry, transform: Affine) -> shapely.Geometry:
    """Return a geometry of the grid's CRS in pixel coordinates (column, row)."""
    inverse = ~transform
    return shapely.transform(geometry, lambda x, y: apply(inverse, x, y), interleaved=False)


def apply(transform: Affine, x: Any, y: Any) -> tuple[Any, Any]:
    """Return (x, y), numbers or arrays, under an affine transform.

    Written out because affine 3 warns of `*` and affine 2 has no `@`.
    """
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def grid_bounds(
    transform: Affine, left: float, top: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """Return the bounds in CRS units of a box of pixels."""
    corners = [apply(transform, left + width * at_x, top + height * at_y) for at_x in (0, 1) for at_y in (0, 1)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def ground_size(source: Grid, column: float, row: float) -> tuple[float, float]:
    """Return the width and height in metres of the pixel at a place, on the ellipsoid."""
    points = [(column - 0.5, row), (column + 0.5, row), (column, row - 0.5), (column, row + 0.5)]
    lon, lat, geod = _lonlat(source, points)
    _, _, across = geod.inv(lon[0], lat[0], lon[1], lat[1])
    _, _, down = geod.inv(lon[2], lat[2], lon[3], lat[3])
    return float(across), float(down)


def north_angle(source: Grid, column: float, row: float) -> float:
    """Return the direction of true north at a place, in degrees clockwise from the picture's top."""
    lon, lat, geod = _lonlat(source, [(column, row), (column, row - 1.0)])
    azimuth, _, _ = geod.inv(lon[0], lat[0], lon[1], lat[1])
    return -float(azimuth)


def round_length(metres: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is not above `metres`.

    Example:
        >>> round_length(730.0), round_length(0.3)
        (500.0, 0.2)
    """
    power = 10.0 ** math.floor(math.log10(metres))
    return float(next(step * power for step in (5, 2, 1) if step * power <= metres * (1 + 1e-9)))


def _lonlat(
    source: Grid, points: list[tuple[float, float]]
) -> tuple[tuple[float, ...], tuple[float, ...], pyproj.Geod]:
    crs = pyproj.CRS.from_user_input(source.crs)
    xs, ys = zip(*(apply(source.transform, *point) for point in points), strict=True)
    base = crs.geodetic_crs or pyproj.CRS.from_epsg(4326)
    lon, lat = pyproj.Transformer.from_crs(crs, base, always_xy=True).transform(xs, ys)
    return lon, lat, crs.get_geod() or pyproj.Geod(ellps="WGS84")
