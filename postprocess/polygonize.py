"""Class rasters to valid, gap-free polygons, in strips of bounded memory.

`docs/vectorize.md` explains the method, what is equal to what, and the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import rasterio
import shapely
from pydantic import BaseModel, ConfigDict, Field
from rasterio.errors import RasterioError
from rasterio.windows import Window

from tuban.errors import SceneError, UsageError
from tuban.postprocess.trace import Rings, Tracer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from tuban.postprocess.trace import Tally

    Prepare = Callable[
        [Window, npt.NDArray[Any], npt.NDArray[np.bool_]], tuple[npt.NDArray[Any], npt.NDArray[np.bool_], Tally | None]
    ]


class VectorizeSettings(BaseModel):
    """How class rasters become polygons; areas in square metres, lengths in metres."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strip_pixels: int = Field(default=1_048_576, ge=1, description="pixels read at once")
    noded: bool = Field(default=True, description="a vertex wherever a neighbour's boundary ends, so edges are shared")
    mask_values: tuple[int, ...] = Field(default=(), description="classes left out, beside nodata")
    min_area_m2: float = Field(default=0.0, ge=0, description="smaller polygons are flagged, never dropped")
    simplify_m: float = Field(default=0.0, ge=0, description="tolerance of simplification; 0 keeps pixel edges")
    simplify_vertices: int = Field(default=4_000_000, ge=1, description="vertices simplified together")
    class_names: Literal["unified", "value"] = Field(
        default="unified", description="`class` holds the unified class name where there is one, or the value"
    )


class PolygonBatch(NamedTuple):
    """Polygons in the raster's CRS: geometry `(n,)`, class value `(n,)`, tallied sums `(n, features)`."""

    geometry: npt.NDArray[np.object_]
    value: npt.NDArray[Any]
    sums: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Affine:
    """Lattice positions to coordinates of the raster's CRS."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def polygons(self, rings: Rings) -> npt.NDArray[np.object_]:
        """Build polygons from complete rings."""
        xy = np.empty((len(rings.row), 2))
        xy[:, 0] = self.c + rings.col * self.a + rings.row * self.b
        xy[:, 1] = self.f + rings.col * self.d + rings.row * self.e
        kind = shapely.GeometryType.POLYGON
        polygons: npt.NDArray[np.object_] = shapely.from_ragged_array(
            kind, xy, (rings.ring_starts, rings.polygon_starts)
        )
        return polygons


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
        settings: defaults where None; `min_area_m2` and `simplify_m` belong to `vectorize`.
        prepare: called with each window, its classes and what is kept; returns both, changed, and a tally.

    Yields:
        One batch a strip, never empty.

    Raises:
        SceneError: the raster cannot be read or holds no whole numbers.
        UsageError: the raster has no such band.
    """
    settings = settings or VectorizeSettings()
    masked = sorted({*mask_values, *settings.mask_values})
    try:
        with rasterio.open(path) as source:
            if not 1 <= band <= source.count:
                raise UsageError(f"band {band} of {path}: it has bands 1 to {source.count}")
            to_crs = _Affine(*tuple(source.transform)[:6])
            tracer = Tracer(source.width, noded=settings.noded)
            for window in strips(source, settings.strip_pixels):
                values, keep = _read(source, band, window, masked)
                tally = None
                if prepare is not None:
                    values, keep, tally = prepare(window, values, keep)
                yield from _batch(tracer.push(values, keep, tally), to_crs)
            yield from _batch(tracer.finish(), to_crs)
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


def _batch(rings: Rings, to_crs: _Affine) -> Iterator[PolygonBatch]:
    if len(rings.values):
        yield PolygonBatch(to_crs.polygons(rings), rings.values, rings.sums)


def _read(
    source: Any, band: int, window: Window, masked: Sequence[int]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return classes and which of them form polygons."""
    values = source.read(band, window=window)
    keep = source.read_masks(band, window=window) != 0
    if values.dtype.kind == "f":
        keep &= np.isfinite(values)
        whole = np.where(keep, values, 0).astype(np.int64)
        if (whole != np.where(keep, values, 0)).any():
            raise SceneError(f"{source.name}: band {band} holds fractions, not classes; classify or round it first")
        values = whole
    if masked:
        keep &= ~np.isin(values, masked)
    return values, keep
