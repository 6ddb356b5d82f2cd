"""`tuban plan`: the quality of boundary layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuban.console import show
from tuban.options import Json, Lang, Overrides

plan_app = typer.Typer(no_args_is_help=True, help="Plans: boundary layers with roles.")


@plan_app.command("validate")
def plan_validate(
    plan: Path,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", help="GeoPackage to write the problems into.")] = None,
    table: Annotated[Path | None, typer.Option(help="CSV or XLSX table of the problems.")] = None,
    lang: Lang = "zh",
    as_json: Json = False,
) -> None:
    """Plan QA: CRS, geometry, codes, areas, overlaps and gaps, zones that conflict (多规合一)."""
    from tuban.configs.compose import settings
    from tuban.data.plan import Plan
    from tuban.postprocess.plan_qa import PlanQASettings
    from tuban.postprocess.plan_qa_files import write_plan_qa

    chosen = settings("plan_qa", PlanQASettings, overrides or [])
    quality = write_plan_qa(Plan.load(plan), layer=out, table=table, settings=chosen, lang=lang)
    rows = [f"{row.severity} {row.layer} {row.feature}: {row.message}" for row in quality.problems.itertuples()]
    total = quality.summary["total"]
    closing = f"{total} problems" if len(rows) == total else f"{total} problems, the first {len(rows)} shown"
    show(quality.summary, [*rows, closing], as_json=as_json)
