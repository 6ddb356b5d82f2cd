"""The command line, put together: one sub-application for each group of commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import tuban
from tuban.audit_cli import audit_app
from tuban.console import run, set_up_logging
from tuban.data_cli import data_app
from tuban.detect_cli import detect_app
from tuban.doctor_cli import doctor_app
from tuban.layers_cli import layers_app
from tuban.models_cli import models_app
from tuban.plan_cli import plan_app
from tuban.rules_cli import rules_app
from tuban.sample_cli import sample_app
from tuban.training_cli import training_app

app = typer.Typer(
    name="tuban",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Satellite and aerial imagery turned into evidence for protecting farmland.",
)
# The order is that of `tuban --help`. Groups without a name add their commands to the top level.
for group in (detect_app, layers_app, training_app, doctor_app):
    app.add_typer(group)
for name, group in (
    ("models", models_app),
    ("data", data_app),
    ("plan", plan_app),
    ("rules", rules_app),
    ("sample", sample_app),
    ("audit", audit_app),
):
    app.add_typer(group, name=name)


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


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(lambda: app(standalone_mode=True)))


if __name__ == "__main__":
    main()
