"""Predicts change and land cover for a pair of any size: pair + bundle in, COGs out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tuban.errors import PairError
from tuban.inference.predict import NothingToSeeError, predict
from tuban.inference.products import ChangeProduct

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tuban.inference.reading import Damage, PixelReader
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle


@dataclass(frozen=True, slots=True)
class ChangeRasters:
    """What `predict_change` wrote.

    Attributes:
        change: COG, 0 unchanged, 1 changed, 255 nodata.
        probability: COG, probability × 254, 255 nodata.
        valid_px: pixels valid at both dates.
        nodata_px: the others.
        backend: what ran the network.
        seconds: wall time.
        landcover_before: COG, unified classes, 0 nodata; None where the bundle tells no land cover.
        landcover_after: the same of the later date.
        unseen_px: pixels with data at both dates that a cloud mask hides.
        damage: blocks that could not be read.
        notes: what was degraded or left out.
        details: how it was run, JSON-ready, for `run.json`; equal for equal results.
        history: what an earlier run left and what became of it; makes no difference to the results.
        trial: what the trial of backends measured.
    """

    change: Path
    probability: Path
    valid_px: int
    nodata_px: int
    backend: str
    seconds: float
    landcover_before: Path | None = None
    landcover_after: Path | None = None
    unseen_px: int = 0
    damage: tuple[Damage, ...] = ()
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    trial: dict[str, Any] = field(default_factory=dict)


def predict_change(
    pair: PixelReader,
    bundle: Bundle,
    out_dir: str | os.PathLike[str],
    *,
    settings: InferenceSettings | None = None,
    identity: Mapping[str, Any] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ChangeRasters:
    """Run a bundle over a pair of any size, in memory that does not depend on the size.

    Args and errors are those of `tuban.inference.predict.predict`.

    Raises:
        PairError: not one pixel is valid at both dates.
    """
    try:
        made = predict(
            pair,
            bundle,
            ChangeProduct(bundle),
            out_dir,
            settings=settings,
            identity=identity,
            resume=resume,
            progress=progress,
        )
    except NothingToSeeError as error:
        raise PairError(
            "no pixel is valid at both dates; check the nodata values, the masks and the overlap"
        ) from error
    return ChangeRasters(
        **made.paths,
        valid_px=made.tally.valid_px,
        nodata_px=made.total_px - made.tally.valid_px,
        backend=made.backend,
        seconds=made.seconds,
        unseen_px=made.tally.unseen_px,
        damage=made.tally.damage,
        notes=made.notes,
        details=made.details,
        history=made.history,
        trial=made.trial,
    )
