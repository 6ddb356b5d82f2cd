"""Reading a scene on another grid, window by window, with validity carried through the resampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject
from rasterio.windows import Window

from tuban.data.grid import Grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.data.scene import FloatImage, Mask, Scene

# Source pixels read for one piece of a window; bounds memory where the scene is far finer (10 bands: 160 MB).
MAX_SOURCE_PX = 4_000_000
# Reach of the cubic kernel, and one pixel for the curvature of the projection within a window.
_MARGIN = 4


def read_on_grid(
    scene: Scene, grid: Grid, names: Sequence[str], *, shift: tuple[float, float] = (0.0, 0.0),
    resampling: Literal["bilinear", "cubic"] = "cubic", density: tuple[float, float] = (1.0, 1.0),
) -> tuple[FloatImage, Mask]:  # fmt: skip
    """Read a scene on a grid of any CRS.

    Every pixel is transformed exactly (no approximation over the window), so that the values do not depend on how an
    image is cut into windows. Where both grids share their pixels, stored values are read unchanged.

    Args:
        scene: the scene to read.
        grid: the grid wanted; may reach beyond the scene.
        names: canonical band names.
        shift: columns and rows in pixels of `grid`, added to a position before the scene is looked up.
        resampling: kernel.
        density: pixels of the grid per pixel of the scene, along columns and rows; below 1 the kernel widens. It is
            given, not measured on each window as GDAL would, so that it is the same everywhere.

    Returns:
        Values `(bands, height, width)` float32, 0 where invalid, NaN in a band the scene lacks; and validity
        `(height, width)`. Invalid source pixels take no part in the resampling.
    """
    moved = Grid(grid.crs, grid.transform @ Affine.translation(*shift), grid.height, grid.width)
    offset = moved.whole_pixel_offset(scene.grid)
    if offset is not None:
        return scene.read(Window(*offset, grid.width, grid.height), names)
    values = np.zeros((len(names), grid.height, grid.width), dtype=np.float32)
    valid = np.zeros((grid.height, grid.width), dtype=bool)
    _fill(scene, moved, names, values, valid, Resampling[resampling], density)
    return values, valid


def _fill(
    scene: Scene,
    grid: Grid,
    names: Sequence[str],
    values: FloatImage,
    valid: Mask,
    resampling: Resampling,
    density: tuple[float, float],
) -> None:
    """Warp into `values` and `valid`; halves the grid until the source window is small enough."""
    col0, row0, col1, row1 = scene.grid.pixels_of(grid)
    # A kernel widens with the ratio of pixel sizes, and the margin with it.
    margin = _MARGIN * max(1.0, (col1 - col0) / grid.width, (row1 - row0) / grid.height)
    left, top = max(0, int(col0 - margin)), max(0, int(row0 - margin))
    right, bottom = min(scene.width, int(col1 + margin) + 1), min(scene.height, int(row1 + margin) + 1)
    lacking = [i for i, name in enumerate(names) if name in scene.missing(names)]
    values[lacking] = np.nan
    if right <= left or bottom <= top:
        return
    if (right - left) * (bottom - top) > MAX_SOURCE_PX and max(grid.height, grid.width) > 1:
        for part in halves(grid):
            where = part.toslices()
            _fill(scene, grid.window(part), names, values[(..., *where)], valid[where], resampling, density)
        return
    window = Window(left, top, right - left, bottom - top)
    have = [name for name in names if name in scene.names]
    source, ok = scene.read(window, have)
    # Validity travels as one more band, so that a scene without any of the bands still has one.
    stack = np.concatenate([source, np.ones((1, *ok.shape), dtype=np.float32)])
    stack[:, ~ok] = np.nan
    target = np.full((len(stack), grid.height, grid.width), np.nan, dtype=np.float32)
    reproject(
        stack, target, src_transform=scene.grid.window(window).transform, src_crs=scene.crs, src_nodata=np.nan,
        dst_transform=grid.transform, dst_crs=grid.crs, dst_nodata=np.nan, resampling=resampling,
        num_threads=1, tolerance=0.0, XSCALE=density[0], YSCALE=density[1],
    )  # fmt: skip
    finite = np.isfinite(target).all(axis=0)
    valid[:] = finite
    target[:, ~finite] = 0
    for i, name in enumerate(have):
        for position in (j for j, wanted in enumerate(names) if wanted == name):
            values[position] = target[i]


def kernel_density(scene: Scene, grid: Grid) -> tuple[float, float]:
    """Pixels of `grid` per pixel of the scene along columns and rows, at most 1, over the whole of `grid`."""
    col0, row0, col1, row1 = scene.grid.pixels_of(grid)
    x, y = grid.width / max(col1 - col0, 1e-9), grid.height / max(row1 - row0, 1e-9)
    # Grids of nearly one size are interpolated, not smoothed.
    return (x if x < 0.9 else 1.0, y if y < 0.9 else 1.0)


def halves(grid: Grid) -> tuple[Window, Window]:
    """Cut a grid across its longer side."""
    if grid.height >= grid.width:
        half = grid.height // 2
        return Window(0, 0, grid.width, half), Window(0, half, grid.width, grid.height - half)
    half = grid.width // 2
    return Window(0, 0, half, grid.height), Window(half, 0, grid.width - half, grid.height)
