"""The vector half of the job: change polygons from any OGR file judged against a plan."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tuban.data.plan import Plan
from tuban.data.vector import VectorSettings
from tuban.postprocess.change_input import open_changes, read_changes
from tuban.postprocess.check import CheckContext, CheckSettings
from tuban.postprocess.coverage import unreached
from tuban.postprocess.job import add_inputs, add_report, finish, require_language, write_findings
from tuban.postprocess.manifest import Manifest
from tuban.postprocess.report import ReportSettings
from tuban.postprocess.rules import load_pack
from tuban.postprocess.staging import staged

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator

    import geopandas as gpd

    StrPath = str | Path


class VectorCheckSettings(BaseModel):
    """Everything `tuban check` can be told beyond its options; filled by `configs/check.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: CheckSettings = CheckSettings()
    vector: VectorSettings = VectorSettings()
    report: ReportSettings = ReportSettings()
    image_accuracy_m: float = Field(5.0, ge=0, description="positional accuracy of the outlines given, metres")


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
        add_inputs(manifest, {"changes": changes, "plan": plan, "history": settings.check.history}, zones)
        context = CheckContext(date_after=date, image_accuracy_m=settings.image_accuracy_m)
        if source.features:
            manifest.note_all("plan", unreached(zones, source.bounds, source.crs))
        with manifest.timed("check"):
            write_findings(
                work,
                _filled(frames),
                source.crs,
                plan=zones,
                pack=pack,
                context=context,
                settings=settings.check,
                manifest=manifest,
                lang=lang,
                within=(source.bounds, source.crs) if source.features else None,
            )
        manifest.note_all("changes", notes)
        with manifest.timed("report"):
            add_report(work, manifest, zones, None, lang, settings.report)
        return finish(manifest, work, Path(out))


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
