"""`tuban audit`: a run compared with the hashes in its record."""

from __future__ import annotations

from pathlib import Path

import typer

from tuban.console import show
from tuban.errors import TubanError
from tuban.options import Json

audit_app = typer.Typer(no_args_is_help=True, help="Integrity of runs.")


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
