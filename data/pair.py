"""Two scenes of one place on one grid: overlap, registration, radiometry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from rasterio.features import geometry_mask

from tuban.data.aoi import read_aoi
from tuban.data.bands import sensor_table
from tuban.data.grid import Grid
from tuban.data.measure import measure_radiometry, measure_registration
from tuban.data.overlap import date_notes, no_overlap, overlap
from tuban.data.radiometry import Radiometry, RadiometrySettings, identity
from tuban.data.registration import Registration, RegistrationSettings, corrected_by, unmeasured
from tuban.data.scene import FloatImage, Mask, Scene, SceneSettings
from tuban.data.warp import kernel_density, read_on_grid
from tuban.errors import PairError

if TYPE_CHECKING:
    import datetime as dt
    import os
    from collections.abc import Sequence
    from types import TracebackType

    from rasterio.crs import CRS
    from rasterio.transform import Affine
    from rasterio.windows import Window
    from shapely.geometry.base import BaseGeometry


class PairSettings(BaseModel):
    """How two scenes are brought together; `configs/pair.yaml` holds the same defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resampling: Literal["bilinear", "cubic"] = "cubic"
    min_overlap_px: int = Field(2, ge=1, description="pixels a side; a smaller overlap is no overlap")
    scan_window: int = Field(512, ge=16, description="pixels a side of the windows scanned for a pixel valid in both")
    gsd_ratio_note: float = Field(1.5, gt=1, description="ratio of pixel sizes from which a note is made")
    scene: SceneSettings = SceneSettings()
    registration: RegistrationSettings = RegistrationSettings()
    radiometry: RadiometrySettings = RadiometrySettings()


class PairWindow(NamedTuple):
    """Both dates of a window, 0 where invalid, NaN in a missing band; and the pixels valid in both."""

    before: FloatImage
    after: FloatImage
    valid: Mask


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
            Values in BEFORE's units and the pixels valid in both dates and inside the area of interest.

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
        valid = valid & also & self._inside(window, grid)
        after = self._normalised(after, names)
        for values in (before, after):
            lacking = np.isnan(values).all(axis=(1, 2))
            values[:, ~valid] = 0
            values[lacking] = np.nan
        return PairWindow(before, after, valid)

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
            "downgraded": self.downgraded,
            "notes": list(self.notes),
        }

    def close(self) -> None:
        """Close both files; reading opens them again."""
        self.before.close()
        self.after.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def _inside(self, window: Window, grid: Grid) -> Mask:
        """Pixels of the window that lie in the overlap and in the area of interest."""
        rows = np.arange(grid.height) + int(window.row_off)
        cols = np.arange(grid.width) + int(window.col_off)
        inside: Mask = ((rows >= 0) & (rows < self.height))[:, None] & ((cols >= 0) & (cols < self.width))[None]
        if self.aoi is not None:
            inside &= geometry_mask([self.aoi], (grid.height, grid.width), grid.transform, invert=True)
        return inside


def open_pair(
    before: str | os.PathLike[str], after: str | os.PathLike[str], *, date_before: str | dt.date | None = None,
    date_after: str | dt.date | None = None, aoi: str | os.PathLike[str] | None = None,
    settings: PairSettings | None = None,
) -> Pair:  # fmt: skip
    """Open two scenes, find their overlap, measure how well they match, and correct what can be corrected.

    Args:
        before: path of the earlier scene; its grid is the pair's.
        after: path of the later scene, in any CRS and on any grid.
        date_before: day of the earlier scene; goes before its metadata.
        date_after: day of the later scene.
        aoi: any vector file; the pair covers its bounds, and pixels outside its polygons are invalid.
        settings: limits; `docs/pairs.md` says how they were found.

    Raises:
        SceneError: one of the scenes cannot be used.
        PairError: dates reversed, no overlap, no common band, registration or radiometry out of range, or an area of
            interest that cannot be used.
        UsageError: a date given is not a date.
    """
    settings = settings or PairSettings()
    first = Scene.open(before, date=date_before, settings=settings.scene)
    try:
        second = Scene.open(after, date=date_after, settings=settings.scene)
    except BaseException:
        first.close()
        raise
    try:
        return _matched(first, second, aoi, settings)
    except BaseException:
        first.close()
        second.close()
        raise


