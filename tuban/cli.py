"""The command line: parses arguments, calls one function per command, prints its summary."""

from __future__ import annotations

import datetime as dt
import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import tuban
from tuban.console import progress_bar, run, set_up_logging, show
from tuban.errors import MissingExtraError, PartialError, TubanError, UsageError
from tuban.rules_cli import rules_app

app = typer.Typer(
    name="tuban",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Satellite and aerial imagery turned into evidence for protecting farmland.",
)
models_app = typer.Typer(no_args_is_help=True, help="Model bundles.")
data_app = typer.Typer(no_args_is_help=True, help="Public data sets.")
plan_app = typer.Typer(no_args_is_help=True, help="Plans: boundary layers with roles.")
audit_app = typer.Typer(no_args_is_help=True, help="Integrity of runs.")
for name, group in (
    ("models", models_app),
    ("data", data_app),
    ("plan", plan_app),
    ("rules", rules_app),
    ("audit", audit_app),
):
    app.add_typer(group, name=name)

Out = Annotated[Path, typer.Option("--out", help="Folder of the results.")]
Plan = Annotated[Path | None, typer.Option(help="plan.yaml, GeoPackage, File GDB or folder of Shapefiles.")]
Rules = Annotated[str, typer.Option(help="Rule pack: a name, or the path of a YAML file.")]
Model = Annotated[str | None, typer.Option(help="Bundle: a name, or a folder. Default: the installed one that fits.")]
Lang = Annotated[str, typer.Option(help="Language of report and styles: zh or en.")]
Backend = Annotated[
    str | None, typer.Option(help="auto (the fastest of those installed, measured), onnx, openvino or torch.")
]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Leave out what cannot be read; exit code 3.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides, key=value.", show_default=False)]


_MIN_AREA = (
    "Minimum mapping unit, m2: smaller polygons are flagged, or with below_min=merge joined to a neighbour. "
    "Per class: mmu=cn."
)
_SIMPLIFY = (
    "How far a border may move, metres; no polygon changes its area. Also: smooth=true, square_classes=[building]."
)


