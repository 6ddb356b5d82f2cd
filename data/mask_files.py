"""Where a scene's cloud mask is: a band of the image, `scene.json`, a STAC asset, or a file beside the image."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tuban.data.address import gdal_path, is_remote, joined
from tuban.data.mask_kinds import Kind, kind_named, mask_table
from tuban.data.metadata import image_stem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tuban.data.metadata import Sidecar

_EXTENSIONS = (".tif", ".tiff", ".jp2")


@dataclass(frozen=True, slots=True)
class MaskRef:
    """A cloud mask that has been found but not opened.

    Attributes:
        path: path or URL, secrets included.
        kind: what its values mean; None where only opening it can tell.
        band: the band that holds it, from 1; None where the file is the mask.
        found: how it was found, for notes and `run.json`.
        notes: what was guessed when it was made or found.
        made: whether this run made it; such a file needs no leave to be read.
    """

    path: str = field(repr=False)
    kind: Kind | None
    found: str
    band: int | None = None
    notes: tuple[str, ...] = ()
    made: bool = False


def mask_band(descriptions: Sequence[str | None]) -> tuple[int, Kind] | None:
    """Return the position, from 0, and kind of the first band whose description names a mask of a single band."""
    for position, text in enumerate(descriptions):
        kind = kind_named(text)
        if kind is not None and mask_table().kinds[kind].bands == 1:
            return position, kind
    return None


def sidecar_mask(sidecar: Sidecar, image: str) -> MaskRef | None:
    """Return the mask that `scene.json` gives for this image: one for all, or by the image's stem."""
    given = sidecar.mask
    if isinstance(given, dict):
        given = {stem.casefold(): name for stem, name in given.items()}.get(image_stem(image))
    if given is None:
        return None
    linked = is_remote(image) or is_remote(given)
    path = joined(image, given) if linked else str(Path(gdal_path(image)).parent / given)
    return MaskRef(path, sidecar.mask_kind, "scene.json")


def sibling_mask(image: str) -> MaskRef | None:
    """Return the mask that lies beside a local image by its product's naming convention, or None.

    Names are compared without regard to case; the image itself is never its own mask.
    """
    path = Path(gdal_path(image))
    if is_remote(image) or not path.is_file():
        return None
    listings: dict[Path, dict[str, Path]] = {}
    for kind, folder, stem in _candidates(path):
        if folder not in listings:
            listings[folder] = _listing(folder)
        for extension in _EXTENSIONS:
            found = listings[folder].get(f"{stem}{extension}".casefold())
            if found is not None and not found.samefile(path):
                return MaskRef(str(found), kind, f"file {found.name} beside the image")
    return None


def _candidates(path: Path) -> Iterator[tuple[Kind, Path, str]]:
    """Yield kind, folder and stem of every name a mask of this image may have, the surest first."""
    for name, kind in mask_table().kinds.items():
        for convention in kind.siblings:
            match = re.fullmatch(convention.image, path.stem, re.IGNORECASE)
            if match is None:
                continue
            for folder in convention.folders:
                for template in convention.mask:
                    yield name, path.parent / folder, template.format(match[0], *match.groups())


def _listing(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by their names in lower case, `{}` where it is not there or may not be listed."""
    try:
        return {entry.name.casefold(): entry for entry in sorted(folder.iterdir())}
    except OSError:
        return {}  # a folder that a product would have and this one has not
