"""`tuban demo`: the whole job on a pair whose truth is known, and what came of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio

from tuban.data.live import fetch_live_pair
from tuban.data.synthetic import make_demo
from tuban.errors import SceneError, UsageError
from tuban.postprocess.polygonize import iter_polygons
from tuban.postprocess.score import ScoreSettings, score

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = ("report.html", "findings.gpkg", "change.tif", "probability.tif", "run.json")


def run_demo(
    out: str | Path,
    scene: str | Path | None = None,
    live: bool = False,
    seed: int = 0,
    *,
    plan: str | Path | None = None,
    detector: Callable[..., dict[str, Any]] | None = None,
    settings: ScoreSettings | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run the whole job on one pair and score it where the truth is known.

    Args:
        out: folder of the results; the images made or fetched go to its subfolder `input`.
        scene: a folder with `before.tif`, `after.tif` and perhaps `change.tif` (1 = changed), instead of the built-in
            pair.
        live: fetch a real pair instead; needs a network and has no truth.
        seed: of the built-in pair's spectra and noise.
        plan: a plan for `scene` or `live`; the built-in pair has its own drawn plan.
        detector: called as `tuban.postprocess.detect.detect`, which is the default.
        settings: when a site is found and an alarm false.
        options: passed on to the detector, such as `model` or `backend`.

    Returns:
        JSON-ready: `mode`, `real`, `drawn`, `score` (None where there is no truth), `files`, `seconds`, and the
        detector's own summary under `detect`.

    Raises:
        UsageError: `scene` and `live` together, or a plan for the built-in pair.
        SceneError: the folder of `scene` lacks an image.
        TubanError: whatever the detector refuses.
    """
    if scene is not None and live:
        raise UsageError("--scene and --live exclude one another; give one of them")
    out, started = Path(out), time.perf_counter()
    truth: gpd.GeoDataFrame | None = None
    facts: dict[str, Any]
    if scene is not None:
        before, after, truth = _folder(Path(scene))
        facts = {"mode": "scene", "real": f"both images, in {scene}", "drawn": "nothing"}
    elif live:
        fetched = fetch_live_pair(out / "input")
        before, after = fetched["before"], fetched["after"]
        facts = {"mode": "live", "real": f"both images: {', '.join(fetched['items'])}", "drawn": "nothing"}
    else:
        if plan is not None:
            raise UsageError("the built-in pair has its own drawn plan; give --plan together with --scene or --live")
        pair = make_demo(out / "input", seed=seed)
        before, after, plan = pair.before, pair.after, pair.plan
        truth = pyogrio.read_dataframe(pair.truth, layer="sites")
        facts = {"mode": "built-in", "real": pair.facts["real"], "drawn": pair.facts["drawn"]}
    summary = (detector or _detector())(before, after, out=out, plan=plan, **options)
    result = None
    if truth is not None:
        result = score(out / "findings.gpkg", truth, planned=plan is not None, settings=settings).summary()
    return {
        **facts,
        "score": result,
        "files": {name: str(out / name) for name in FILES if (out / name).is_file()},
        "seconds": round(time.perf_counter() - started, 1),
        "detect": summary,
    }


def _detector() -> Callable[..., dict[str, Any]]:
    from tuban.postprocess.detect import detect

    run: Callable[..., dict[str, Any]] = detect
    return run


def _folder(folder: Path) -> tuple[Path, Path, gpd.GeoDataFrame | None]:
    before, after, change = (folder / name for name in ("before.tif", "after.tif", "change.tif"))
    for path in (before, after):
        if not path.is_file():
            raise SceneError(f"{path} does not exist; --scene takes a folder with before.tif and after.tif")
    return before, after, label_sites(change) if change.is_file() else None


def label_sites(path: str | Path) -> gpd.GeoDataFrame | None:
    """Return the changed places of a label raster (value 1) as sites, or None where nothing is labelled changed.

    Pixels that touch along an edge form one site. Column `site_id`; CRS of the raster.
    """
    with rasterio.open(path) as source:
        crs = source.crs
    parts = [
        np.asarray(batch.geometry)[np.asarray(batch.value) == 1] for batch in iter_polygons(path, mask_values=(0,))
    ]
    shapes = np.concatenate(parts) if parts else np.array([], dtype=object)
    if not len(shapes):
        return None
    return gpd.GeoDataFrame({"site_id": [f"L{n:05d}" for n in range(1, len(shapes) + 1)]}, geometry=shapes, crs=crs)


def report_lines(summary: dict[str, Any]) -> list[str]:
    """Return what a person should read of a demo's summary, one sentence a line."""
    real = summary["real"] if isinstance(summary["real"], str) else f"the image before ({summary['real']['image']})"
    lines = [f"Real: {real}. Drawn: {summary['drawn']}."]
    found = summary["score"]
    if found is None:
        lines.append("No truth is known for this pair, so nothing is scored.")
    else:
        sites = "painted sites" if summary["mode"] == "built-in" else "labelled places"
        lines += [
            f"Found {found['found']} of {found['sites']} {sites} (at least half of the area covered).",
            f"{found['changes']} change polygons, {found['false_alarms']} of them false alarms.",
            f"{found['inspections']} inspections, {found['wasted_inspections']} of them for a false alarm.",
        ]
        missed = [name for name, share in found["covered"].items() if share == 0]
        if missed and summary["mode"] == "built-in":
            lines.append(f"Not seen at all: {', '.join(missed)}.")
    lines += [f"{name}: {path}" for name, path in summary["files"].items()]
    return [*lines, f"Done in {summary['seconds']:.0f} s."]
