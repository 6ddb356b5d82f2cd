"""`tuban sample`: a map assessed by points that a person interprets, from the plan to the estimate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuban.console import show
from tuban.errors import UsageError
from tuban.options import Json

if TYPE_CHECKING:
    from collections.abc import Mapping

sample_app = typer.Typer(no_args_is_help=True, help="Accuracy and areas of a map from interpreted points.")

Raster = Annotated[Path, typer.Argument(help="Class raster: land cover, or a change map.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", help="VALUE=NAME of a class; repeat. Default: the unified classes, or those of change.tif."),
]


@sample_app.command("plan")
def sample_plan(
    raster: Raster,
    out: Annotated[Path, typer.Option("--out", help="JSON file of the plan.")],
    standard_error: Annotated[float, typer.Option(help="Aim for the overall accuracy, a share.")] = 0.01,
    total: Annotated[int | None, typer.Option(help="Points in all; default: what the standard error needs.")] = None,
    allocation: Annotated[str, typer.Option(help="minimum, proportional, optimal or equal.")] = "minimum",
    minimum: Annotated[int, typer.Option(help="Fewest points of a stratum.")] = 50,
    expect: Annotated[
        list[str] | None, typer.Option(help="CLASS=SHARE: user's accuracy expected of a class; repeat.")
    ] = None,
    default: Annotated[float, typer.Option("--expect-default", help="The same for the other classes.")] = 0.9,
    name: Names = None,
    nodata: Annotated[int | None, typer.Option(help="Value that is no class; default: the raster's own.")] = None,
    as_json: Json = False,
) -> None:
    """How many points each class needs."""
    from tuban.training.sample_plan import plan

    made = plan(
        raster,
        out,
        standard_error=standard_error,
        total=total,
        allocation=allocation,
        minimum=minimum,
        expected={key: _share(value) for key, value in _pairs(expect).items()},
        default=default,
        names=_values(name),
        nodata=nodata,
    )
    lines = [
        f"{s['name']}: {s['area_m2'] / 1e6:.2f} km2, {s['points']} points, "
        f"standard error of its user's accuracy {made['expected_errors']['users'][s['name']]:.3f}"
        for s in made["strata"]
    ]
    closing = (
        f"{made['points']} points, standard error of the overall accuracy {made['expected_errors']['overall']:.4f}"
    )
    show(made, [*lines, closing, f"plan: {out}"], as_json=as_json)


@sample_app.command("draw")
def sample_draw(
    plan: Annotated[Path, typer.Argument(help="JSON file that `tuban sample plan` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="GeoPackage for the interpreter; an existing one is kept.")],
    raster: Annotated[Path | None, typer.Option(help="The class raster, where it was moved since.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw: equal seeds give equal points.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw the pixels of a plan; the interpreter fills in the field `reference`."""
    from tuban.training.sample_plan import read_plan
    from tuban.training.sample_points import FILL_IN, draw

    source, strata = read_plan(plan)
    points = draw(raster or source, strata, out, seed=seed)
    lines = [f"{points} pixels: {out}", f"to be filled in, layer samples: {', '.join(FILL_IN)}"]
    show({"points": points, "path": str(out), "seed": seed, "fields": list(FILL_IN)}, lines, as_json=as_json)


@sample_app.command("estimate")
def sample_estimate(
    samples: Annotated[Path, typer.Argument(help="The GeoPackage, filled in.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of estimate.json and estimate.md.")] = Path("out/estimate"),
    mapped: Annotated[
        Path | None, typer.Option("--map", help="Another map of the place, judged by the same points.")
    ] = None,
    level: Annotated[float, typer.Option(help="Confidence of the intervals.")] = 0.95,
    name: Names = None,
    as_json: Json = False,
) -> None:
    """Accuracy and area of every class with intervals, from the interpreted points."""
    from tuban.training.sample_plan import estimate_lines, write_estimate

    result = write_estimate(samples, out, mapped=mapped, names=_values(name), level=level)
    show(result, [*estimate_lines(result), f"results: {out}"], as_json=as_json)


def _pairs(texts: list[str] | None) -> Mapping[str, str]:
    """Return what KEY=VALUE options say."""
    pairs = [text.partition("=") for text in texts or []]
    if wrong := ["".join(pair) for pair in pairs if not pair[1] or not pair[0]]:
        raise UsageError(f"{wrong[0]!r} is no KEY=VALUE")
    return {key: value for key, _, value in pairs}


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no share; give a number from 0 to 1") from error


def _values(texts: list[str] | None) -> dict[int, str] | None:
    found: dict[int, Any] = {}
    for key, value in _pairs(texts).items():
        if not key.isdecimal():
            raise UsageError(f"{key!r} is no class value; give VALUE=NAME with a whole number")
        found[int(key)] = value
    return found or None
