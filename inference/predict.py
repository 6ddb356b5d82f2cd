"""Runs a bundle over a source of any size: resumable, in bounded memory, on one machine or on many."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rasterio

from tuban.errors import SceneError
from tuban.inference.backends import Backend, available_cores, open_backend
from tuban.inference.background import RelativeBackend, measure_background
from tuban.inference.journal import Journal, code_digest
from tuban.inference.mosaic import write_mosaic
from tuban.inference.runner import Runner
from tuban.inference.settings import InferenceSettings
from tuban.inference.windows import plan_windows

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from tuban.inference.parts import Tally
    from tuban.inference.products import Product
    from tuban.inference.reading import PixelReader
    from tuban.inference.windows import WindowPlan
    from tuban.models.bundle import Bundle

log = logging.getLogger(__name__)

JOURNAL = ".tuban-resume"
# Blocks that could not be read are all counted, and named up to this many.
_NAMED_DAMAGE = 100


class NothingToSeeError(SceneError):
    """Not one pixel of the source is valid."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a run wrote.

    Attributes:
        paths: COG of each raster by name.
        tally: what was counted.
        total_px: pixels of the grid.
        backend: what ran the network.
        seconds: wall time.
        notes: what was degraded, left out, or gone on with.
        details: how it was run, JSON-ready, for `run.json`.
    """

    paths: dict[str, Path]
    tally: Tally
    total_px: int
    backend: str
    seconds: float
    notes: tuple[str, ...]
    details: dict[str, Any]


def predict(
    source: PixelReader,
    bundle: Bundle,
    product: Product,
    out_dir: str | os.PathLike[str],
    *,
    settings: InferenceSettings | None = None,
    identity: Mapping[str, Any] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Run a bundle over a scene or pair.

    Args:
        source: what is read.
        bundle: the model.
        product: what is made of its outputs.
        out_dir: folder of the results; made if it does not exist. Files there are replaced when all is done.
        settings: how to run it.
        identity: JSON-ready; what tells this source from any other (files, their sizes and times, how they are read).
            A killed run is gone on with only where it is the same.
        resume: folder of the journal, kept for the caller to remove when its own work is done; None keeps it in
            `out_dir` and removes it here.
        progress: called in the calling thread with pixels done and pixels in all.

    Raises:
        ModelError: the network cannot be run, or gives values that are no probabilities.
        OutputError: results cannot be written; nothing is left under a final name.
        ReadError: the source is damaged, unless `settings.keep_going`.
        NothingToSeeError: not one pixel is valid.
        UsageError: the tile leaves no core inside the halo, or the backend does not exist.
    """
    started = time.perf_counter()
    settings = settings or InferenceSettings()
    plan = plan_windows(
        source.height,
        source.width,
        tile=settings.tile or bundle.tile,
        halo=halo(bundle, settings),
        stride=bundle.stride,
    )
    key = {
        "source": dict(identity or {}),
        "grid": [source.crs.to_wkt(), *source.transform.to_gdal(), source.height, source.width],
        "model": [bundle.model_id, bundle.onnx_sha256],
        "product": type(product).__name__,
        "settings": settings.deciding(),
        "code": code_digest(),
    }
    folder = Path(out_dir) / JOURNAL if resume is None else Path(resume)
    with Journal(folder, key) as journal, rasterio.Env(GDAL_CACHEMAX=settings.cache_mb):
        backend = _backend(source, bundle, journal, settings)
        runner = Runner(
            source,
            bundle,
            product,
            plan,
            backend,
            batch=settings.batch,
            ahead=settings.ahead,
            keep_going=settings.keep_going,
        )
        total = plan.groups(settings.batch)
        for done, part in enumerate(runner.parts(journal.missing(total)), start=journal.reused + 1):
            journal.add(part)
            if progress is not None:
                # The last pixel is done when the files stand under their names, not before.
                progress(min(done * plan.total_px // total, plan.total_px - 1), plan.total_px)
        if journal.tally.valid_px == 0:
            journal.remove()
            raise NothingToSeeError("no pixel is valid; check the nodata values, the masks and the overlap")
        paths = write_mosaic(
            Path(out_dir),
            plan,
            settings.batch,
            journal.paths(),
            product.specs,
            journal.tally,
            crs=source.crs,
            transform=source.transform,
            threads=settings.threads or available_cores(),
        )
        if resume is None and not journal.tally.damage:
            journal.remove()
    if progress is not None:
        progress(plan.total_px, plan.total_px)
    seconds = time.perf_counter() - started
    return Predicted(
        paths=paths,
        tally=journal.tally,
        total_px=plan.total_px,
        backend=backend.name,
        seconds=seconds,
        notes=(*journal.notes, *backend.notes, *_damage_notes(journal.tally)),
        details=_details(bundle, plan, settings, backend, journal),
    )


def halo(bundle: Bundle, settings: InferenceSettings) -> int:
    """Return the pixels fed around each window: those asked for, rounded up to the model's stride."""
    wanted = bundle.halo if settings.halo is None else bundle.reach if settings.halo == "exact" else settings.halo
    return -(-wanted // bundle.stride) * bundle.stride


def _backend(source: PixelReader, bundle: Bundle, journal: Journal, settings: InferenceSettings) -> Backend:
    """Open the backend, decided once per run: going on, what was decided then still holds."""
    backend = open_backend(
        settings.backend,
        bundle,
        threads=settings.threads,
        device=settings.device,
        precision=settings.precision,
    )
    if "background" not in journal.facts:
        measured = measure_background(backend, source, bundle, keep_going=settings.keep_going)
        journal.decide(background=measured)
    background = journal.facts["background"]
    return RelativeBackend(backend, background["shift"]) if background else backend


def _damage_notes(tally: Tally) -> list[str]:
    if not tally.damage:
        return []
    first = tally.damage[0]
    return [
        (f"{len(tally.damage)} blocks could not be read and hold no result, the first at row {first.row}, column "
        f"{first.col}: {first.reason}")
    ]


def _details(
    bundle: Bundle, plan: WindowPlan, settings: InferenceSettings, backend: Backend, journal: Journal
) -> dict[str, Any]:
    tally = journal.tally
    return {
        "model": bundle.model_id,
        "backend": backend.name,
        "threshold": bundle.threshold,
        **journal.facts,
        "windows_run": tally.run,
        "windows_skipped": tally.skipped,
        "unseen_px": tally.unseen_px,
        "fed_px": tally.fed_px,
        "statistics": {
            name: {str(value): count for value, count in enumerate(counts) if count}
            for name, counts in tally.values.items()
        },
        "damage": [block._asdict() for block in tally.damage[:_NAMED_DAMAGE]],
        "damaged_blocks": len(tally.damage),
        "plan": asdict(plan),
        "seams": {"halo": plan.halo, "reach": bundle.reach, "exact": plan.halo >= bundle.reach},
        "settings": settings.model_dump(mode="json"),
    }
