"""What an export leaves out for restricted layers: clipped to an area, snapped to a coarse grid, or without places."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import rasterio.crs
import shapely

from tuban.data.aoi import read_aoi
from tuban.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import geopandas as gpd
    from numpy.typing import NDArray

PLACE_COLUMNS = frozenset({"lon", "lat", "x", "y", "bbox", "bounds", "wkt", "minx", "miny", "maxx", "maxy"})
"""Columns that say where a finding lies; they go with the geometry."""

_METRES_PER_DEGREE = 111_320.0


@dataclass(slots=True)
class Restriction:
    """What is left out of an export, and how many rows it touched.

    Attributes:
        clip: vector file; only what lies in its polygons is exported.
        precision_m: outlines and centres are snapped to a grid of this many metres; 0 leaves them.
        geometry: False exports no outlines and no `PLACE_COLUMNS`.
        outside: rows left out, for they lie outside `clip`.
        cut: rows whose outline was cut at the edge of `clip`.
        collapsed: rows smaller than the grid, drawn as one square of it.
    """

    clip: Path | None = None
    precision_m: float = 0.0
    geometry: bool = True
    outside: int = 0
    cut: int = 0
    collapsed: int = 0
    grid: float = field(default=0.0, init=False)
    _area: shapely.Geometry | None = field(default=None, init=False)
    _crs: pyproj.CRS | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.precision_m) and self.precision_m >= 0):
            raise UsageError(f"precision {self.precision_m} m is no grid size; give metres, or 0 to keep outlines")

    @property
    def active(self) -> bool:
        """Whether anything is left out."""
        return self.clip is not None or self.precision_m > 0 or not self.geometry

    def prepare(self, crs: str, bounds: tuple[float, float, float, float] | None) -> None:
        """Read the area and size the grid for a layer.

        Args:
            crs: CRS of the layer.
            bounds: of the layer, CRS units; a grid in degrees is sized where a degree of longitude is shortest.

        Raises:
            PairError: `clip` cannot be read, or holds no polygon.
        """
        self._crs = pyproj.CRS.from_user_input(crs)
        if self.clip is not None:
            self._area = read_aoi(self.clip, rasterio.crs.CRS.from_wkt(self._crs.to_wkt()))
            shapely.prepare(self._area)
        if self.precision_m and self._crs.is_geographic:
            south, north = (bounds[1], bounds[3]) if bounds is not None else (0.0, 0.0)
            latitude = min(max(abs(south), abs(north)), 85.0)
            # Never finer than asked, in either direction.
            self.grid = self.precision_m / (_METRES_PER_DEGREE * math.cos(math.radians(latitude)))
        elif self.precision_m:
            self.grid = self.precision_m / (self._crs.axis_info[0].unit_conversion_factor or 1.0)

    def reset(self) -> None:
        """Forget the counts, before the rows are read again."""
        self.outside = self.cut = self.collapsed = 0

    def apply(self, frames: Iterable[gpd.GeoDataFrame]) -> Iterator[gpd.GeoDataFrame]:
        """Yield the frames as restricted; areas and every other column stay those of the whole finding."""
        for frame in frames:
            shapes = frame.geometry.to_numpy()
            moved = np.zeros(len(frame), bool)
            kept = frame
            if self._area is not None:
                shapes, moved, inside = self._clipped(shapes, self._area)
                kept, shapes, moved = frame[inside], shapes[inside], moved[inside]
            if self.grid:
                shapes, moved = self._coarse(shapes), np.ones(len(kept), bool)
            if self.geometry and moved.any():
                kept = self._placed(kept.set_geometry(shapes, crs=frame.crs), moved)
            elif not self.geometry:
                blank = np.full(len(kept), None, dtype=object)
                kept = kept.assign(**dict.fromkeys(PLACE_COLUMNS & set(kept.columns)))
                kept = kept.set_geometry(blank, crs=frame.crs)
            yield kept.reset_index(drop=True)

    def facts(self) -> dict[str, Any]:
        """Return what was done, JSON-ready."""
        return {
            "clip": None if self.clip is None else self.clip.name,
            "outside": self.outside,
            "cut": self.cut,
            "precision_m": self.precision_m,
            "collapsed": self.collapsed,
            "geometry": self.geometry,
            "areas": "of the whole finding, as measured before anything was left out",
        }

    def intent(self) -> str:
        """Return what is asked for, in words; known before any row is read, and empty where nothing is."""
        if not self.active:
            return ""
        asked = [f"clipped to {self.clip.name}"] if self.clip is not None else []
        asked += [f"snapped to a grid of {self.precision_m:g} m"] if self.precision_m else []
        asked += ["without outlines and coordinates"] if not self.geometry else []
        return "tuban export: " + ", ".join(asked) + "; areas are those of the whole finding"

    def statements(self, lang: str = "en") -> list[str]:
        """Return what was done in words; nothing where nothing was left out."""
        said: list[tuple[str, str]] = []
        if self.clip is not None:
            chinese = f"按 {self.clip.name} 裁剪：范围外 {self.outside} 条未导出，边界上 {self.cut} 条被截断"
            english = f"clipped to {self.clip.name}: {self.outside} outside left out, {self.cut} cut at its edge"
            said.append((chinese, english))
        if self.precision_m:
            chinese = f"坐标按 {self.precision_m:g} 米格网概化，{self.collapsed} 个小图斑以一个格网表示"
            english = (
                f"outlines and centres snapped to a grid of {self.precision_m:g} m; {self.collapsed} smaller than the"
                " grid are drawn as one square of it"
            )
            said.append((chinese, english))
        if not self.geometry:
            said.append(("已去除图形与坐标", "outlines and coordinates were left out"))
        if said:
            said.append(("各面积列仍为整个图斑的面积", "every area is still that of the whole finding"))
        return [chinese if lang == "zh" else english for chinese, english in said]

    def _clipped(
        self, shapes: NDArray[np.object_], area: shapely.Geometry
    ) -> tuple[NDArray[np.object_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the shapes within the area, which were cut, and which have anything left."""
        shapes = shapes.copy()
        touched = shapely.intersects(area, shapes)
        crossing = touched & ~shapely.covers(area, shapes)
        shapes[crossing] = [_areal(shape) for shape in shapely.intersection(shapes[crossing], area)]
        kept = touched & (shapely.area(shapes) > 0)
        self.outside += int((~kept).sum())
        self.cut += int((crossing & kept).sum())
        return shapes, crossing, kept

    def _coarse(self, shapes: NDArray[np.object_]) -> NDArray[np.object_]:
        """Return the shapes snapped to the grid, valid; neighbours snap alike, so that they still share edges."""
        snapped: NDArray[np.object_] = shapely.set_precision(shapes, self.grid, mode="valid_output")
        lost = shapely.is_missing(snapped) | shapely.is_empty(snapped)
        if lost.any():
            middle = shapely.get_coordinates(shapely.centroid(shapes[lost]))
            low = np.floor(middle / self.grid) * self.grid
            snapped[lost] = shapely.box(low[:, 0], low[:, 1], low[:, 0] + self.grid, low[:, 1] + self.grid)
            self.collapsed += int(lost.sum())
        return snapped

    def _placed(self, frame: gpd.GeoDataFrame, moved: NDArray[np.bool_]) -> gpd.GeoDataFrame:
        """Return the frame with the centres of moved outlines taken anew."""
        if not {"lon", "lat"} <= set(frame.columns) or self._crs is None:
            return frame
        points = shapely.get_coordinates(shapely.point_on_surface(frame.geometry.to_numpy()[moved]))
        if self.grid:
            points = (np.floor(points / self.grid) + 0.5) * self.grid
        base = self._crs.geodetic_crs or pyproj.CRS.from_epsg(4326)
        to_degrees = pyproj.Transformer.from_crs(self._crs, base, always_xy=True)
        lon, lat = frame["lon"].to_numpy(float).copy(), frame["lat"].to_numpy(float).copy()
        lon[moved], lat[moved] = to_degrees.transform(points[:, 0], points[:, 1])
        return frame.assign(lon=np.round(lon, 7), lat=np.round(lat, 7))


def _areal(shape: shapely.Geometry) -> shapely.Geometry:
    """Return the polygons of a geometry; a touch along an edge leaves none."""
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    return shapely.MultiPolygon(parts)
