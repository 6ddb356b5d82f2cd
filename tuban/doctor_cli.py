"""`tuban doctor`: the state of this machine."""

from __future__ import annotations

import typer

from tuban.console import show
from tuban.errors import TubanError
from tuban.options import Json

doctor_app = typer.Typer()


@doctor_app.command()
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