@app.callback(invoke_without_command=True)
def common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is being done.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Set up logging for every command."""
    set_up_logging(verbose=verbose)
    if version:
        sys.stdout.write(f"tuban {tuban.__version__}\n")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path("out/demo"),
    scene: Annotated[
        Path | None, typer.Option(help="Folder with before.tif, after.tif and perhaps change.tif.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Fetch a real pair through a public STAC API.")] = False,
    plan: Plan = None,
    model: Model = None,
    seed: Annotated[int, typer.Option(help="Seed of the built-in pair's spectra and noise.")] = 0,
    lang: Lang = "zh",
    as_json: Json = False,
) -> None:
    """The whole job on the built-in pair and plan, offline; says where to look."""
    from tuban.postprocess.demo import report_lines, run_demo

    with progress_bar() as progress:
        summary = run_demo(out, scene=scene, live=live, seed=seed, plan=plan, model=model, lang=lang, progress=progress)
    show(summary, report_lines(summary), as_json=as_json)


@app.command()
def detect(
    before: Annotated[str, typer.Argument(help="The earlier image.")],
    after: Annotated[str, typer.Argument(help="The later image.")],
    out: Out,
    overrides: Overrides = None,
    plan: Plan = None,
    rules: Rules = "cn",
    model: Model = None,
    aoi: Annotated[Path | None, typer.Option(help="Vector file: only its area is looked at.")] = None,
    date_before: Annotated[str | None, typer.Option(help="YYYY-MM-DD, where the image does not say.")] = None,
    date_after: Annotated[str | None, typer.Option(help="YYYY-MM-DD, where the image does not say.")] = None,
    backend: Backend = None,
    keep_going: KeepGoing = False,
    lang: Lang = "zh",
    as_json: Json = False,
) -> None:
    """Pair -> change map -> polygons -> findings -> layers and report."""
    from tuban.configs.compose import settings
    from tuban.postprocess.detect import detect as work
    from tuban.postprocess.settings import DetectSettings

    chosen = [*(overrides or []), *_inference(backend, keep_going=keep_going)]
    with progress_bar() as progress:
        record = work(
            before,
            after,
            out=out,
            plan=plan,
            rules=rules,
            model=model,
            aoi=aoi,
            date_before=date_before,
            date_after=date_after,
            lang=lang,
            settings=settings("detect", DetectSettings, chosen),
            progress=progress,
        )
    show(record, run_lines(record), as_json=as_json)
    _require_whole(record)


@app.command()
def landcover(
    image: Annotated[str, typer.Argument(help="The image.")],
    out: Out,
    overrides: Overrides = None,
    model: Model = None,
    date: Annotated[str | None, typer.Option(help="YYYY-MM-DD, where the image does not say.")] = None,
    backend: Backend = None,
    keep_going: KeepGoing = False,
    as_json: Json = False,
) -> None:
    """Scene -> land-cover map -> polygons."""
    from tuban.configs.compose import settings
    from tuban.postprocess.landcover import LandcoverSettings
    from tuban.postprocess.landcover import landcover as work

    chosen = settings("landcover", LandcoverSettings, [*(overrides or []), *_inference(backend, keep_going=keep_going)])
    with progress_bar() as progress:
        record = work(image, out=out, model=model, date=date, settings=chosen, progress=progress)
    areas = record["polygons"]["area_m2"]
    lines = [
        *(f"note ({note['stage']}): {note['text']}" for note in record["notes"]),
        *(f"  {name}: {area / 1e6:.2f} km2" for name, area in areas.items()),
        f"results: {record['out']}",
    ]
    show(record, lines, as_json=as_json)
    _require_whole(record)


@app.command()
def check(
    changes: Annotated[Path, typer.Argument(help="OGR file with from_class and to_class.")],
    plan: Annotated[Path, typer.Option(help="plan.yaml, GeoPackage, File GDB or folder of Shapefiles.")],
    out: Out,
    overrides: Overrides = None,
    rules: Rules = "cn",
    date: Annotated[str | None, typer.Option(help="YYYY-MM-DD: the day whose rules and permits count.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of CHANGES.")] = None,
    lang: Lang = "zh",
    as_json: Json = False,
) -> None:
    """Change polygons -> findings."""
    from tuban.configs.compose import settings
    from tuban.postprocess.detect import check as work
    from tuban.postprocess.settings import VectorCheckSettings

    chosen = settings("check", VectorCheckSettings, overrides or [])
    record = work(changes, plan=plan, out=out, rules=rules, date=_day(date), layer=layer, lang=lang, settings=chosen)
    show(record, run_lines(record), as_json=as_json)


@app.command()
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


@app.command()
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


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def train(context: typer.Context) -> None:
    """Train a model: a Hydra app (experiment=NAME key=value …, --multirun, --help)."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("lightning") is None:
        raise MissingExtraError("training needs torch and lightning; run: pip install 'tuban[train]'")
    from tuban.training.app import launch

    launch(context.args)


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="Bundle: a name, or a folder.")],
    data: Annotated[Path, typer.Option(help="Folder of places, each with before.tif, after.tif and change.tif.")],
    out: Out = Path("out/evaluation"),
    as_json: Json = False,
) -> None:
    """Pixel and object accuracy of a bundle on labelled places, with intervals."""
    from tuban.models.bundle import resolve
    from tuban.training.evaluate import evaluate as work
    from tuban.training.evaluate import lines

    with progress_bar() as progress:
        result = work(resolve(model), data, out, progress=progress)
    show(result, lines(result), as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is installed, which backends work, what is missing and how to get it."""
    from tuban.postprocess.doctor import diagnose, healthy

    checks = diagnose()
    lines = [
        f"{'ok ' if c.ok else 'NO ' if c.required else '-- '} {c.name}: {c.detail}"
        + (f" -> {c.remedy}" if c.remedy else "")
        for c in checks
    ]
    show({"healthy": healthy(checks), "checks": [c.row() for c in checks]}, lines, as_json=as_json)
    if not healthy(checks):
        raise TubanError("a required part is missing; the lines marked NO say what and how to get it")


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """The installed bundles."""
    from tuban.models.bundle import installed

    rows = [_bundle_facts(bundle) for bundle in installed()]
    lines = [
        f"{row['name']} {row['version']}: {', '.join(row['bands'])}; {row['gsd_m'][0]:g}–{row['gsd_m'][1]:g} m"
        for row in rows
    ]
    show({"models": rows}, lines, as_json=as_json)


@models_app.command("show")
def models_show(name: str, as_json: Json = False) -> None:
    """One bundle: its folder and its model card."""
    from tuban.models.bundle import resolve

    bundle = resolve(name)
    card = bundle.path / "MODEL_CARD.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"{bundle.name} has no MODEL_CARD.md"
    show(_bundle_facts(bundle), [str(bundle.path), "", text], as_json=as_json)


@models_app.command("export")
def models_export(
    run_folder: Annotated[Path, typer.Argument(help="Folder that `tuban train` wrote.", metavar="RUN")],
    crossval: Annotated[Path, typer.Option(help="crossval.json of the same settings, or its folder.")],
    card: Annotated[str, typer.Option(help="Release card: a name under configs/release, or a YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle.")],
    as_json: Json = False,
) -> None:
    """Make a bundle from a training run: safetensors, ONNX checked against torch, MLM, model card."""
    from tuban.training.release import release

    bundle = release(run_folder, crossval, out, card=card)
    show(_bundle_facts(bundle), [f"{bundle.model_id}: {bundle.path}"], as_json=as_json)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """What is known about each public data set."""
    from tuban.data.catalog import catalogue

    rows = catalogue()
    show({"datasets": rows}, [f"{row['id']}: {row['title']}" for row in rows], as_json=as_json)


@data_app.command("verify")
def data_verify(name: str, folder: Path, as_json: Json = False) -> None:
    """Whether the folder of a data set is intact."""
    from tuban.data.catalog import verify
    from tuban.data.dataset import dataset

    found = verify(dataset(name), folder)
    lines = [f"{fault.item} {fault.role}: {fault.problem} -> {fault.remedy}" for fault in found.faults]
    show(
        found.summary(),
        [*lines, f"{found.items} items, {found.files} files, {len(found.faults)} faults"],
        as_json=as_json,
    )
    if not found.ok:
        raise PartialError(f"{folder}: {len(found.faults)} faults in {found.items} items, listed above")


@data_app.command("stats")
def data_stats(name: str, folder: Path, as_json: Json = False) -> None:
    """What is in the folder of a data set: pixels, class balance, dates, extents."""
    from tuban.data.catalog import stats
    from tuban.data.dataset import dataset

    found = stats(dataset(name), folder)
    lines = [
        f"{len(found['items'])} items, {found['pixels']} pixels",
        *(f"{k}: {v}" for k, v in found["labels"].items()),
    ]
    show(found, lines, as_json=as_json)


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
    from tuban.data.plan import Plan as PlanModel
    from tuban.postprocess.plan_qa import PlanQASettings
    from tuban.postprocess.plan_qa_files import write_plan_qa

    chosen = settings("plan_qa", PlanQASettings, overrides or [])
    quality = write_plan_qa(PlanModel.load(plan), layer=out, table=table, settings=chosen, lang=lang)
    rows = [f"{row.severity} {row.layer} {row.feature}: {row.message}" for row in quality.problems.itertuples()]
    total = quality.summary["total"]
    closing = f"{total} problems" if len(rows) == total else f"{total} problems, the first {len(rows)} shown"
    show(quality.summary, [*rows, closing], as_json=as_json)


@audit_app.command("verify")
def audit_verify(path: Path, as_json: Json = False) -> None:
    """Recompute every hash of a run."""
    from tuban.postprocess.manifest import verify

    found = verify(path)
    rows = [{"kind": d.kind, "name": d.name, "detail": d.detail} for d in found.differences]
    lines = [f"{row['kind']} {row['name']}: {row['detail']}" for row in rows]
    show(
        {"ok": found.ok, "checked": found.checked, "differences": rows},
        [*lines, f"{found.checked} hashes checked"],
        as_json=as_json,
    )
    if not found.ok:
        raise TubanError(f"{path} is not as its run.json says: {len(rows)} differences, listed above")


def run_lines(record: dict[str, Any]) -> list[str]:
    """Return what a person should read of a run's record."""
    layers, notes = record["layers"], [f"note ({note['stage']}): {note['text']}" for note in record["notes"]]
    tally = record.get("check", {}).get("findings", {})
    return [
        *notes,
        f"{layers['changes']} changes, {layers['findings']} findings",
        *(f"  {name.replace(':', ' ')}: {count}" for name, count in sorted(tally.items())),
        f"results: {record['out']}",
    ]


def _inference(backend: str | None, *, keep_going: bool) -> list[str]:
    """Return the overrides that the options of inference stand for."""
    chosen = [f"inference.backend={backend}"] if backend else []
    return [*chosen, "inference.keep_going=true"] if keep_going else chosen


def _require_whole(record: dict[str, Any]) -> None:
    """End with exit code 3 where a part of the input could not be read; what could be is done."""
    if count := record["counts"]["damaged_blocks"]:
        named = "; ".join(
            f"row {block['row']}, column {block['col']}, {block['height']} × {block['width']} px: {block['reason']}"
            for block in record["inference"]["damage"][:10]
        )
        more = f"; and {count - 10} more in run.json" if count > 10 else ""
        raise PartialError(f"{count} blocks could not be read and hold no result: {named}{more}")


def _bundle_facts(bundle: Any) -> dict[str, Any]:
    fields = ("name", "version", "bands", "required_bands", "gsd_m", "classes", "threshold", "metrics")
    facts = bundle.model_dump(mode="json", by_alias=False)
    return {"path": str(bundle.path), "id": bundle.model_id, **{field: facts[field] for field in fields}}


def _day(text: str | None) -> dt.date | None:
    try:
        return None if text is None else dt.date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no date; give YYYY-MM-DD") from error


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(lambda: app(standalone_mode=True)))


if __name__ == "__main__":
    main()
