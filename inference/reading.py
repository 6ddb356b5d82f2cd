"""Reads windows as the network wants them: with a reflected halo, invalid pixels as NaN, damage confined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from rasterio.windows import Window

from tuban.errors import ModelError, ReadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from tuban.inference.windows import CoreWindow, WindowPlan
    from tuban.models.bundle import Bundle

# What cannot be read is confined to blocks of this many pixels a side.
SALVAGE_BLOCK = 256
# A file that is gone or a server that stalls fails at every block; after so many in one window the rest is given up.
SALVAGE_LIMIT = 4


class Grid(Protocol):
    """Where pixels lie."""

    @property
    def crs(self) -> object:
        """CRS of the grid."""

    @property
    def transform(self) -> Affine:
        """From (column, row) to CRS coordinates."""


class PixelReader(Grid, Protocol):
    """What inference needs of a scene or of a pair. `read` is only ever called from one thread at a time."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def width(self) -> int:
        """Columns."""

    @property
    def crs(self) -> CRS:
        """CRS of the grid."""

    def read(self, window: Window, names: Sequence[str]) -> Any:
        """Read a window inside the grid.

        Returns:
            An object whose attributes are the network's inputs (`before` and `after`, or `image`), float32
            `(bands, h, w)`, a missing band NaN everywhere; `valid`, bool `(h, w)`, which pixels may hold a result;
            and perhaps `unseen`, bool `(h, w)`, which hold data that a cloud mask hides (never `valid`).
        """


class Damage(NamedTuple):
    """A block that could not be read: its place in pixels of the grid, and why."""

    row: int
    col: int
    height: int
    width: int
    reason: str


class Loaded(NamedTuple):
    """A window ready for the network; `images` is empty where no pixel of the core is valid."""

    window: CoreWindow
    valid: NDArray[np.bool_]
    images: dict[str, NDArray[np.float32]]
    unseen_px: int = 0
    damage: tuple[Damage, ...] = ()


class _Pixels(NamedTuple):
    images: dict[str, NDArray[np.float32]]
    valid: NDArray[np.bool_]
    unseen: NDArray[np.bool_] | None
    damage: tuple[Damage, ...] = ()


def read_window(
    source: PixelReader,
    bundle: Bundle,
    plan: WindowPlan,
    window: CoreWindow,
    *,
    inputs: Sequence[str] = ("before", "after"),
    keep_going: bool = False,
) -> Loaded:
    """Read a window with its halo, reflected where it reaches outside, invalid pixels as NaN.

    Args:
        source: the scene or pair.
        bundle: names the bands.
        plan: knows the halo.
        window: whose core is wanted.
        inputs: attributes of what the source reads: the network's inputs.
        keep_going: make invalid what cannot be read, and say so, instead of raising.

    Raises:
        ModelError: a band that the model requires is missing.
        ReadError: the source is damaged there.
    """
    rows, cols = plan.source_rows(window), plan.source_cols(window)
    top, left = int(rows.min()), int(cols.min())
    area = Window(left, top, int(cols.max()) - left + 1, int(rows.max()) - top + 1)
    try:
        data = _pixels(source.read(area, bundle.bands), inputs)
    except ReadError as error:
        if not keep_going:
            raise
        data = _salvage(source, bundle, area, inputs, error)
    core = np.s_[
        window.row - top : window.row - top + window.height, window.col - left : window.col - left + window.width
    ]
    valid = data.valid[core].copy()
    unseen = 0 if data.unseen is None else int(np.count_nonzero(data.unseen[core]))
    if not valid.any():
        return Loaded(window, valid, {}, unseen, data.damage)
    if not data.damage:
        _check_required(data, bundle, window)
    invalid = ~_placed(data.valid, rows - top, cols - left)
    somewhere = bool(invalid.any())  # most windows have no invalid pixel, and looking is cheaper than filling
    images = {}
    for name in inputs:
        fed = np.ascontiguousarray(_placed(data.images[name], rows - top, cols - left), dtype=np.float32)
        if somewhere:
            np.copyto(fed, np.nan, where=invalid)
        images[name] = fed
    return Loaded(window, valid, images, unseen, data.damage)


def _pixels(read: Any, inputs: Sequence[str]) -> _Pixels:
    return _Pixels({name: getattr(read, name) for name in inputs}, read.valid, getattr(read, "unseen", None))


def _placed(values: NDArray[Any], rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[Any]:
    """Return `values[..., rows, cols]`; inside a scene that is the array itself, without a copy."""
    height, width = values.shape[-2:]
    if len(rows) == height and len(cols) == width and rows[0] < rows[-1] and cols[0] < cols[-1]:
        straight = (np.diff(rows) == 1).all() and (np.diff(cols) == 1).all()
        if straight:
            return values
    # `take` along one axis after the other is several times faster than one fancy index of both.
    return values.take(rows, axis=-2).take(cols, axis=-1)


def _salvage(source: PixelReader, bundle: Bundle, area: Window, inputs: Sequence[str], error: ReadError) -> _Pixels:
    """Read what can be read of `area`, block by block; the rest is invalid and listed.

    Blocks are read whole, also where they reach beyond the area: so every window gives up the same pixels of them.
    """
    shape = (int(area.height), int(area.width))
    images = {name: np.full((len(bundle.bands), *shape), np.nan, np.float32) for name in inputs}
    valid, unseen = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    damage: list[Damage] = []
    top, left = int(area.row_off), int(area.col_off)
    reason = str(error)
    for row, height in _blocks(top, shape[0], source.height):
        for col, width in _blocks(left, shape[1], source.width):
            if len(damage) < SALVAGE_LIMIT:
                try:
                    read = _pixels(source.read(Window(col, row, width, height), bundle.bands), inputs)
                except ReadError as again:
                    reason = str(again)
                else:
                    place = (_overlap(row, height, top, shape[0]), _overlap(col, width, left, shape[1]))
                    kept = (_overlap(top, shape[0], row, height), _overlap(left, shape[1], col, width))
                    for name in inputs:
                        images[name][:, *place] = read.images[name][:, *kept]
                    valid[place] = read.valid[kept]
                    if read.unseen is not None:
                        unseen[place] = read.unseen[kept]
                    continue
            damage.append(Damage(row, col, height, width, reason))
    return _Pixels(images, valid, unseen, tuple(damage))


def _blocks(start: int, length: int, size: int) -> list[tuple[int, int]]:
    """Return start and length of the blocks of an axis of `size` pixels that hold any of `length` pixels."""
    firsts = range(start // SALVAGE_BLOCK * SALVAGE_BLOCK, start + length, SALVAGE_BLOCK)
    return [(first, min(SALVAGE_BLOCK, size - first)) for first in firsts]


def _overlap(start: int, length: int, origin: int, size: int) -> slice:
    """Return where `start … start + length` lies in `size` pixels from `origin` on."""
    return slice(max(start - origin, 0), min(start + length - origin, size))


def _check_required(data: _Pixels, bundle: Bundle, window: CoreWindow) -> None:
    """Refuse a scene that lacks a band the model needs: a valid pixel is NaN only in a band that is not there."""
    row, col = divmod(int(data.valid.argmax()), data.valid.shape[1])
    for date, values in data.images.items():
        lacking = [
            name
            for name, value in zip(bundle.bands, values[:, row, col], strict=True)
            if name in bundle.required_bands and not np.isfinite(value)
        ]
        if lacking:
            raise ModelError(
                f"{bundle.name} needs {', '.join(lacking)}, which the scene {date} lacks "
                f"(row {window.row}, column {window.col}); use images that have it or another model"
            )
