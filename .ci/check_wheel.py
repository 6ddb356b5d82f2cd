"""Checks a built wheel: its only top level is `tuban`, and its files equal the tree's, byte for byte."""

# ruff: noqa: INP001 - a script, not a module of a package
from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

FOLDERS = ("configs", "data", "models", "training", "inference", "postprocess")


def expected(root: Path) -> dict[str, Path]:
    """Return the files that git tracks and the wheel must hold, by their name in the wheel."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    files = {}
    for name in filter(None, listed.split("\0")):
        top = name.split("/", 1)[0]
        path = root / name
        if path.is_symlink():  # the links in tuban/ are for editors
            continue
        if top in FOLDERS:
            files[f"tuban/{name}"] = path
        elif top == "tuban":
            files[name] = path
    return files


def faults(wheel: Path, root: Path) -> list[str]:
    """Return what is wrong with the wheel, one line each."""
    want, found = expected(root), []
    with zipfile.ZipFile(wheel) as archive:
        have = {name for name in archive.namelist() if not name.endswith("/")}
        tops = {name.split("/", 1)[0] for name in have}
        packed = {name for name in have if not name.split("/", 1)[0].endswith(".dist-info")}
        found += [f"top level {top!r}" for top in tops if top != "tuban" and not top.endswith(".dist-info")]
        found += [f"missing from the wheel: {name}" for name in sorted(want.keys() - packed)]
        found += [f"not tracked in the tree: {name}" for name in sorted(packed - want.keys())]
        found += [
            f"differs from the tree: {name}"
            for name in sorted(packed & want.keys())
            if archive.read(name) != want[name].read_bytes()
        ]
    return found


if __name__ == "__main__":
    problems = faults(Path(sys.argv[1]), Path(__file__).parents[1])
    sys.stdout.write("\n".join(problems) + "\n" if problems else f"{sys.argv[1]}: equals the tree\n")
    sys.exit(bool(problems))