def _matched(before: Scene, after: Scene, aoi: str | os.PathLike[str] | None, settings: PairSettings) -> Pair:
    """The measured and corrected pair of two open scenes."""
    notes = [*(f"before: {n}" for n in before.notes), *(f"after: {n}" for n in after.notes)]
    notes += date_notes(before, after)
    ratio = max(before.gsd_m / after.gsd_m, after.gsd_m / before.gsd_m)
    if ratio >= settings.gsd_ratio_note:
        notes.append(f"pixel sizes differ: {before.gsd_m:.2f} m before, {after.gsd_m:.2f} m after; AFTER is resampled")
    if before.radiometry != after.radiometry:
        notes.append(f"units differ: {before.radiometry} before, {after.radiometry} after; AFTER is mapped onto BEFORE")
    names = tuple(n for n in sensor_table().canonical if n in before.names and n in after.names)
    if not names:
        raise PairError(
            f"no common band: {before.path} has {', '.join(before.names)}, {after.path} has {', '.join(after.names)}; "
            "name the bands in scene.json"
        )
    area = read_aoi(aoi, before.crs) if aoi is not None else None
    grid = overlap(before, after, area, min_px=settings.min_overlap_px)
    nothing = identity(len(names), "not measured")
    pair = Pair(
        before=before, after=after, crs=grid.crs, transform=grid.transform, height=grid.height, width=grid.width,
        registration=unmeasured("not measured", action="none"), radiometry=nothing, radiometry_names=names,
        notes=tuple(notes),
        aoi=area, resampling=settings.resampling,
    )  # fmt: skip
    _require_common_pixel(pair, names, settings)
    if settings.registration.enabled:
        measured = measure_registration(
            lambda move: replace(pair, registration=corrected_by(*move)).read,
            pair.height,
            pair.width,
            names,
            settings.registration,
        )
        pair = replace(pair, registration=measured)
    if settings.radiometry.enabled:
        pair = replace(
            pair, radiometry=measure_radiometry(pair.read, pair.height, pair.width, names, settings.radiometry)
        )
    return _judged(pair)


def _judged(pair: Pair) -> Pair:
    """Refuse what cannot be compared; note what is compared with less confidence."""
    where = f"{pair.before.path} and {pair.after.path}"
    verdicts = (("registration", pair.registration), ("radiometry", pair.radiometry))
    for what, verdict in verdicts:
        if verdict.action == "refused":
            raise PairError(f"{where}: {what}: {verdict.reason}; {_REMEDY[what]}")
    downgrades = tuple(f"{what}: {v.reason}" for what, v in verdicts if v.action == "downgraded")
    # Each doubt alone has innocent causes, a season or an open sea; windows that disagree and spectra that hardly
    # correlate together were measured on images of different places only.
    if pair.registration.disagrees and pair.radiometry.action == "downgraded":
        raise PairError(f"{where}: {'; '.join(downgrades)}; {_REMEDY['radiometry']}")
    return replace(pair, notes=(*pair.notes, *downgrades))


_REMEDY = {
    "registration": "co-register the images first",
    "radiometry": "check that both show the same place without clouds, and that the bands are named right",
}


def _require_common_pixel(pair: Pair, names: Sequence[str], settings: PairSettings) -> None:
    """Stop at the first window that has a pixel valid in both dates; an error where there is none."""
    if not any(pair.read(window, names).valid.any() for window in pair.grid.tiles(settings.scan_window)):
        raise no_overlap(pair.before, pair.after, "have no pixel that is valid in both")


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
