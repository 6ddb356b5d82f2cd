"""Where an export goes: the name of its file, and how files get their names once they are complete."""

from __future__ import annotations

from pathlib import Path

from tuban.errors import UsageError
from tuban.postprocess.formats import SUFFIXES
from tuban.postprocess.postgis import SCHEMES, parse_target


def target_of(out: str | Path, fmt: str) -> Path:
    """Return the file that `--out` means for a format: itself, with the suffix added, or `findings` in a folder.

    Raises:
        UsageError: it is the address of a database, or has the suffix of another format.
    """
    if str(out).startswith(tuple(f"{scheme}:" for scheme in SCHEMES)):
        raise UsageError(f"{parse_target(str(out)).shown} is a database; use --format postgis")
    out, suffix = Path(out), SUFFIXES[fmt]
    if out.is_dir() and out.suffix.lower() != ".gdb":
        return out / f"findings{suffix}"
    if out.suffix.lower() == suffix or (fmt == "geojson" and out.suffix.lower() == ".json"):
        return out
    if out.suffix:
        raise UsageError(f"--out {out} does not end in {suffix}, as {fmt} needs; rename it or give a folder")
    return out.with_name(out.name + suffix)


def place(folder: Path, draft: Path, target: Path) -> tuple[Path, ...]:
    """Give every finished file its final name, the one people open last; return that one first."""
    parts = sorted(folder.iterdir(), key=lambda part: (part == draft, part.name))
    placed = []
    for part in parts:
        final = target.parent / part.name
        if final.is_dir():
            # A folder cannot be replaced in one step: the old one steps aside into the temporary folder.
            final.replace(folder / f"{part.name}.old")
        part.replace(final)
        placed.append(final)
    # A Shapefile that was split has no file of the target's own name.
    first = target if target in placed else next(part for part in placed if part.suffix == target.suffix)
    return (first, *(part for part in placed if part != first))
