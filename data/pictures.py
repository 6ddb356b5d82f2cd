"""The files of a data set: images as reflectance, labels as values, window by window."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from tuban.data.classes import class_by_name, classes
from tuban.data.crosswalk import crosswalk
from tuban.data.layout import BAND
from tuban.data.place import IGNORE
from tuban.errors import SceneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.windows import Window

    from tuban.data.layout import Role

UNKNOWN = -1
"""Value of a label pixel whose colour names no class."""

_SCALES = {"uint8": 1 / 255, "uint16": 1e-4, "int16": 1e-4, "float32": 1.0, "float64": 1.0}


@contextmanager
def open_file(path: Path) -> Iterator[rasterio.DatasetReader]:
    """Open an image or label; one without georeference is as good as any here.

    Raises:
        SceneError: it cannot be opened, or, inside the context, read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            source = rasterio.open(path)
        with source:
            yield source
    except RasterioError as error:
        raise SceneError(f"cannot read {path}: {error}; restore the file") from error


def scale_of(role: Role, dtype: str) -> float:
    """Return the factor from stored value to reflectance: what the role says, else that of the type.

    Raises:
        SceneError: the type has no usual scale.
    """
    if role.scale is not None:
        return role.scale
    if dtype not in _SCALES:
        raise SceneError(f"{role.path}: {dtype} values have no usual scale; give `scale` with the role {role.role}")
    return _SCALES[dtype]


def read_image(
    files: Mapping[str, Path], role: Role, have: Sequence[str], window: Window, names: Sequence[str]
) -> NDArray[np.float32]:
    """Read a window of an image as reflectance.

    Args:
        files: `{"": path}`, or band to path.
        role: scale and nodata.
        have: names of the file's bands, in order.
        window: inside the image.
        names: bands wanted, in order.

    Returns:
        `(bands, h, w)` float32, NaN where invalid and in a band that the file lacks.

    Raises:
        SceneError: a file cannot be read.
    """
    out = np.full((len(names), int(window.height), int(window.width)), np.nan, dtype=np.float32)
    valid = np.ones(out.shape[1:], dtype=bool)
    for key, path in files.items():
        own = [key] if f"{{{BAND}}}" in role.path else list(have)
        wanted = [name for name in names if name in own]
        if not wanted:
            continue
        with open_file(path) as source:
            stored, ok = _stored(source, window, [own.index(name) + 1 for name in wanted], role, len(own))
            scale = np.float32(scale_of(role, str(stored.dtype)))
        valid &= ok
        for name, layer in zip(wanted, stored, strict=True):
            out[names.index(name)] = layer.astype(np.float32) * scale
    out[:, ~valid] = np.nan
    return out


