"""SHA-256 of inputs and outputs: a file with its sidecars, or a folder."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from tuban.errors import UsageError

# What belongs to a file but stands beside it: a changed .prj or .aux.xml changes what is read.
_SHAPEFILE = (".shx", ".dbf", ".prj", ".cpg", ".qix", ".sbn", ".sbx")
_RASTER = (".tfw", ".tifw", ".jgw", ".pgw", ".wld")
_APPENDED = (".aux.xml", ".msk", ".ovr", "-wal")
_ARCHIVE = re.compile(
    r"^/vsi(zip|tar|gzip|7z|rar)/\{?(?P<file>.+?\.(zip|kmz|tar|tgz|gz|7z|rar))\}?(/.*)?$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The hash of an input.

    Attributes:
        path: what was hashed; for a member of an archive, the archive.
        sha256: of the one file, or of the sorted list of file names and their hashes.
        size: bytes of all files.
        files: how many files went into it.
    """

    path: str
    sha256: str
    size: int
    files: int

    def as_dict(self) -> dict[str, Any]:
        """Return the part that `run.json` holds."""
        return {"sha256": self.sha256, "size": self.size, "files": self.files}


def fingerprint(path: str, *, sidecars: bool = True) -> Fingerprint:
    """Hash a local file or folder.

    A lone file's hash is that of its bytes, as `sha256sum` gives it. With sidecars (the parts of a Shapefile, world
    files, masks, the sources of a VRT) or for a folder, it is the hash of the lines `<sha256>  <name>` sorted by name.

    Args:
        path: a file, a folder, or a member of an archive (`/vsizip/…`).
        sidecars: whether what stands beside the file belongs to it.

    Raises:
        UsageError: there is nothing at `path`, or it cannot be read.
    """
    archive = _ARCHIVE.match(path)
    root = Path(archive["file"] if archive else path)
    if not root.exists():
        raise UsageError(f"cannot hash {path}: there is no such file; check the path")
    try:
        if root.is_file():
            files = [root, *(_beside(root) if sidecars else [])]
            if len(files) == 1:
                return Fingerprint(str(root), _hash(root), root.stat().st_size, 1)
            base = root.parent
        else:
            files = [file for file in root.rglob("*") if file.is_file() and file.suffix != ".lock"]
            base = root
        names = sorted((_name(file, base), file) for file in set(files))
        lines = "".join(f"{_hash(file)}  {name}\n" for name, file in names)
        size = sum(file.stat().st_size for _, file in names)
    except OSError as error:
        raise UsageError(f"cannot hash {path}: {error.strerror or error}; make it readable") from error
    return Fingerprint(str(root), hashlib.sha256(lines.encode()).hexdigest(), size, len(names))


def _beside(file: Path) -> list[Path]:
    found = [file.with_name(file.name + suffix) for suffix in _APPENDED]
    suffix = file.suffix.lower()
    if suffix == ".shp":
        stem = file.stem.lower()
        parts = (other for other in file.parent.iterdir() if other.stem.lower() == stem)
        found += [other for other in parts if other.suffix.lower() in _SHAPEFILE]
    elif suffix == ".vrt":
        found += _sources(file)
    else:
        found += [file.with_suffix(other) for other in _RASTER]
    return [other for other in found if other.is_file() and other.resolve() != file.resolve()]


def _sources(file: Path) -> list[Path]:
    """Return the local files a VRT refers to; an unreadable VRT has none, and opening it as a scene says why."""
    try:
        with rasterio.open(file) as dataset:
            return [Path(name) for name in dataset.files]
    except RasterioError:
        return []


def _name(file: Path, base: Path) -> str:
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else file.name


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
