"""A pair on one grid: windows of both dates, what is valid in both, and what clouds hide."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np
from rasterio.features import geometry_mask

from tuban.data.cloud_mask import CloudMask, CloudSettings
from tuban.data.grid import Grid
from tuban.data.unseen import UnseenCounts
from tuban.data.warp import kernel_density, read_on_grid
from tuban.errors import ReadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rasterio.crs import CRS
    from rasterio.transform import Affine
    from rasterio.windows import Window
    from shapely.geometry.base import BaseGeometry

    from tuban.data.radiometry import Radiometry
    from tuban.data.registration import Registration
    from tuban.data.scene import FloatImage, Mask, Scene


class PairWindow(NamedTuple):
    """One window of a pair.

    Attributes:
        before: `(bands, height, width)`, 0 where not valid, NaN in a missing band.
        after: the same of the later date.
        valid: `(height, width)`, pixels that hold data at both dates and are seen at both.
        unseen: pixels that hold data at both dates and are hidden at either, by cloud, shadow or the like.
        causes: `(2, height, width)` uint8, what hides an unseen pixel before and after: codes of
            `configs/cloud_masks.yaml`, 0 at a date that sees it, and everywhere else.
    """

    before: FloatImage
    after: FloatImage
    valid: Mask
    unseen: Mask
    causes: NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """The overlap of two scenes on BEFORE's grid.

    AFTER is warped window by window, moved by the measured registration, and mapped onto BEFORE's radiometry. Can be
    pickled; not for use by several threads at once.

    Attributes:
        before: the earlier scene.
        after: the later scene.
        crs: BEFORE's CRS.
        transform: of the overlap: pixel corner to CRS units.
        height: rows of the overlap.
        width: columns of the overlap.
        registration: measured shift and what was done.
        radiometry: measured gain and offset of `radiometry_names` and what was done.
        radiometry_names: bands that both scenes have, in the order of the gains.
        notes: what was guessed or degraded.
        masks: the cloud masks of both dates, None where there is none.
        clouds: how they are used.
        sampled: what they hide, counted before the run; by windows spread over a large overlap.
    """

    before: Scene
    after: Scene
    crs: CRS
    transform: Affine
    height: int
    width: int
    registration: Registration
    radiometry: Radiometry
    radiometry_names: tuple[str, ...]
    notes: tuple[str, ...]
    aoi: BaseGeometry | None = None
    resampling: Literal["bilinear", "cubic"] = "cubic"
    masks: tuple[CloudMask | None, CloudMask | None] = (None, None)
    clouds: CloudSettings = field(default_factory=CloudSettings)
    sampled: UnseenCounts = field(default_factory=UnseenCounts)
    tolerate_damage: bool = False

    @property
    def grid(self) -> Grid:
        """The overlap's pixel grid."""
        return Grid(self.crs, self.transform, self.height, self.width)

    @property
    def downgraded(self) -> bool:
        """Whether the registration or the radiometry is not to be trusted fully."""
        return "downgraded" in {self.registration.action, self.radiometry.action}

    def read(self, window: Window, names: Sequence[str]) -> PairWindow:
        """Read both dates.

        Args:
            window: in pixels of the overlap; may reach beyond it: outside is invalid.
            names: canonical band names; the order is kept. A band that a scene lacks is NaN.

        Returns:
            Values in BEFORE's units, the pixels valid in both dates and inside the area of interest, and those of
            them that are hidden.

        Raises:
            SceneError: a file is damaged there.
        """
        grid = self.grid.window(window)
        before, valid = read_on_grid(self.before, grid, names)
        after, also = read_on_grid(
            self.after,
            grid,
            names,
            shift=self.registration.correction,
            resampling=self.resampling,
            density=kernel_density(self.after, self.grid),
        )
        valid = valid & also & self.inside(window)
        causes = self.hidden(grid)
        causes[:, ~valid] = 0
        unseen = np.asarray(causes.any(axis=0))
        valid &= ~unseen
        after = self._normalised(after, names)
        for values in (before, after):
            lacking = np.isnan(values).all(axis=(1, 2))
            values[:, ~valid] = 0
            values[lacking] = np.nan
        return PairWindow(before, after, valid, unseen, causes)

    def sample(self, window: Window, names: Sequence[str]) -> PairWindow:
        """Read both dates for a measurement: where damage is tolerated, a window that cannot be read is invalid."""
        try:
            return self.read(window, names)
        except ReadError:
            if not self.tolerate_damage:
                raise
        nothing = np.zeros((len(names), int(window.height), int(window.width)), dtype=np.float32)
        invalid = np.zeros(nothing.shape[1:], dtype=bool)
        causes = np.zeros((2, *invalid.shape), dtype=np.uint8)
        return PairWindow(nothing, nothing.copy(), invalid, invalid.copy(), causes)

    def hidden(self, grid: Grid) -> NDArray[np.uint8]:
        """Return what the masks hide on a part of the overlap's grid, whether or not there are data.

        Args:
            grid: `pair.grid.window(window)`.

        Returns:
            Codes `(2, height, width)`, as `PairWindow.causes`.
        """
        causes = np.zeros((2, grid.height, grid.width), dtype=np.uint8)
        spacing = self.grid.spacing_m()
        for layer, mask, shift in zip(causes, self.masks, ((0.0, 0.0), self.registration.correction), strict=True):
            if mask is not None:
                layer[:] = mask.read_on_grid(grid, spacing=spacing, shift=shift)
        return causes

    def inside(self, window: Window) -> Mask:
        """Return which pixels of a window lie in the overlap and in the area of interest, bool `(height, width)`."""
        grid = self.grid.window(window)
        rows = np.arange(grid.height) + int(window.row_off)
        cols = np.arange(grid.width) + int(window.col_off)
        inside: Mask = ((rows >= 0) & (rows < self.height))[:, None] & ((cols >= 0) & (cols < self.width))[None]
        if self.aoi is not None:
            inside &= geometry_mask([self.aoi], (grid.height, grid.width), grid.transform, invert=True)
        return inside

    def summary(self) -> dict[str, object]:
        """Return the JSON-ready record for run.json."""
        return {
            "before": _scene_summary(self.before),
            "after": _scene_summary(self.after),
            "crs": self.crs.to_string(),
            "transform": list(self.transform)[:6],
            "height": self.height,
            "width": self.width,
            "registration": self.registration.summary(),
            "radiometry": {"bands": list(self.radiometry_names), **self.radiometry.summary()},
            "clouds": self._clouds_summary(),
            "downgraded": self.downgraded,
            "notes": list(self.notes),
        }

    def close(self) -> None:
        """Close both files; reading opens them again."""
        for opened in (self.before, self.after, *self.masks):
            if opened is not None:
                opened.close()

    def mask_files(self) -> dict[str, str]:
        """Return the masks that are inputs of their own, `mask_before` and `mask_after`, with path or URL."""
        return {
            f"mask_{role}": mask.uri
            for role, mask in zip(("before", "after"), self.masks, strict=True)
            if mask is not None and mask.uri is not None
        }

    def unmasked(self) -> Pair:
        """Return the pair as the cameras saw it, clouds included: for pictures."""
        return replace(self, masks=(None, None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _normalised(self, after: FloatImage, names: Sequence[str]) -> FloatImage:
        if self.radiometry.action not in {"normalised", "downgraded"}:
            return after
        place = {name: i for i, name in enumerate(self.radiometry_names)}
        for i, name in enumerate(names):
            if name in place:
                gain, offset = self.radiometry.gain[place[name]], self.radiometry.offset[place[name]]
                after[i] = after[i] * np.float32(gain) + np.float32(offset)
        return after

    def _clouds_summary(self) -> dict[str, object]:
        before, after = (mask.summary() if mask else None for mask in self.masks)
        return {
            "source": self.clouds.source,
            "causes": list(self.clouds.causes),
            "dilate_m": self.clouds.dilate_m,
            "before": before,
            "after": after,
            "sampled": self.sampled.summary() if before or after else None,
        }


def _scene_summary(scene: Scene) -> dict[str, object]:
    return {
        "path": scene.path,
        "date": scene.date.isoformat() if scene.date else None,
        "date_source": scene.date_source,
        "sensor": scene.sensor,
        "radiometry": scene.radiometry,
        "gsd_m": round(scene.gsd_m, 3),
        "bands": [{"name": b.name, "index": b.index, "scale": b.scale, "offset": b.offset} for b in scene.bands],
    }
