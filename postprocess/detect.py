"""The whole job: a pair and a plan in; change maps, polygons, findings, layers and a report out."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuban.data.identity import identity
from tuban.data.pair import Pair, open_pair
from tuban.data.plan import Plan
from tuban.errors import ModelError, UsageError
from tuban.inference.change import ChangeRasters, predict_change
from tuban.inference.clouds import CsMask
from tuban.inference.predict import JOURNAL
from tuban.inference.units import rescale
from tuban.models.bundle import Bundle, choose, resolve
from tuban.postprocess.change_input import open_changes, read_changes
from tuban.postprocess.changes import iter_changes
from tuban.postprocess.check import CheckContext, CheckSettings, CheckStats, check_changes
from tuban.postprocess.coverage import unreached
from tuban.postprocess.layers import LayerWriter, pyogrio_crs
from tuban.postprocess.manifest import Manifest
from tuban.postprocess.plan_qa import validate_plan
from tuban.postprocess.report import write_report
from tuban.postprocess.rules import load_pack
from tuban.postprocess.settings import DetectSettings, VectorCheckSettings
from tuban.postprocess.staging import staged
from tuban.postprocess.unseen import unseen_record, write_unseen

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator

    import geopandas as gpd

    from tuban.data.remote import RemoteSettings
    from tuban.postprocess.rules import RulePack

    StrPath = str | Path
    Progress = Callable[[str, int, int], None]

_log = logging.getLogger(__name__)
LANGUAGES = ("zh", "en")


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
        bundle = _bundle(model, pair)
        inputs = {"before": before, "after": after, "aoi": aoi, **pair.mask_files()}
        _inputs(manifest, {**inputs, "plan": plan, "history": settings.check.history}, zones, remote)
        manifest.set("pair", pair.summary())
        manifest.set("image_accuracy_m", image_accuracy_m(pair))
        if zones is not None:
            manifest.note_all("plan", unreached(zones, pair.grid.bounds_lonlat()))
        manifest.set("model", _model_facts(bundle))
        manifest.note_all("pair", pair.notes)
        manifest.note_all("model", _misfits(bundle, pair))
        with manifest.timed("inference"):
            rasters = predict_change(
                _in_model_units(pair, bundle, manifest),
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
        with manifest.timed("check"):
            _layers(work, changes, pair.crs, zones, pack, context, settings.check, manifest, lang)
        manifest.set("counts", _counts(rasters, counts))
        with manifest.timed("unseen"):
            unseen = write_unseen(pair, work / "unseen.tif")
        if unseen is not None:
            manifest.set("unseen", unseen_record(unseen, rasters.valid_px))
        with manifest.timed("report"):
            _report(work, manifest, zones, pair, lang, settings)
        record = _finish(manifest, work, Path(out))
    if not rasters.damage:
        # What could not be read may be readable tomorrow: then the parts that are whole are not made again.
        shutil.rmtree(Path(out) / JOURNAL, ignore_errors=True)
    return record


def check(
    changes: StrPath,
    *,
    plan: StrPath,
    out: StrPath,
    rules: str = "cn",
    date: dt.date | None = None,
    layer: str | None = None,
    lang: str = "zh",
    settings: VectorCheckSettings | None = None,
) -> dict[str, Any]:
    """Judge change polygons from any OGR file against a plan.

    Args:
        changes: file with `from_class` and `to_class`.
        plan: as for `detect`.
        out: folder of `findings.gpkg`, `report.html` and `run.json`.
        rules: name or path of the rule pack.
        date: the day whose rules and permits count; None is the day of the run, and that is said.
        layer: layer of `changes`.
        lang: language of the report and styles.
        settings: everything else.

    Returns:
        The content of `run.json`, with `out` added.

    Raises:
        TubanError: whatever is wrong with the inputs or the output.
    """
    settings = settings or VectorCheckSettings()
    require_language(lang)
    pack, zones = load_pack(rules), Plan.load(plan, settings=settings.vector)
    manifest = Manifest("check", {"rules": rules, "lang": lang, "date": date, "settings": settings})
    source = open_changes(changes, layer, settings=settings.vector)
    notes = [] if source.features else [f"{changes} holds no change; there is nothing to check"]
    frames = read_changes(changes, layer, settings=settings.vector, notes=notes)
    with staged(Path(out), (changes, plan, settings.check.history)) as work:
        _inputs(manifest, {"changes": changes, "plan": plan, "history": settings.check.history}, zones)
        context = CheckContext(date_after=date, image_accuracy_m=settings.image_accuracy_m)
        if source.features:
            manifest.note_all("plan", unreached(zones, source.bounds, source.crs))
        with manifest.timed("check"):
            _layers(
                work,
                _filled(frames),
                source.crs,
                zones,
                pack,
                context,
                settings.check,
                manifest,
                lang,
            )
        manifest.note_all("changes", notes)
        with manifest.timed("report"):
            _report(work, manifest, zones, None, lang, settings)
        return _finish(manifest, work, Path(out))


def require_language(lang: str) -> None:
    """Refuse a language before any work is done for it.

    Raises:
        UsageError: not one of those the report is written in.
    """
    if lang not in LANGUAGES:
        raise UsageError(f"--lang {lang} is none of {', '.join(LANGUAGES)}")


def image_accuracy_m(pair: Pair) -> float:
    """Return how far the outline of a change may be from the truth, metres.

    Half a pixel and the registration's residual, as the root of the sum of squares.
    """
    residual = pair.registration.residual_px
    # An unmeasured residual is as uncertain as the largest that is not downgraded: three quarters of a pixel.
    residual = 0.75 if math.isnan(residual) else residual
    return round(pair.before.gsd_m * math.hypot(0.5, residual), 3)


def _bundle(model: str | None, pair: Pair) -> Bundle:
    bands = tuple(pair.radiometry_names)
    if model is None:
        return choose(bands, pair.before.gsd_m)
    bundle = resolve(model)
    lacking = [band for band in bundle.required_bands if band not in bands]
    if lacking:
        raise ModelError(
            f"{bundle.name} needs the bands {', '.join(lacking)}, which the pair lacks (it has {', '.join(bands)}); "
            "give images with these bands, or another --model"
        )
    return bundle


def _misfits(bundle: Bundle, pair: Pair) -> Iterator[str]:
    """Yield what about the scenes is not as the model was trained."""
    lacking = [band for band in bundle.bands if band not in pair.radiometry_names]
    if lacking:
        yield (
            f"{bundle.name} was run without the bands {', '.join(lacking)}, which the images lack: less accurate, "
            "see its model card"
        )
    low, high = bundle.gsd_m
    if not low <= pair.before.gsd_m <= high:
        yield (
            f"pixels of {pair.before.gsd_m:.1f} m are outside the {low:g}–{high:g} m that {bundle.name} was made for: "
            "its measurements do not cover the results"
        )


def _identity(pair: Pair, files: dict[str, StrPath | None], remote: RemoteSettings) -> dict[str, Any]:
    """Return what tells these pixels from any other: the files, and how they are read."""
    return {
        "files": {role: identity(str(path), remote) for role, path in files.items() if path is not None},
        "pair": pair.summary(),
    }


def _in_model_units(pair: Pair, bundle: Bundle, manifest: Manifest) -> Any:
    if pair.before.radiometry == "reflectance":
        return pair
    rescaled = rescale(pair, bundle)
    manifest.set("rescaled", {"gain": rescaled.gain, "offset": rescaled.offset})
    manifest.note(
        "model",
        "values are no reflectance: each band's median and spread were mapped onto the model's training statistics "
        "(a guess about units; confidence is not calibrated for it)",
    )
    return rescaled


def _inputs(
    manifest: Manifest, paths: dict[str, StrPath | None], zones: Plan | None, remote: RemoteSettings | None = None
) -> None:
    for role, path in paths.items():
        if path is not None:
            manifest.add_input(role, str(path), remote=remote)
    for entry in zones.layers if zones is not None else ():
        if entry.path and Path(entry.path).exists():
            manifest.add_input(f"plan:{entry.role}:{entry.name}", entry.path)


def _model_facts(bundle: Bundle) -> dict[str, Any]:
    return {
        "id": bundle.model_id,
        "name": bundle.name,
        "version": bundle.version,
        "weights_sha256": bundle.weights_sha256,
        "onnx_sha256": bundle.onnx_sha256,
        "threshold": bundle.threshold,
        "bands": list(bundle.bands),
    }


def _layers(
    work: Path,
    changes: Iterable[gpd.GeoDataFrame],
    crs: Any,
    zones: Plan | None,
    pack: RulePack | None,
    context: CheckContext,
    settings: CheckSettings,
    manifest: Manifest,
    lang: str,
) -> None:
    """Write `findings.gpkg` in one pass over the changes."""
    stats = CheckStats()
    with LayerWriter(work / "findings.gpkg", crs=crs, lang=lang) as writer:
        stream = writer.tee("changes", changes)
        if zones is None or pack is None:
            for _ in stream:
                pass
        else:
            for frame in check_changes(stream, zones, pack, context=context, settings=settings, stats=stats):
                writer.append("findings", frame)
            quality = validate_plan(zones)
            writer.append("plan_qa", quality.problems.to_crs(pyogrio_crs(crs)))
            manifest.set("plan_qa", quality.summary)
            manifest.set("rule_pack", pack.facts())
            manifest.set("check", stats.as_dict())
            manifest.note_all("check", stats.notes)
            manifest.note_all("plan", zones.notes)
    manifest.set("layers", dict(writer.counts))


def _filled(frames: Iterable[gpd.GeoDataFrame]) -> Iterator[gpd.GeoDataFrame]:
    """Add the columns of `changes` that polygons from elsewhere cannot have."""
    for frame in frames:
        yield frame.assign(
            **{
                name: value
                for name, value in (("compactness", math.nan), ("touches_edge", False))
                if name not in frame.columns
            }
        )


def _counts(rasters: ChangeRasters, counts: Counter[str]) -> dict[str, Any]:
    return {
        "valid_px": rasters.valid_px,
        "nodata_px": rasters.nodata_px,
        "unseen_px": rasters.unseen_px,
        "damaged_blocks": len(rasters.damage),
        **dict(sorted(counts.items())),
    }


def _report(
    work: Path,
    manifest: Manifest,
    zones: Plan | None,
    pair: Pair | None,
    lang: str,
    settings: DetectSettings | VectorCheckSettings,
) -> None:
    layers = work / "findings.gpkg"
    summary = write_report(
        work / "report.html",
        run=manifest.content(),
        findings=layers if zones is not None else None,
        changes=layers,
        pair=pair,
        zones=zones.layers if zones is not None else (),
        lang=lang,
        settings=settings.report,
    )
    manifest.set("report", {"cards": summary.cards, "rows": summary.total})


def _finish(manifest: Manifest, work: Path, out: Path) -> dict[str, Any]:
    for path in sorted(work.iterdir()):
        manifest.add_output(path)
    manifest.write(work)
    record: dict[str, Any] = json.loads((work / "run.json").read_text(encoding="utf-8"))
    return {**record, "out": str(out)}


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(stage, done, total)
