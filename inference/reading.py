"""Reads windows of a pair as the network wants them: with a reflected halo, invalid pixels as NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from rasterio.windows import Window

from tuban.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from tuban.inference.windows import CoreWindow, WindowPlan
    from tuban.models.bundle import Bundle


class PairData(Protocol):
    """One window of a pair: values `(bands, h, w)` float32, and which pixels are valid at both dates `(h, w)`."""

    @property
    def before(self) -> NDArray[np.float32]:
        """Values of the first date."""

    @property
    def after(self) -> NDArray[np.float32]:
        """Values of the second date."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """True where both dates hold a value."""


class PairReader(Protocol):
    """What inference needs of `tuban.data.pair.Pair`. `read` is only ever called from one thread at a time."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def width(self) -> int:
        """Columns."""

    @property
    def crs(self) -> CRS:
        """CRS of the grid."""

    @property
    def transform(self) -> Affine:
        """Affine transform of the grid."""

    def read(self, window: Window, names: Sequence[str]) -> PairData:
        """Read a window inside the pair; a band that a scene lacks is NaN everywhere."""


class Loaded(NamedTuple):
    """A window ready for the network; `before` and `after` are None where no pixel of the core is valid."""

    window: CoreWindow
    valid: NDArray[np.bool_]
    before: NDArray[np.float32] | None
    after: NDArray[np.float32] | None


def read_window(pair: PairReader, bundle: Bundle, plan: WindowPlan, window: CoreWindow) -> Loaded:
    """Read a window with its halo, reflected where it reaches outside, invalid pixels as NaN."""
    rows, cols = plan.source_rows(window), plan.source_cols(window)
    top, left = int(rows.min()), int(cols.min())
    source = Window(left, top, int(cols.max()) - left + 1, int(rows.max()) - top + 1)
    data = pair.read(source, bundle.bands)
    core_valid = data.valid[
        window.row - top : window.row - top + window.height, window.col - left : window.col - left + window.width
    ].copy()
    if not core_valid.any():
        return Loaded(window, core_valid, None, None)
    _check_required(data, bundle, window)
    rows, cols = rows - top, cols - left
    invalid = ~data.valid[rows[:, None], cols]
    before, after = (_fed(values, rows, cols, invalid) for values in (data.before, data.after))
    return Loaded(window, core_valid, before, after)


def _fed(
    values: NDArray[np.float32], rows: NDArray[np.intp], cols: NDArray[np.intp], invalid: NDArray[np.bool_]
) -> NDArray[np.float32]:
    # `take` along one axis after the other is several times faster than one fancy index of both.
    fed = np.ascontiguousarray(values.take(rows, axis=1).take(cols, axis=2), dtype=np.float32)
    fed[:, invalid] = np.nan
    return fed


def _check_required(data: PairData, bundle: Bundle, window: CoreWindow) -> None:
    """Refuse a scene that lacks a band the model needs: a valid pixel is NaN only in a band that is not there."""
    row, col = divmod(int(data.valid.argmax()), data.valid.shape[1])
    for date, values in (("before", data.before), ("after", data.after)):
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
