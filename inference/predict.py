"""Runs a bundle over a source of any size: resumable, in bounded memory, on one machine or on many."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuban.errors import SceneError
from tuban.inference.backends import available_cores
from tuban.inference.background import measure_background
from tuban.inference.choice import choose
from tuban.inference.connection import connected
from tuban.inference.journal import Journal, code_digest
from tuban.inference.mosaic import write_mosaic
from tuban.inference.recipe import Recipe
from tuban.inference.settings import InferenceSettings
from tuban.inference.windows import plan_windows
from tuban.inference.worker import Job

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from tuban.inference.backends import Backend
    from tuban.inference.cluster import Cluster
    from tuban.inference.parts import Part, Tally
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
        notes: what was degraded or left out.
        details: how it was run, JSON-ready, for `run.json`; equal for equal results.
        history: what an earlier run left and what became of it; makes no difference to the results.
        trial: what the trial of backends measured.
    """

    paths: dict[str, Path]
    tally: Tally
    total_px: int
    backend: str
    seconds: float
    notes: tuple[str, ...]
    details: dict[str, Any]
    history: tuple[str, ...]
    trial: dict[str, Any]


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
        ClusterError: Ray cannot be started or reached, has no room, or loses workers again and again.
        MissingExtraError: Ray is asked for and not installed.
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
    with (
        Journal(folder, key) as journal,
        settings.reading(),
        connected(settings) as cluster,
    ):
        for line in journal.notes:
            log.warning("%s", line)
        recipe, backend = _decided(source, bundle, product, plan, journal, settings, cluster)
        name, notes = backend.name, [*backend.notes]
        total = plan.groups(settings.batch)
        parts = _parts(Job(source, bundle, product, plan, recipe), backend, journal, total, cluster)
        del backend  # with Ray it runs on the workers, and here it would only hold memory
        for done, part in enumerate(parts, start=journal.reused + 1):
            journal.add(part)
            if progress is not None:
                # The last pixel is done when the files stand under their names, not before.
                progress(min(done * plan.total_px // total, plan.total_px - 1), plan.total_px)
        history = (*journal.notes, *(cluster.history if cluster else ()))
        notes += cluster.notes if cluster else ()
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
        backend=name,
        seconds=seconds,
        notes=(*notes, *_damage_notes(journal.tally)),
        details=_details(bundle, plan, settings, name, journal),
        history=history,
        trial=journal.facts.get("trial", {}),
    )


def halo(bundle: Bundle, settings: InferenceSettings) -> int:
    """Return the pixels fed around each window: those asked for, rounded up to the model's stride."""
    wanted = bundle.halo if settings.halo is None else bundle.reach if settings.halo == "exact" else settings.halo
    return -(-wanted // bundle.stride) * bundle.stride


def _parts(job: Job, backend: Backend, journal: Journal, total: int, cluster: Cluster | None) -> Iterator[Part]:
    """Return the parts that are still to be made, here or on Ray."""
    missing = journal.missing(total)
    if cluster is None:
        return job.runner(backend).parts(missing)
    return cluster.parts(job, backend, missing, total - journal.reused)


def _decided(
    source: PixelReader,
    bundle: Bundle,
    product: Product,
    plan: WindowPlan,
    journal: Journal,
    settings: InferenceSettings,
    cluster: Cluster | None,
) -> tuple[Recipe, Backend]:
    """Decide how parts are made, once per run: going on, what was decided then still holds."""
    facts = journal.facts
    if "threads" not in facts:
        journal.decide(threads=settings.threads or (cluster.threads if cluster else available_cores()))
    threads = settings.threads or facts["threads"]
    if "backend" not in facts:
        journal.decide(**choose(source, bundle, product, plan, settings, threads))
    recipe = Recipe(facts["backend"], settings, threads)
    backend = recipe.open(bundle)
    if "background" not in facts:
        # The background belongs to the scores that will be judged by it, so it is measured as they are made.
        journal.decide(background=measure_background(backend, source, bundle, keep_going=settings.keep_going))
    background = facts["background"]
    return (recipe, backend) if not background else recipe.relative(backend, background["shift"])


def _damage_notes(tally: Tally) -> list[str]:
    if not tally.damage:
        return []
    first = tally.damage[0]
    return [
        (
            f"{len(tally.damage)} blocks could not be read and hold no result, the first at row {first.row}, column "
            f"{first.col}: {first.reason}"
        )
    ]


def _reach(bundle: Bundle) -> int | None:
    return None if bundle.receptive_reach is None else bundle.reach


def _details(
    bundle: Bundle, plan: WindowPlan, settings: InferenceSettings, backend: str, journal: Journal
) -> dict[str, Any]:
    tally = journal.tally
    return {
        "model": bundle.model_id,
        "backend": backend,
        "threshold": bundle.threshold,
        "background": journal.facts["background"],
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
        "seams": {"halo": plan.halo, "reach": _reach(bundle), "exact": bundle.exact(plan.halo)},
        "settings": settings.deciding(),
    }
