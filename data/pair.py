"""Two scenes of one place on one grid: overlap, clouds, registration, radiometry."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from tuban.data.aoi import read_aoi
from tuban.data.bands import sensor_table
from tuban.data.cloud_mask import CloudSettings
from tuban.data.mask_choice import CloudPredictor, choose_masks, require_seen
from tuban.data.matched import Pair, PairWindow
from tuban.data.measure import measure_radiometry, measure_registration
from tuban.data.overlap import date_notes, no_overlap, overlap
from tuban.data.radiometry import RadiometrySettings, identity
from tuban.data.registration import RegistrationSettings, corrected_by, unmeasured
from tuban.data.scene import Scene, SceneSettings
from tuban.data.unseen import in_words
from tuban.errors import PairError

if TYPE_CHECKING:
    import datetime as dt
    import os
    from collections.abc import Sequence

__all__ = ["Pair", "PairSettings", "PairWindow", "open_pair"]


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
    clouds: CloudSettings = CloudSettings()


def open_pair(
    before: str | os.PathLike[str], after: str | os.PathLike[str], *, date_before: str | dt.date | None = None,
    date_after: str | dt.date | None = None, aoi: str | os.PathLike[str] | None = None,
    settings: PairSettings | None = None, clouds: CloudPredictor | None = None,
) -> Pair:  # fmt: skip
    """Open two scenes, find their overlap, measure how well they match, and correct what can be corrected.

    Args:
        before: path of the earlier scene; its grid is the pair's.
        after: path of the later scene, in any CRS and on any grid.
        date_before: day of the earlier scene; goes before its metadata.
        date_after: day of the later scene.
        aoi: any vector file; the pair covers its bounds, and pixels outside its polygons are invalid.
        settings: limits; `docs/pairs.md` says how they were found.
        clouds: predicts the clouds of a scene where `settings.clouds.source` is "csmask".

    Raises:
        SceneError: one of the scenes cannot be used.
        PairError: dates reversed, no overlap, no common band, too little seen between the clouds, registration or
            radiometry out of range, or an area of interest that cannot be used.
        UsageError: a date given is not a date.
    """
    settings = settings or PairSettings()
    with ExitStack() as opened:  # closes what is open where a later step fails
        first = opened.enter_context(Scene.open(before, date=date_before, settings=settings.scene))
        second = opened.enter_context(Scene.open(after, date=date_after, settings=settings.scene))
        pair = _matched(first, second, aoi, settings, clouds)
        opened.pop_all()
    return pair


def _matched(
    before: Scene,
    after: Scene,
    aoi: str | os.PathLike[str] | None,
    settings: PairSettings,
    clouds: CloudPredictor | None,
) -> Pair:
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
        notes=tuple(notes), aoi=area, resampling=settings.resampling, clouds=settings.clouds,
        tolerate_damage=settings.scene.tolerate_damage,
    )  # fmt: skip
    _require_common_pixel(pair, names, settings)
    remote = settings.scene.remote
    masks, said = choose_masks(before, after, grid, settings.clouds, remote=remote, predict=clouds)
    pair = replace(pair, masks=masks, notes=(*pair.notes, *said))
    with ExitStack() as opened:
        opened.callback(pair.close)
        pair = _judged(_measured(_masked(pair), names, settings))
        opened.pop_all()
    return pair


def _masked(pair: Pair) -> Pair:
    """The pair with a count of what its clouds hide; an error where they leave too little."""
    if pair.masks == (None, None):
        return pair
    where = f"{pair.before.path} and {pair.after.path}"
    first = pair.radiometry_names[:1]  # one band tells where there are data
    sampled = require_seen(lambda window: pair.sample(window, first), pair.grid, pair.clouds, where)
    if not sampled.unseen_px:
        return pair
    note = f"about {sampled.share:.1%} of the overlap is hidden ({in_words(sampled)}): nothing is found there"
    return replace(pair, sampled=sampled, notes=(*pair.notes, note))


def _measured(pair: Pair, names: tuple[str, ...], settings: PairSettings) -> Pair:
    """The pair with its registration and radiometry, measured on what is seen."""
    if settings.registration.enabled:
        measured = measure_registration(
            lambda move: replace(pair, registration=corrected_by(*move)).sample,
            pair.height,
            pair.width,
            names,
            settings.registration,
        )
        pair = replace(pair, registration=measured)
    if settings.radiometry.enabled:
        pair = replace(
            pair, radiometry=measure_radiometry(pair.sample, pair.height, pair.width, names, settings.radiometry)
        )
    return pair


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
    if not any(pair.sample(window, names).valid.any() for window in pair.grid.tiles(settings.scan_window)):
        raise no_overlap(pair.before, pair.after, "have no pixel that is valid in both")