def _stored(
    source: rasterio.DatasetReader, window: Window, indexes: list[int], role: Role, described: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Stored values and validity; a picture with a palette gives its colours."""
    if source.count == 1 and described > 1 and _has_palette(source):
        colors = _colors(source, window)
        return colors[[index - 1 for index in indexes]], np.ones(colors.shape[1:], dtype=bool)
    if source.count < described:
        raise SceneError(f"{source.name}: has {source.count} bands, {described} are described; correct `bands`")
    stored = source.read(indexes, window=window)
    ok = np.isfinite(stored).all(axis=0)
    nodata = role.nodata if role.nodata is not None else source.nodata
    if nodata is not None and np.isfinite(nodata):
        ok &= ~(stored == np.asarray(nodata, dtype=np.float64)).all(axis=0)
    flags = source.mask_flag_enums[0]
    # Four bands of 8 bits are often stored as if the fourth were transparency; what is described is a band.
    if MaskFlags.per_dataset in flags and not (MaskFlags.alpha in flags and source.count == described):
        ok &= source.read_masks(1, window=window) > 0
    return stored, np.asarray(ok)


def read_values(path: Path, role: Role, window: Window) -> NDArray[np.int32]:
    """Read a window of a label: `(h, w)` values of band 1, or those that its colours stand for.

    Returns:
        Values int32, `UNKNOWN` where a colour names none; `nodata` of the file has no meaning of its own here.

    Raises:
        SceneError: the file cannot be read, or has no colours.
    """
    with open_file(path) as source:
        return values_in(source, role, window)


def values_in(source: rasterio.DatasetReader, role: Role, window: Window) -> NDArray[np.int32]:
    """Do the same with an open file."""
    if role.colors is None:
        return np.asarray(source.read(1, window=window), dtype=np.int32)
    if source.count < 3 and not _has_palette(source):
        raise SceneError(f"{source.name}: has {source.count} band and no palette, but `colors` are described")
    return values_of(_colors(source, window), role)


def values_of(colors: NDArray[np.uint8], role: Role) -> NDArray[np.int32]:
    """Return the value of each colour `(3, h, w)`: that of the nearest described one, if near enough."""
    table = {parse_color(text): value for text, value in (role.colors or {}).items()}
    packed = (colors[0].astype(np.int32) << 16) | (colors[1].astype(np.int32) << 8) | colors[2]
    found, where = np.unique(packed, return_inverse=True)
    triples = np.stack([found >> 16, (found >> 8) & 255, found & 255], axis=1)
    known = np.array(list(table), dtype=np.int32)
    distance = np.abs(triples[:, None] - known[None]).max(axis=2)
    nearest = distance.argmin(axis=1)
    values = np.array(list(table.values()), dtype=np.int32)[nearest]
    values[distance.min(axis=1) > role.color_tolerance] = UNKNOWN
    return np.asarray(values[where.reshape(packed.shape)])


def parse_color(text: str) -> tuple[int, int, int]:
    """Return red, green, blue of `#rrggbb`.

    Raises:
        UsageError: it is none.

    Example:
        >>> parse_color("#ff8000")
        (255, 128, 0)
    """
    digits = text.removeprefix("#")
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError:
        raise UsageError(f'{text!r} is no colour; write "#rrggbb", for instance "#ff0000"') from None
    return red, green, blue


def change_of(values: NDArray[np.int32], role: Role) -> NDArray[np.uint8]:
    """Return 0 unchanged, 1 changed, 255 unknown."""
    change = np.where(np.isin(values, role.unchanged), 0, 1).astype(np.uint8)
    change[np.isin(values, (*role.unknown, UNKNOWN))] = IGNORE
    return change


def cover_of(values: NDArray[np.int32], role: Role, wanted: Sequence[int]) -> NDArray[np.uint8]:
    """Return the index of each pixel's unified class in `wanted`, 255 for all others."""
    index = np.full(256, IGNORE, dtype=np.uint8)
    for position, value in enumerate(wanted):
        if value != 0:  # `ignore` is no class
            index[value] = position
    native = index[unified_table(role)]
    known = (values >= 0) & (values < 256) & ~np.isin(values, role.unknown)
    return np.where(known, native[np.where(known, values, 0)], IGNORE).astype(np.uint8)


def unified_table(role: Role) -> NDArray[np.uint8]:
    """Return the look-up table `(256,)` from a label's value to the unified class, 0 where it has none.

    Raises:
        UsageError: `classes` names a class or table that does not exist.
    """
    if isinstance(role.classes, str):
        return crosswalk(role.classes)
    table = np.zeros(256, dtype=np.uint8)
    for native, unified in (role.classes or {}).items():
        value = class_by_name(unified).value if isinstance(unified, str) else unified
        if value not in classes() or not 0 <= native < 256:
            raise UsageError(f"{role.path}: classes: {native}: {unified} is no unified class; see configs/classes.yaml")
        table[native] = value
    return table


def _has_palette(source: rasterio.DatasetReader) -> bool:
    try:
        source.colormap(1)
    except ValueError:
        return False
    return True


def _colors(source: rasterio.DatasetReader, window: Window) -> NDArray[np.uint8]:
    """Red, green and blue `(3, h, w)` uint8 of a picture, with or without a palette."""
    if source.count >= 3:
        return np.asarray(source.read([1, 2, 3], window=window), dtype=np.uint8)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for value, color in source.colormap(1).items():
        palette[value] = color[:3]
    return np.moveaxis(palette[source.read(1, window=window)], -1, 0)
