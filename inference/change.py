"""Predicts change and land cover for a pair of any size: pair + bundle in, four COGs out."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
from pydantic import BaseModel, ConfigDict, Field

from tuban.errors import PairError
from tuban.inference.backends import Backend, BackendName, Prediction, available_cores, open_backend
from tuban.inference.background import relative
from tuban.inference.encode import encode, raster_specs
from tuban.inference.engine import stream
from tuban.inference.reading import Loaded, PairReader, read_window
from tuban.inference.windows import CoreWindow, WindowPlan, plan_windows
from tuban.inference.writer import RasterWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tuban.models.bundle import Bundle

log = logging.getLogger(__name__)


class InferenceSettings(BaseModel):
    """How the model is run; none of it changes the results beyond floating-point noise.

    Attributes:
        backend: what runs the network; `auto` is ONNX Runtime.
        tile: largest side in pixels fed to the network, halo included; None = the bundle's. Larger tiles waste less
            on halos and take more memory.
        batch: windows run at once.
        threads: threads of the network; 0 = every core this process may use.
        ahead: batches read ahead and batches waiting to be written, at most.
        cache_mb: memory for GDAL's block cache, in MB.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: BackendName = "auto"
    tile: int | None = Field(default=None, ge=16, le=8192)
    batch: int = Field(default=1, ge=1, le=256)
    threads: int = Field(default=0, ge=0, le=1024)
    ahead: int = Field(default=2, ge=1, le=64)
    cache_mb: int = Field(default=128, ge=16, le=65536)


@dataclass(frozen=True, slots=True)
class ChangeRasters:
    """What `predict_change` wrote.

    Attributes:
        change: COG, 0 unchanged, 1 changed, 255 nodata.
        probability: COG, probability × 254, 255 nodata.
        landcover_before: COG, unified classes, 0 nodata.
        landcover_after: COG, unified classes, 0 nodata.
        valid_px: pixels valid at both dates.
        nodata_px: the others.
        backend: what ran the network.
        seconds: wall time.
        details: how it was run, JSON-ready, for `run.json`.
    """

    change: Path
    probability: Path
    landcover_before: Path
    landcover_after: Path
    valid_px: int
    nodata_px: int
    backend: str
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)


class _Made(NamedTuple):
    """A window's outputs over its core, None where it was not run."""

    window: CoreWindow
    valid: NDArray[np.bool_]
    prediction: Prediction | None


@dataclass(slots=True)
class _Counts:
    """What has been done so far; only ever touched by one thread at a time."""

    windows_run: int = 0
    windows_skipped: int = 0
    valid_px: int = 0
    done_px: int = 0


def predict_change(
    pair: PairReader,
    bundle: Bundle,
    out_dir: str | os.PathLike[str],
    *,
    settings: InferenceSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ChangeRasters:
    """Run a bundle over a pair of any size, in memory that does not depend on the size.

    Args:
        pair: the two scenes on one grid.
        bundle: the model.
        out_dir: folder of the results; made if it does not exist. Files there are replaced when all is done.
        settings: how to run it; the default takes everything from the bundle.
        progress: called in the calling thread with pixels done and pixels in all.

    Returns:
        Paths and counts.

    Raises:
        ModelError: the network cannot be run, or gives values that are no probabilities.
        OutputError: results cannot be written; nothing is left under a final name.
        PairError: not one pixel is valid at both dates.
        UsageError: the tile leaves no core inside the halo, or the backend does not exist.
    """
    started = time.perf_counter()
    settings = settings or InferenceSettings()
    tile = settings.tile or bundle.tile
    plan = plan_windows(pair.height, pair.width, tile=tile, halo=bundle.halo, stride=bundle.stride)
    opened = open_backend(settings.backend, bundle, threads=settings.threads)
    with rasterio.Env(GDAL_CACHEMAX=settings.cache_mb):
        backend, background = relative(opened, pair, bundle)
    counts = _Counts()
    threads = settings.threads or available_cores()
    with (
        rasterio.Env(GDAL_CACHEMAX=settings.cache_mb),
        RasterWriter(Path(out_dir), plan, pair.crs, pair.transform, raster_specs(bundle), threads=threads) as writer,
    ):
        stream(
            _groups(plan, settings.batch),
            read=partial(_read_group, pair, bundle, plan),
            run=partial(_run_group, backend, plan, counts, progress),
            write=partial(_write_group, writer, bundle, counts),
            depth=settings.ahead,
        )
        if counts.valid_px == 0:
            raise PairError("no pixel is valid at both dates; check the nodata values, the masks and the overlap")
        paths = writer.finish()
    if progress is not None:
        progress(plan.total_px, plan.total_px)
    seconds = time.perf_counter() - started
    log.info("%d windows run, %d skipped, %.1f s", counts.windows_run, counts.windows_skipped, seconds)
    return ChangeRasters(
        **paths,
        valid_px=counts.valid_px,
        nodata_px=plan.total_px - counts.valid_px,
        backend=backend.name,
        seconds=seconds,
        details={
            "model": bundle.model_id,
            "threshold": bundle.threshold,
            "background": background,
            "windows_run": counts.windows_run,
            "windows_skipped": counts.windows_skipped,
            "plan": asdict(plan),
            "settings": settings.model_dump(mode="json"),
        },
    )


def _groups(plan: WindowPlan, batch: int) -> Iterator[list[CoreWindow]]:
    """Yield batches that never cross a row of windows, so that none depends on where a run began."""
    for row in range(plan.rows):
        indices = range(row * plan.cols, (row + 1) * plan.cols)
        for start in range(0, plan.cols, batch):
            yield [plan.window(index) for index in indices[start : start + batch]]


def _read_group(pair: PairReader, bundle: Bundle, plan: WindowPlan, group: list[CoreWindow]) -> list[Loaded]:
    return [read_window(pair, bundle, plan, window) for window in group]


def _run_group(
    backend: Backend,
    plan: WindowPlan,
    counts: _Counts,
    progress: Callable[[int, int], None] | None,
    group: list[Loaded],
) -> list[_Made]:
    feeds = [loaded for loaded in group if loaded.before is not None]
    predictions: dict[int, Prediction] = {}
    if feeds:
        before, after = (np.stack([getattr(loaded, date) for loaded in feeds]) for date in ("before", "after"))
        result = backend.run(before, after)
        for position, loaded in enumerate(feeds):
            predictions[loaded.window.index] = _core(result, position, loaded.window, plan.halo)
    counts.windows_run += len(feeds)
    counts.windows_skipped += len(group) - len(feeds)
    if progress is not None:
        counts.done_px += sum(loaded.window.pixels for loaded in group)
        # The last pixel is done when the files stand under their names, not before.
        progress(min(counts.done_px, plan.total_px - 1), plan.total_px)
    return [_Made(loaded.window, loaded.valid, predictions.get(loaded.window.index)) for loaded in group]


def _core(result: Prediction, position: int, window: CoreWindow, halo: int) -> Prediction:
    rows, cols = slice(halo, halo + window.height), slice(halo, halo + window.width)
    return Prediction(*(output[position, ..., rows, cols] for output in result))


def _write_group(writer: RasterWriter, bundle: Bundle, counts: _Counts, group: list[_Made]) -> None:
    for made in group:
        writer.write(made.window, encode(made.prediction, made.valid, bundle, made.window))
        counts.valid_px += int(np.count_nonzero(made.valid))
