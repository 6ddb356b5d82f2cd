"""The whole job: a pair and a plan in; change maps, polygons, findings, layers and a report out."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuban.data.identity import identity
from tuban.data.pair import Pair, open_pair
from tuban.data.plan import Plan
from tuban.inference.change import ChangeRasters, predict_change
from tuban.inference.clouds import CsMask
from tuban.inference.predict import JOURNAL
from tuban.postprocess.baseline_class import with_baseline
from tuban.postprocess.changes import iter_changes
from tuban.postprocess.check import CheckContext
from tuban.postprocess.coverage import unreached
from tuban.postprocess.fitting import in_model_units, misfits, model_facts, model_for, told_by
from tuban.postprocess.job import add_inputs, add_report, finish, require_language, write_findings
from tuban.postprocess.manifest import Manifest
from tuban.postprocess.rules import load_pack
from tuban.postprocess.settings import DetectSettings
from tuban.postprocess.staging import staged
from tuban.postprocess.unseen import Unjudged, unseen_record, write_unseen

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from tuban.data.remote import RemoteSettings

    StrPath = str | Path
    Progress = Callable[[str, int, int], None]


def detect(
    before: StrPath,
    after: StrPath,
    *,
    out: StrPath,
    plan: StrPath | None = None,
    rules: str = "cn",
    model: str | None = None,
    aoi: StrPath | None = None,
    date_before: str | dt.date | None = None,
    date_after: str | dt.date | None = None,
    lang: str = "zh",
    settings: DetectSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find changes between two images and judge them against a plan.

    Args:
        before: the earlier image, anything rasterio opens, or a STAC item.
        after: the later image; its CRS, grid and extent may differ.
        out: folder of the results; they appear together when all is done.
        plan: `plan.yaml`, GeoPackage, File GDB or folder of Shapefiles; without it there are changes and no findings.
        rules: name or path of the rule pack.
        model: name or folder of the bundle; None chooses the installed one that fits.
        aoi: vector file; only its area is looked at.
        date_before: date of the earlier image, where its metadata lack one.
        date_after: date of the later image.
        lang: language of the report and styles, `zh` or `en`.
        settings: everything else.
        progress: called with stage, done and total.

    Returns:
        The content of `run.json`, with `out` added.

    Raises:
        TubanError: whatever is wrong with inputs, model or output; nothing of the run is left under a final name.
    """
    settings = settings or DetectSettings()
    require_language(lang)
    pack, zones = (load_pack(rules), Plan.load(plan, settings=settings.vector)) if plan is not None else (None, None)
    parameters = {"rules": rules, "lang": lang, "model": model, "settings": settings}
    manifest = Manifest("detect", parameters)
    if settings.inference.keep_going:
        scene = settings.pair.scene.model_copy(update={"tolerate_damage": True})
        settings = settings.model_copy(update={"pair": settings.pair.model_copy(update={"scene": scene})})
    remote = settings.pair.scene.remote
    with staged(Path(out), (before, after, aoi, plan, settings.check.history)) as work, contextlib.ExitStack() as stack:
        with manifest.timed("pair"):
            pair = stack.enter_context(
                open_pair(
                    before,
                    after,
                    date_before=date_before,
                    date_after=date_after,
                    aoi=aoi,
                    settings=settings.pair,
                    clouds=CsMask(work, settings.pair.clouds.level, settings.inference.threads),
                )
            )
        bundle = model_for(pair, model)
        inputs = {"before": before, "after": after, "aoi": aoi, **pair.mask_files()}
        add_inputs(manifest, {**inputs, "plan": plan, "history": settings.check.history}, zones, remote)
        manifest.set("pair", pair.summary())
        manifest.set("image_accuracy_m", image_accuracy_m(pair))
        here = pair.grid.bounds_lonlat()
        if zones is not None:
            manifest.note_all("plan", unreached(zones, here))
        manifest.set("model", model_facts(bundle))
        manifest.note_all("pair", pair.notes)
        manifest.note_all("model", (*misfits(bundle, pair.radiometry_names, pair.before), *told_by(bundle, zones)))
        with manifest.timed("inference"):
            rasters = predict_change(
                in_model_units(pair, bundle, manifest),
                bundle,
                work,
                settings=settings.inference,
                identity=_identity(pair, inputs, remote),
                resume=Path(out) / JOURNAL,
                progress=_stage(progress, "inference"),
            )
        manifest.set("inference", rasters.details)
        manifest.set_volatile("inference", {"resume": list(rasters.history), "trial": rasters.trial})
        manifest.note_all("inference", rasters.notes)
        context = CheckContext(
            date_before=pair.before.date,
            date_after=pair.after.date,
            image_accuracy_m=image_accuracy_m(pair),
            model_id=bundle.model_id,
            downgraded=pair.downgraded,
            downgrade_reason="; ".join(r for r in (pair.registration.reason, pair.radiometry.reason) if r),
        )
        counts: Counter[str] = Counter()
        dates = (pair.before.date, pair.after.date)
        changes = iter_changes(rasters, bundle, settings=settings.changes, dates=dates, counts=counts)
        if not bundle.classes:
            changes = with_baseline(changes, zones, counts)
        with manifest.timed("unseen"):
            unseen = write_unseen(pair, work / "unseen.tif")
        if unseen is not None:
            manifest.set("unseen", unseen_record(unseen, rasters.valid_px))
        unjudged = Unjudged(pair, rasters, work / "unseen.tif" if unseen is not None else None)
        with manifest.timed("check"):
            write_findings(
                work,
                changes,
                pair.crs,
                plan=zones,
                pack=pack,
                context=context,
                settings=settings.check,
                manifest=manifest,
                lang=lang,
                within=(here, "EPSG:4326"),
                unseen=unjudged.frames(),
            )
        manifest.set("counts", _counts(rasters, counts))
        manifest.set("unjudged", unjudged.summary())
        with manifest.timed("report"):
            add_report(work, manifest, zones, pair, lang, settings.report)
        record = finish(manifest, work, Path(out))
    if not rasters.damage:
        # What could not be read may be readable tomorrow: then the parts that are whole are not made again.
        shutil.rmtree(Path(out) / JOURNAL, ignore_errors=True)
    return record


def image_accuracy_m(pair: Pair) -> float:
    """Return how far the outline of a change may be from the truth, metres.

    Half a pixel and the registration's residual, as the root of the sum of squares.
    """
    residual = pair.registration.residual_px
    # An unmeasured residual is as uncertain as the largest that is not downgraded: three quarters of a pixel.
    residual = 0.75 if math.isnan(residual) else residual
    return round(pair.before.gsd_m * math.hypot(0.5, residual), 3)


def _identity(pair: Pair, files: dict[str, StrPath | None], remote: RemoteSettings) -> dict[str, Any]:
    """Return what tells these pixels from any other: the files, and how they are read."""
    return {
        "files": {role: identity(str(path), remote) for role, path in files.items() if path is not None},
        "pair": pair.summary(),
    }


def _counts(rasters: ChangeRasters, counts: Counter[str]) -> dict[str, Any]:
    return {
        "valid_px": rasters.valid_px,
        "nodata_px": rasters.nodata_px,
        "unseen_px": rasters.unseen_px,
        "damaged_blocks": len(rasters.damage),
        **dict(sorted(counts.items())),
    }


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(stage, done, total)
