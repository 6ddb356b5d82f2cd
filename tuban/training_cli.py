"""`tuban train` and `evaluate`: models fitted and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuban.console import progress_bar, show
from tuban.options import Json, Out, require_train

training_app = typer.Typer()


@training_app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def train(context: typer.Context) -> None:
    """Train a model: a Hydra app (experiment=NAME key=value …, --multirun, --help)."""
    require_train("training", "torch", "lightning")
    from tuban.training.app import launch

    launch(context.args)


@training_app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="Bundle: a name, or a folder.")],
    data: Annotated[Path, typer.Option(help="Folder of a data set, public or your own (docs/datasets.md).")],
    out: Out = Path("out/evaluation"),
    dataset: Annotated[
        str | None, typer.Option(help="Name or YAML file of the data set, where the folder does not tell.")
    ] = None,
    place: Annotated[list[str] | None, typer.Option(help="Only this place of DATA; repeat.")] = None,
    precision: Annotated[
        float | None, typer.Option(help="Also choose the threshold for this precision, on other places.")
    ] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also with shift, gain, haze, season and offset injected.")
    ] = False,
    seed_model: Annotated[
        list[str] | None, typer.Option(help="Bundle of the same training from another seed; repeat.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pixel and object accuracy of a bundle on labelled places, with intervals and a report."""
    require_train("an evaluation", "torch")
    from tuban.models.bundle import resolve
    from tuban.training.evaluate import evaluate as work
    from tuban.training.evaluate import lines
    from tuban.training.perturbation import CURVES

    with progress_bar() as progress:
        result = work(
            resolve(model),
            data,
            out,
            dataset=dataset,
            progress=progress,
            places=place,
            precision=precision,
            perturbations=CURVES if robustness else (),
            seeds=[resolve(other, task="change") for other in seed_model or []],
        )
    show(result, lines(result), as_json=as_json)
