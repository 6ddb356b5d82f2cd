"""The plan of windows: which pixels are read, fed to the network, and kept.

Each window keeps a core and is fed with a halo around it whose output is discarded. Cores lie on one regular grid,
so each pixel belongs to exactly one window whatever the order they are run in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tuban.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# TIFF tiles are multiples of 16 pixels; cores are too, so that each window is exactly one tile of the working raster.
TIFF_TILE = 16
# How much longer than the square's a window's core may be, and how many ways to cut an axis are looked at.
_LONGEST, _TRIED = 1.5, 16


@dataclass(frozen=True, slots=True)
class CoreWindow:
    """The pixels a window keeps, clipped to the raster.

    Attributes:
        index: position in the plan, row by row from 0.
        row: first row.
        col: first column.
        height: rows.
        width: columns.
    """

    index: int
    row: int
    col: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Number of pixels kept."""
        return self.height * self.width


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """A regular grid of cores over a raster; all sizes in pixels.

    Attributes:
        height: rows of the raster.
        width: columns of the raster.
        core_height: rows of an unclipped core.
        core_width: columns of an unclipped core.
        halo: pixels fed around the core at each side.
    """

    height: int
    width: int
    core_height: int
    core_width: int
    halo: int

    @property
    def rows(self) -> int:
        """Rows of windows."""
        return -(-self.height // self.core_height)

    @property
    def cols(self) -> int:
        """Columns of windows."""
        return -(-self.width // self.core_width)

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width the network is fed: the same for every window."""
        return self.core_height + 2 * self.halo, self.core_width + 2 * self.halo

    @property
    def total_px(self) -> int:
        """Pixels of the raster."""
        return self.height * self.width

    @property
    def fed_px(self) -> int:
        """Pixels fed to the network, if no window is without a valid pixel."""
        return len(self) * self.input_shape[0] * self.input_shape[1]

    def __len__(self) -> int:
        return self.rows * self.cols

    def __iter__(self) -> Iterator[CoreWindow]:
        return (self.window(index) for index in range(len(self)))

    def window(self, index: int) -> CoreWindow:
        """Return the window at `index`, row by row from the top left.

        Raises:
            IndexError: `index` is not in 0 … len - 1.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        row, col = index // self.cols * self.core_height, index % self.cols * self.core_width
        return CoreWindow(
            index, row, col, min(self.core_height, self.height - row), min(self.core_width, self.width - col)
        )

    def groups(self, batch: int) -> int:
        """Return how many batches of `batch` windows the plan makes; none crosses a row of windows."""
        return self.rows * -(-self.cols // batch)

    def group(self, index: int, batch: int) -> tuple[CoreWindow, ...]:
        """Return the windows of one batch; they depend on nothing but the plan, so a run may begin anywhere.

        Raises:
            IndexError: `index` is not in 0 … groups(batch) - 1.
        """
        if not 0 <= index < self.groups(batch):
            raise IndexError(f"batch {index} of {self.groups(batch)}")
        row, place = divmod(index, -(-self.cols // batch))
        first = row * self.cols + place * batch
        return tuple(self.window(one) for one in range(first, min(first + batch, (row + 1) * self.cols)))

    def source_rows(self, window: CoreWindow) -> NDArray[np.intp]:
        """Return for each row the network is fed the row of the raster it comes from."""
        return reflected(window.row - self.halo, self.input_shape[0], self.height, self.halo)

    def source_cols(self, window: CoreWindow) -> NDArray[np.intp]:
        """Return for each column the network is fed the column of the raster it comes from."""
        return reflected(window.col - self.halo, self.input_shape[1], self.width, self.halo)


def plan_windows(height: int, width: int, *, tile: int, halo: int, stride: int, oblong: bool = True) -> WindowPlan:
    """Cover a raster with equal windows of at most `tile` x `tile` pixels, so that the fewest pixels are fed.

    The cores are made as even as possible: a raster a little larger than one core becomes two halves, not one full
    window and one that is mostly padding. Memory and time depend on a window's area, so a window may be longer than
    `tile` where it is narrower in turn: 3072 x 3072 pixels are cut 3 x 4, not 4 x 4.

    Args:
        height: rows of the raster.
        width: columns of the raster.
        tile: side of the largest square fed to the network, in pixels, halo included.
        halo: pixels around the core whose output is discarded.
        stride: origins and sizes of what is fed are multiples of this.
        oblong: whether a window may be longer than `tile`; else there are as few as of full squares.

    Returns:
        A plan whose cores are multiples of `stride` and of 16.

    Raises:
        UsageError: the raster is empty, `halo` is no multiple of `stride`, or no core is left in `tile`.

    Example:
        >>> plan = plan_windows(1000, 300, tile=512, halo=32, stride=16)
        >>> plan.rows, plan.cols, plan.input_shape
        (2, 1, (576, 368))
    """
    if height < 1 or width < 1:
        raise UsageError(f"a raster of {height} × {width} pixels holds nothing to run on; check the overlap or the AOI")
    if halo < 0 or halo % stride:
        raise UsageError(f"halo {halo} is no multiple of the model's stride {stride}; use one that is")
    step = math.lcm(stride, TIFF_TILE)
    limit = (tile - 2 * halo) // step * step
    if limit < step:
        raise UsageError(f"a tile of {tile} px leaves no core inside a halo of {halo}; use at least {2 * halo + step}")
    if not oblong:
        tall, wide = (_even(size, -(-size // limit), step) for size in (height, width))
        return WindowPlan(height, width, tall, wide, halo)
    plans = []
    longest = int(_LONGEST * limit)
    for rows in _counts(height, longest, limit):
        core_height = _even(height, rows, step)
        core_limit = min(tile * tile // (core_height + 2 * halo) - 2 * halo, longest) // step * step
        if core_limit >= step:
            cols = (_even(width, count, step) for count in _counts(width, core_limit, limit))
            plans += [WindowPlan(height, width, core_height, side, halo) for side in cols if side <= core_limit]
    return min(plans, key=lambda plan: (plan.fed_px, abs(plan.core_height - plan.core_width)))


def _counts(size: int, longest: int, square: int) -> list[int]:
    """Return into how many windows an axis may be cut: from the fewest to a few more than squares would be."""
    fewest, usual = -(-size // longest), -(-size // square)
    # On a long axis one window more or less makes no difference.
    return sorted({*range(fewest, usual + 3, max(1, (usual - fewest) // _TRIED)), usual})


def _even(size: int, count: int, step: int) -> int:
    """Return the smallest multiple of `step` of which `count` cover `size`."""
    return -(-size // (count * step)) * step


def reflected(start: int, count: int, size: int, halo: int) -> NDArray[np.intp]:
    """Return source positions for `start … start + count - 1` on an axis of `size` pixels reflected at both ends.

    Reflection does not repeat the border pixel (as `numpy.pad(mode="reflect")`) and repeats where the halo is larger
    than the axis. Positions beyond the halo exist only because every window has the same size; no kept pixel depends
    on them, so they repeat the outermost reflected pixel and cost no reading.

    Example:
        >>> reflected(-2, 9, 4, 2).tolist()
        [2, 1, 0, 1, 2, 3, 2, 1, 1]
    """
    positions = np.clip(np.arange(start, start + count), -halo, size - 1 + halo)
    if size == 1:
        return np.zeros(count, dtype=np.intp)
    folded = positions % (2 * (size - 1))
    return np.minimum(folded, 2 * (size - 1) - folded)
