"""A scene's cloud mask on any grid, window by window: nearest neighbour, then grown by a distance on the ground."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt

from tuban.data.grid import Grid
from tuban.data.mask_kinds import Cause, Kind, decode, kind_named, mask_table
from tuban.data.metadata import image_stem
from tuban.data.source import Source
from tuban.data.warp import MAX_SOURCE_PX, halves
from tuban.errors import SceneError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tuban.data.mask_files import MaskRef
    from tuban.data.remote import RemoteSettings

_OUTSIDE = 255  # while warping; never a code of a cause


class CloudSettings(BaseModel):
    """Which pixels are hidden by clouds and their shadows; `docs/clouds.md` gives the measurements."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["auto", "own", "csmask", "none"] = Field(
        "auto", description="own: the scene's mask or an error; auto: its mask where there is one; csmask: predicted"
    )
    mask_before: str | None = Field(None, description="mask file of BEFORE; goes before `source`")
    mask_after: str | None = Field(None, description="mask file of AFTER; goes before `source`")
    kind: Kind | Literal["auto"] = Field("auto", description="what the values of the two files above mean")
    causes: tuple[Cause, ...] = Field(
        ("cloud", "cirrus", "shadow", "haze", "defective", "unknown"), description="what hides the land; snow may be"
    )
    dilate_m: float = Field(60.0, ge=0, le=5000, description="metres by which clouds and shadows are grown")
    min_seen: float = Field(0.01, ge=0, le=1, description="share of the overlap below which the pair is refused")
    level: Literal["auto", "l1c", "l2a"] = Field("auto", description="what csmask takes the scenes for")


@dataclass(frozen=True)
class CloudMask:
    """An open mask. Can be pickled; not for use by several threads at once.

    Attributes:
        source: the file.
        kind: what its values mean.
        found: how it was found.
        bands: the bands that are read, from 1.
        grid: its own pixel grid.
        causes: the causes that count.
        dilate_m: metres by which growing causes are grown.
        notes: what was guessed when the mask was made.
        path: where it is, without secrets; of a mask that this run made only its name.
        uri: path or URL of a mask that is an input of its own; None for a band of the image and what this run made.
    """

    source: Source = field(compare=False)
    kind: Kind
    found: str
    bands: tuple[int, ...]
    grid: Grid
    causes: tuple[Cause, ...]
    dilate_m: float
    notes: tuple[str, ...] = ()
    path: str = ""
    uri: str | None = field(default=None, repr=False)

    @classmethod
    def open(cls, ref: MaskRef, settings: CloudSettings, remote: RemoteSettings | None = None) -> CloudMask:
        """Open a mask and check that it is one.

        Args:
            ref: where it is.
            settings: which causes count, and how far they are grown.
            remote: time-outs, retries and the allow-list, as for images.

        Raises:
            SceneError: not a raster, no CRS, a kind that cannot be told, too few bands, or values that are no integers.
            ReadError: the file or its server fails.
            ForbiddenAddressError: a service may not read it.
        """
        source = Source(ref.path, remote, target=ref.path if ref.made else None)
        kind, grid = source.read(lambda dataset: _checked(source.name, ref, dataset))
        bands = (ref.band,) if ref.band is not None else mask_table().kinds[kind].needed
        path = Path(ref.path).name if ref.made else source.name
        uri = None if ref.made or ref.band is not None else ref.path
        return cls(source, kind, ref.found, bands, grid, settings.causes, settings.dilate_m, ref.notes, path, uri)

    def read_on_grid(
        self, grid: Grid, *, spacing: tuple[float, float], shift: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.uint8]:
        """Return what hides the land on another grid.

        The nearest pixel of the mask is taken, whatever its resolution and CRS; then clouds, cirrus, shadows and haze
        are grown by `dilate_m`. The pixels around the grid are read too, so the result does not depend on the window.

        Args:
            grid: the grid wanted; may reach beyond the mask, where the cause is "unknown".
            spacing: metres from row to row and from column to column of `grid`; the same for all windows of a pair.
            shift: columns and rows in pixels of `grid`, added to a position before the mask is looked up.

        Returns:
            Codes `(height, width)` of `configs/cloud_masks.yaml`, 0 where the land is seen.

        Raises:
            ReadError: the mask cannot be read there.
            SceneError: it holds values that its kind does not have.
        """
        rows, cols = (math.ceil(self.dilate_m / metres) for metres in spacing)
        around = grid.window(Window(-cols, -rows, grid.width + 2 * cols, grid.height + 2 * rows))
        moved = Grid(around.crs, around.transform @ Affine.translation(*shift), around.height, around.width)
        codes = np.full((around.height, around.width), _OUTSIDE, dtype=np.uint8)
        self._fill(moved, codes)
        codes[codes == _OUTSIDE] = mask_table().causes["unknown"] if "unknown" in self.causes else 0
        grown = dilate(codes, self.dilate_m, spacing)
        return grown[rows : rows + grid.height, cols : cols + grid.width]

    def summary(self) -> dict[str, object]:
        """Return the JSON-ready record for run.json."""
        return {
            "kind": self.kind,
            "found": self.found,
            "path": self.path,
            "gsd_m": round(self.grid.pixel_size_m(), 3),
        }

    def close(self) -> None:
        """Close the file; reading opens it again."""
        self.source.close()

    def _fill(self, grid: Grid, codes: NDArray[np.uint8]) -> None:
        """Warp into `codes`; halves the grid until the part of the mask behind it is small enough."""
        left, top, right, bottom = self.grid.pixels_of(grid)
        left, top = max(0, math.floor(left) - 2), max(0, math.floor(top) - 2)
        right, bottom = min(self.grid.width, math.ceil(right) + 2), min(self.grid.height, math.ceil(bottom) + 2)
        if right <= left or bottom <= top:
            return
        if (right - left) * (bottom - top) > MAX_SOURCE_PX and max(grid.height, grid.width) > 1:
            for part in halves(grid):
                self._fill(grid.window(part), codes[part.toslices()])
            return
        window = Window(left, top, right - left, bottom - top)
        reproject(
            self._decoded(window), codes, src_transform=self.grid.window(window).transform, src_crs=self.grid.crs,
            src_nodata=_OUTSIDE, dst_transform=grid.transform, dst_crs=grid.crs, dst_nodata=_OUTSIDE,
            resampling=Resampling.nearest, num_threads=1, tolerance=0.0,
        )  # fmt: skip

    def _decoded(self, window: Window) -> NDArray[np.uint8]:
        """Codes of a window that lies inside the mask."""
        stored = self.source.read(
            lambda dataset: dataset.read(list(self.bands), window=window), bands=self.bands, window=window
        )
        if stored.dtype.kind == "f":
            # A band of a float image: a class where it is finite, no data where it is not.
            stored = np.where(np.isfinite(stored), stored, 0).astype(np.int32)
        kind = mask_table().kinds[self.kind]
        known = (stored >= 0) & (stored <= kind.highest)
        if kind.nodata is not None:
            known |= stored == kind.nodata
        if not known.all():
            raise SceneError(
                f"{self.source.name}: {stored[~known][0]} at row {window.row_off}, column {window.col_off} or further "
                f"on is no value of {kind.title} (0 to {kind.highest}); give the right mask, or its kind with "
                "pair.clouds.kind"
            )
        return decode(kind, stored, self.causes)


