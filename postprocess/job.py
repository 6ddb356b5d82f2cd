"""What `tuban detect` and `tuban check` share: inputs noted, findings written in one pass, the report, the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuban.errors import UsageError
from tuban.postprocess.check import CheckStats, check_changes
from tuban.postprocess.layers import LAYERS, USUAL, LayerWriter, pyogrio_crs
from tuban.postprocess.page import LANGUAGES
from tuban.postprocess.plan_qa import validate_plan
from tuban.postprocess.report import write_report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import geopandas as gpd

    from tuban.data.pair import Pair
    from tuban.data.plan import Plan
    from tuban.data.remote import RemoteSettings
    from tuban.postprocess.check import CheckContext, CheckSettings
    from tuban.postprocess.manifest import Manifest
    from tuban.postprocess.report import ReportSettings
    from tuban.postprocess.rules import RulePack

    Bounds = tuple[float, float, float, float]


def require_language(lang: str) -> None:
    """Refuse a language before any work is done for it.

    Raises:
        UsageError: not one of those the report is written in.
    """
    if lang not in LANGUAGES:
        raise UsageError(f"--lang {lang} is none of {', '.join(LANGUAGES)}")


def add_inputs(
    manifest: Manifest, paths: Mapping[str, str | Path | None], plan: Plan | None, remote: RemoteSettings | None = None
) -> None:
    """Note the files that a run reads, by role, and those of the plan's layers."""
    for role, path in paths.items():
        if path is not None:
            manifest.add_input(role, str(path), remote=remote)
    for entry in plan.layers if plan is not None else ():
        if entry.path and Path(entry.path).exists():
            manifest.add_input(f"plan:{entry.role}:{entry.name}", entry.path)


def write_findings(
    work: Path,
    changes: Iterable[gpd.GeoDataFrame],
    crs: Any,
    *,
    plan: Plan | None,
    pack: RulePack | None,
    context: CheckContext,
    settings: CheckSettings,
    manifest: Manifest,
    lang: str,
    within: tuple[Bounds, Any] | None = None,
    unseen: Iterable[gpd.GeoDataFrame] | None = None,
) -> None:
    """Write `findings.gpkg` in one pass over the changes.

    Args:
        work: folder of the file.
        changes: frames of changes, in `crs`.
        crs: of all layers.
        plan: the plan; None writes changes only.
        pack: the rules, with a plan.
        context: dates, accuracy and model.
        settings: how changes are judged.
        manifest: gets what was decided and counted.
        lang: language of the styles.
        within: a box and its CRS: only plan features that meet it are examined for problems. None examines all.
        unseen: frames of what could not be judged; None where there is no imagery, and then no such layer.
    """
    stats = CheckStats()
    with LayerWriter(
        work / "findings.gpkg", crs=crs, lang=lang, layers=USUAL if unseen is None else tuple(LAYERS)
    ) as writer:
        stream = writer.tee("changes", changes)
        if plan is None or pack is None:
            for _ in stream:
                pass
        else:
            for frame in check_changes(stream, plan, pack, context=context, settings=settings, stats=stats):
                writer.append("findings", frame)
            quality = validate_plan(plan, within=within)
            writer.append("plan_qa", quality.problems.to_crs(pyogrio_crs(crs)))
            manifest.set("plan_qa", quality.summary)
            manifest.set("rule_pack", pack.facts())
            manifest.set("check", stats.as_dict())
            manifest.note_all("check", stats.notes)
            manifest.note_all("plan", plan.notes)
        for frame in unseen or ():
            writer.append("unseen", frame)
    manifest.set("layers", dict(writer.counts))


def add_report(
    work: Path, manifest: Manifest, plan: Plan | None, pair: Pair | None, lang: str, settings: ReportSettings
) -> None:
    """Write `report.html` of the layers in `work`."""
    layers = work / "findings.gpkg"
    summary = write_report(
        work / "report.html",
        run=manifest.content(),
        findings=layers if plan is not None else None,
        changes=layers,
        pair=pair,
        zones=plan.layers if plan is not None else (),
        lang=lang,
        settings=settings,
    )
    manifest.set("report", {"cards": summary.cards, "rows": summary.total})


def finish(manifest: Manifest, work: Path, out: Path) -> dict[str, Any]:
    """Hash what was written, write `run.json`, and return its content with `out` added."""
    for path in sorted(work.iterdir()):
        manifest.add_output(path)
    manifest.write(work)
    record: dict[str, Any] = json.loads((work / "run.json").read_text(encoding="utf-8"))
    return {**record, "out": str(out)}
