"""Which cloud masks a pair uses, and whether enough of it is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from rasterio.windows import Window

from tuban.data.cloud_mask import CloudMask, CloudSettings
from tuban.data.mask_files import MaskRef
from tuban.data.unseen import UnseenCounts, count_unseen, in_words
from tuban.errors import PairError, SceneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tuban.data.grid import Grid
    from tuban.data.remote import RemoteSettings
    from tuban.data.scene import Scene

Masks = tuple[CloudMask | None, CloudMask | None]
# Registration may move AFTER by up to this many pixels after its mask has been predicted.
_REACH_PX = 16
# Windows by which a large overlap is sampled, a side, and their size in pixels.
_SAMPLES, _SAMPLE_PX = 16, 64


class CloudPredictor(Protocol):
    """Something that finds the clouds of a scene: `tuban.inference.clouds.CsMask`."""

    def __call__(self, scene: Scene, window: Window, role: str) -> MaskRef:
        """Write the mask of a window of a scene, `role` being "before" or "after", and say where it is."""


class MaskedWindow(Protocol):
    """What counting needs of `tuban.data.pair.PairWindow`."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Pixels seen at both dates."""

    @property
    def causes(self) -> NDArray[np.uint8]:
        """What hides a pixel at either date."""


def choose_masks(
    before: Scene,
    after: Scene,
    grid: Grid,
    settings: CloudSettings,
    *,
    remote: RemoteSettings,
    predict: CloudPredictor | None,
) -> tuple[Masks, list[str]]:
    """Open the masks that the settings ask for.

    Args:
        before: the earlier scene.
        after: the later scene.
        grid: the overlap.
        settings: what is wanted.
        remote: time-outs, retries and the allow-list, as for the images.
        predict: finds the clouds where `source` is "csmask".

    Returns:
        A mask for each date, None where there is none, and notes.

    Raises:
        SceneError: a mask that was asked for is missing, damaged or cannot be predicted.
        UsageError: "csmask" without `predict`.
    """
    masks: list[CloudMask | None] = []
    notes: list[str] = []
    for role, scene, given in (("before", before, settings.mask_before), ("after", after, settings.mask_after)):
        ref = _wanted(role, scene, given, grid, settings, predict)
        mask = CloudMask.open(ref, settings, remote) if ref else None
        masks.append(mask)
        notes += [f"{role}: {note}" for note in (mask.notes if mask else ())]
        if mask is None and settings.source == "auto":
            notes.append(
                f"{role}: no cloud mask was found, so clouds and shadows are not masked; "
                "pair.clouds.source=csmask predicts them"
            )
    return (masks[0], masks[1]), notes


def require_seen(
    read: Callable[[Window], MaskedWindow], grid: Grid, settings: CloudSettings, where: str
) -> UnseenCounts:
    """Count the hidden pixels of an overlap, a large one by windows spread evenly over it.

    Args:
        read: reads a window of the pair.
        grid: the overlap.
        settings: the share that must be seen.
        where: names the scenes in the error.

    Raises:
        PairError: too little of what has data at both dates is seen at both.
    """
    counts = UnseenCounts()
    for window in _spread(grid):
        got = read(window)
        counts += count_unseen(got.valid, got.causes, grid.window(window))
    if counts.unseen_px and 1 - counts.share < settings.min_seen:
        raise PairError(
            f"{where}: about {1 - counts.share:.2%} of the overlap is seen at both dates ({in_words(counts)}), "
            f"less than {settings.min_seen:.2%}; choose another date, or set pair.clouds.min_seen or "
            "pair.clouds.source=none"
        )
    return counts


def _wanted(
    role: str, scene: Scene, given: str | None, grid: Grid, settings: CloudSettings, predict: CloudPredictor | None
) -> MaskRef | None:
    """The mask of one date: the file given, else as `source` says."""
    if given is not None:
        kind = None if settings.kind == "auto" else settings.kind
        return MaskRef(given, kind, f"option mask_{role}")
    if settings.source == "none":
        return None
    if settings.source == "csmask":
        if predict is None:
            raise UsageError("pair.clouds.source=csmask needs a predictor; give open_pair one, `clouds=CsMask(folder)`")
        return predict(scene, _needed(scene, grid, settings), role)
    if scene.mask is None and settings.source == "own":
        raise SceneError(
            f"{scene.path}: no cloud mask in it or beside it; give pair.clouds.mask_{role}, or choose "
            "pair.clouds.source=csmask or none"
        )
    return scene.mask


def _needed(scene: Scene, grid: Grid, settings: CloudSettings) -> Window:
    """The part of a scene whose clouds can hide a pixel of the overlap."""
    left, top, right, bottom = scene.grid.pixels_of(grid)
    rows, cols = (int(settings.dilate_m / metres) + _REACH_PX for metres in scene.grid.spacing_m())
    row0, col0 = max(0, int(top) - rows), max(0, int(left) - cols)
    row1, col1 = min(scene.height, int(bottom) + 1 + rows), min(scene.width, int(right) + 1 + cols)
    return Window(col0, row0, col1 - col0, row1 - row0)


def _spread(grid: Grid) -> list[Window]:
    """Windows over the whole of a small grid, or spread evenly over a large one."""
    if grid.height * grid.width <= (_SAMPLES * _SAMPLE_PX) ** 2:
        return list(grid.tiles(512))
    tall, wide = min(_SAMPLE_PX, grid.height), min(_SAMPLE_PX, grid.width)
    rows = np.unique(np.linspace(0, grid.height - tall, _SAMPLES).astype(int))
    cols = np.unique(np.linspace(0, grid.width - wide, _SAMPLES).astype(int))
    return [Window(int(col), int(row), wide, tall) for row in rows for col in cols]
