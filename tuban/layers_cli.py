"""`tuban vectorize` and `export`: rasters to polygons, findings to the formats of inspectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuban.console import show
from tuban.options import Json, Lang, Overrides

layers_app = typer.Typer()

_MIN_AREA = (
    "Minimum mapping unit, m2: smaller polygons are flagged, or with below_min=merge joined to a neighbour. "
    "Per class: mmu=cn."
)
_SIMPLIFY = (
    "How far a border may move, metres; no polygon changes its area. Also: smooth=true, square_classes=[building]."
)


@layers_app.command()
def vectorize(
    raster: Annotated[Path, typer.Argument(help="Class raster.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; the suffix names the format.")],
    overrides: Overrides = None,
    min_area: Annotated[float | None, typer.Option(help=_MIN_AREA)] = None,
    simplify: Annotated[float | None, typer.Option(help=_SIMPLIFY)] = None,
    as_json: Json = False,
) -> None:
    """Class raster -> valid, gap-free polygons."""
    from tuban.configs.compose import settings
    from tuban.postprocess.vectorize import VectorizeSettings
    from tuban.postprocess.vectorize import vectorize as work

    given = {"min_area_m2": min_area, "simplify_m": simplify}
    chosen = [*(overrides or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    summary = work(raster, out, settings("vectorize", VectorizeSettings, chosen)).as_dict()
    lines = [f"{summary['polygons']} polygons: {summary['path']}", f"below their minimum: {summary['below_min']}"]
    lines += [f"merged {m['from']} -> {m['to']}: {m['polygons']}, {m['area_m2']:.0f} m2" for m in summary["merged"]]
    if drift := summary["generalized"]:
        lines.append(
            f"largest drift of area: {drift['largest_class_drift']:.2%} of a class, "
            f"{drift['largest_polygon_drift']:.2%} of a polygon; {drift['stepped']} keep pixel edges somewhere"
        )
    show(summary, lines, as_json=as_json)


@layers_app.command()
def export(
    findings: Annotated[Path, typer.Argument(help="findings.gpkg, or the folder of a run.")],
    fmt: Annotated[
        str,
        typer.Option("--format", help="gpkg, shp, gdb, geojson, geoparquet, flatgeobuf, kml, xlsx, html, pdf, postgis"),
    ],
    out: Annotated[
        str, typer.Option("--out", help="File, existing folder, or postgresql://USER@HOST/DATABASE?schema=tuban.")
    ],
    overrides: Overrides = None,
    profile: Annotated[str, typer.Option(help="Field table: neutral, cn-weipian, or a YAML file.")] = "neutral",
    clip: Annotated[Path | None, typer.Option(help="Vector file: only what lies in its polygons.")] = None,
    precision: Annotated[float, typer.Option(help="Snap outlines to a grid of this many metres.")] = 0.0,
    geometry: Annotated[
        bool, typer.Option("--geometry/--no-geometry", help="With outlines, coordinates and pictures.")
    ] = True,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Open the run's images again for html and pdf.")
    ] = True,
    lang: Lang = "zh",
    as_json: Json = False,
) -> None:
    """Layers, ledger and report for inspectors."""
    from tuban.configs.compose import settings
    from tuban.postprocess.export import export as work
    from tuban.postprocess.report import ReportSettings

    result = work(
        findings,
        fmt,
        out,
        lang=lang,
        profile=profile,
        clip=clip,
        precision_m=precision,
        geometry=geometry,
        pictures=pictures,
        report=settings("report", ReportSettings, overrides or []),
    )
    summary = {"path": str(result.path), "files": result.files, "rows": result.rows, "notes": result.notes}
    show(summary, [f"{result.rows} findings: {result.path}", *result.notes], as_json=as_json)
