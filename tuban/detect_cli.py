"""`tuban demo`, `detect`, `landcover` and `check`: imagery or change polygons to findings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tuban.console import progress_bar, show
from tuban.options import (
    Backend,
    History,
    Json,
    KeepGoing,
    Lang,
    Model,
    Out,
    Overrides,
    Plan,
    Rules,
    day,
    inference_overrides,
    require_whole,
    with_history,
)

detect_app = typer.Typer()


@detect_app.command()
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


@detect_app.command()
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
    history: History = None,
    backend: Backend = None,
    keep_going: KeepGoing = False,
    lang: Lang = "zh",
    as_json: Json = False,
) -> None:
    """Pair -> change map -> polygons -> findings -> layers and report."""
    from tuban.configs.compose import settings
    from tuban.postprocess.detect import detect as work
    from tuban.postprocess.settings import DetectSettings

    given = [*(overrides or []), *inference_overrides(backend, keep_going=keep_going)]
    chosen = with_history(settings("detect", DetectSettings, given), history)
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
            settings=chosen,
            progress=progress,
        )
    show(record, _run_lines(record), as_json=as_json)
    require_whole(record)


@detect_app.command()
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

    chosen = settings(
        "landcover", LandcoverSettings, [*(overrides or []), *inference_overrides(backend, keep_going=keep_going)]
    )
    with progress_bar() as progress:
        record = work(image, out=out, model=model, date=date, settings=chosen, progress=progress)
    areas = record["polygons"]["area_m2"]
    lines = [
        *(f"note ({note['stage']}): {note['text']}" for note in record["notes"]),
        *(f"  {name}: {area / 1e6:.2f} km2" for name, area in areas.items()),
        f"results: {record['out']}",
    ]
    show(record, lines, as_json=as_json)
    require_whole(record)


@detect_app.command()
def check(
    changes: Annotated[Path, typer.Argument(help="OGR file with from_class and to_class.")],
    plan: Annotated[Path, typer.Option(help="plan.yaml, GeoPackage, File GDB or folder of Shapefiles.")],
    out: Out,
    overrides: Overrides = None,
    rules: Rules = "cn",
    date: Annotated[str | None, typer.Option(help="YYYY-MM-DD: the day whose rules and permits count.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of CHANGES.")] = None,
    history: History = None,
    lang: Lang = "zh",
    as_json: Json = False,
) -> None:
    """Change polygons -> findings."""
    from tuban.configs.compose import settings
    from tuban.postprocess.vector_check import VectorCheckSettings
    from tuban.postprocess.vector_check import check as work

    chosen = with_history(settings("check", VectorCheckSettings, overrides or []), history)
    record = work(changes, plan=plan, out=out, rules=rules, date=day(date), layer=layer, lang=lang, settings=chosen)
    show(record, _run_lines(record), as_json=as_json)


def _run_lines(record: dict[str, Any]) -> list[str]:
    """Return what a person should read of a run's record."""
    layers, notes = record["layers"], [f"note ({note['stage']}): {note['text']}" for note in record["notes"]]
    tally = record.get("check", {}).get("findings", {})
    unjudged = record.get("unjudged", {}).get("by_cause_m2", {})
    hidden = ", ".join(f"{cause.replace('_', ' ')} {area / 1e6:.2f} km2" for cause, area in unjudged.items())
    return [
        *notes,
        f"{layers['changes']} changes, {layers['findings']} findings",
        *(f"  {name.replace(':', ' ')}: {count}" for name, count in sorted(tally.items())),
        *([f"not judged (layer unseen): {hidden}"] if hidden else []),
        f"results: {record['out']}",
    ]