def dilate(codes: NDArray[np.uint8], radius_m: float, spacing: tuple[float, float]) -> NDArray[np.uint8]:
    """Grow clouds, cirrus, shadows and haze over what is seen, by Euclidean distance.

    Args:
        codes: codes of causes `(height, width)`.
        radius_m: metres; a pixel whose centre is this near to that of a hidden one is hidden.
        spacing: metres from row to row and from column to column.

    Returns:
        A new array; where several causes reach a pixel it takes the first in the table's order.

    Example:
        >>> dilate(np.array([[0, 0, 1, 0, 0]], dtype=np.uint8), 10.0, (10.0, 10.0)).tolist()
        [[0, 1, 1, 1, 0]]
    """
    table = mask_table()
    grown = codes.copy()
    if radius_m <= 0:
        return grown
    for name in sorted(table.growing, key=table.causes.__getitem__):
        seeds = codes == table.causes[name]
        if seeds.any():
            distance: Any = distance_transform_edt(~seeds, sampling=spacing)
            # Half a per cent of tolerance: 60 m is 6 pixels of 10 m whatever the scale of the projection there.
            grown[(grown == 0) & (distance <= 1.005 * radius_m)] = table.causes[name]
    return grown


def _checked(name: str, ref: MaskRef, dataset: Any) -> tuple[Kind, Grid]:
    """Kind and grid of an open file that can be a mask."""
    kind = ref.kind or _kind_of(name, dataset)
    entry = mask_table().kinds[kind]
    if dataset.crs is None or dataset.transform.is_identity:
        raise SceneError(f"{name}: the cloud mask has no CRS or no transform; georeference it")
    if dataset.count < entry.bands:
        raise SceneError(
            f"{name}: {entry.title} has {entry.bands} bands, this file {dataset.count}; give the whole product"
        )
    if ref.band is None and any(np.dtype(dtype).kind not in "iu" for dtype in dataset.dtypes[: entry.bands]):
        raise SceneError(
            f"{name}: a cloud mask holds integers, this file {dataset.dtypes[0]}; give the product as it is"
        )
    return kind, Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)


def _kind_of(name: str, dataset: Any) -> Kind:
    """What a file given without its kind says about itself: band description, then its name."""
    words = [dataset.descriptions[0], *_name_parts(name)]
    kind = next((found for found in map(kind_named, words) if found is not None), None)
    if kind is None:
        raise SceneError(
            f"{name}: neither name nor band description say what kind of cloud mask it is; "
            f"give pair.clouds.kind, or mask_kind in scene.json: {', '.join(mask_table().kinds)}"
        )
    return kind


def _name_parts(path: str) -> list[str]:
    """Words of a file name that may name a kind: `a_QA_PIXEL.TIF` -> a, QA, PIXEL, and all neighbours joined."""
    words = image_stem(path).replace("-", "_").split("_")
    return [*words, *("_".join(pair) for pair in pairwise(words))]
