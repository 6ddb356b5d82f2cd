"""What an opened file, its sidecar and its STAC item say together: bands, scaling, nodata, date, sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rasterio.enums import ColorInterp

from tuban.data.bands import Band, canonical_name, implied_sensor, product_scale, sensor_key
from tuban.data.mask_files import MaskRef, mask_band, sibling_mask, sidecar_mask
from tuban.data.metadata import (
    DateFound,
    Sidecar,
    add_offsets,
    parse_date,
    read_sidecar,
    sensor_words,
    sidecar_date,
    tag_date,
)
from tuban.errors import SceneError, UsageError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from tuban.data.remote import RemoteSettings
    from tuban.data.stac import StacScene

_COLORS = {
    ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue",
    getattr(ColorInterp, "nir", None): "nir",  # rasterio 1.5 names it
}  # fmt: skip
# Orders that cameras and orthophotos commonly have; taken only for 8-bit files that say nothing, and noted.
_GUESSES = {3: ("B04", "B03", "B02"), 4: ("B04", "B03", "B02", "B08")}


@dataclass(frozen=True, slots=True)
class Description:
    """Metadata of a scene; the fields are those of `tuban.data.scene.Scene`."""

    bands: tuple[Band, ...]
    nodata: float | None
    nodata_in_all: bool
    date: dt.date | None
    date_source: str
    sensor: str
    radiometry: Literal["reflectance", "dn"]
    float_without_scale: bool
    eight_bit: bool
    notes: tuple[str, ...]
    mask: MaskRef | None


def describe(
    path: str, dataset: Any, *, item: StacScene | None, date: str | dt.date | None, remote: RemoteSettings
) -> Description:
    """Gather what is known about an open rasterio dataset.

    Raises:
        SceneError: the sidecar or the file's metadata contradict the image or cannot be read.
        UsageError: `date` is not a date.
    """
    notes: list[str] = list(item.notes) if item else []
    sidecar, sidecar_path, sidecar_notes = (None, None, ()) if item else read_sidecar(path, remote)
    notes += sidecar_notes
    tags = _all_tags(dataset)
    found = _date(path, date, sidecar, sidecar_path, item, tags)
    if found.note:
        notes.append(found.note)
    indexes = [i for i, color in enumerate(dataset.colorinterp, start=1) if color != ColorInterp.alpha]
    said = _names_said(path, dataset, indexes, sidecar, item)
    mask, said, indexes = _mask(path, item, sidecar, said, indexes)
    dtypes = {dataset.dtypes[i - 1] for i in indexes}
    if not indexes or any(np.dtype(kind).kind == "c" for kind in dtypes):
        raise SceneError(f"{path}: holds no real-valued image band ({', '.join(dataset.dtypes)}); give an image")
    words = [
        w for w in ((sidecar.sensor if sidecar else None), (item.sensor if item else None), *sensor_words(tags)) if w
    ]
    key = sensor_key(words) or implied_sensor(said)
    names = _roles(said, key, dataset, indexes, notes)
    bands, scaled = _scaled(
        path, dataset, names, indexes, sidecar=sidecar, item=item, key=key, said=said, tags=tags, notes=notes
    )
    floating = all(np.dtype(kind).kind == "f" for kind in dtypes)
    if not scaled and not floating:
        notes.append(
            f"no scale is known for {'/'.join(sorted(dtypes))} values: taken as digital numbers, not reflectance"
        )
    nodata = sidecar.nodata if sidecar and sidecar.nodata is not None else dataset.nodatavals[indexes[0] - 1]
    in_all = dtypes == {"uint8"} and nodata is not None
    if in_all:
        notes.append(f"8-bit nodata {nodata:g}: a pixel is nodata where every band holds it")
    return Description(
        bands=bands,
        nodata=None if nodata is None else float(nodata),
        nodata_in_all=in_all,
        date=found.date,
        date_source=found.source,
        sensor=words[0] if words else (key or ""),
        radiometry="reflectance" if scaled or floating else "dn",
        float_without_scale=floating and not scaled,
        eight_bit=dtypes == {"uint8"},
        notes=tuple(notes),
        mask=mask,
    )


def _all_tags(dataset: Any) -> dict[str, str]:
    """Tags of the default domain and of GDAL's imagery metadata; acquisition tags win over general ones."""
    tags = dict(dataset.tags())
    tags.update(dataset.tags(ns="IMAGERY"))
    return tags


def _date(
    path: str,
    option: str | dt.date | None,
    sidecar: Sidecar | None,
    sidecar_path: Any,
    item: StacScene | None,
    tags: dict[str, str],
) -> DateFound:
    """The first that is known: option, scene.json, STAC item, tags."""
    if option is not None:
        try:
            return DateFound(parse_date(option, "date given"), "option")
        except SceneError as error:
            raise UsageError(str(error)) from None
    if sidecar is not None:
        found = sidecar_date(sidecar, path, sidecar_path)
        if found.date:
            return found
    if item is not None and item.date is not None:
        return DateFound(item.date, "STAC item")
    return tag_date(tags)


def _names_said(
    path: str, dataset: Any, indexes: list[int], sidecar: Sidecar | None, item: StacScene | None
) -> list[str | None]:
    """What scene.json, the STAC item or the file call each band."""
    listed: Sequence[str] | None = item.names if item else (sidecar.bands if sidecar else None)
    if listed is None:
        return [dataset.descriptions[i - 1] for i in indexes]
    if len(listed) != len(indexes):
        raise SceneError(
            f"{path}: has {len(indexes)} bands but scene.json names {len(listed)}; correct `bands` in scene.json"
        )
    return list(listed)


def _mask(
    path: str,
    item: StacScene | None,
    sidecar: Sidecar | None,
    said: list[str | None],
    indexes: list[int],
) -> tuple[MaskRef | None, list[str | None], list[int]]:
    """The scene's cloud mask, the surest first: scene.json, STAC item, a band, a file beside; and the other bands."""
    ref = sidecar_mask(sidecar, path) if sidecar else None
    ref = ref or (item.mask if item else None)
    band = mask_band(said) if item is None else None
    if band is not None:
        position, kind = band
        ref = ref or MaskRef(path, kind, f"band {indexes[position]} of the image", band=indexes[position])
        said = said[:position] + said[position + 1 :]
        indexes = indexes[:position] + indexes[position + 1 :]
    return ref or (sibling_mask(path) if item is None else None), said, indexes


def _roles(said: list[str | None], key: str | None, dataset: Any, indexes: list[int], notes: list[str]) -> list[str]:
    """A name for each band: canonical where the role is known, the file's own otherwise; each name once."""
    roles = [canonical_name(text, key) for text in said]
    if not any(roles):
        roles = [_COLORS.get(dataset.colorinterp[i - 1]) for i in indexes]
        roles = [canonical_name(color, None) for color in roles]
        eight_bit = {dataset.dtypes[i - 1] for i in indexes} == {"uint8"}
        if eight_bit and len(indexes) in _GUESSES and sum(role is not None for role in roles) < len(indexes):
            roles = list(_GUESSES[len(indexes)])
            notes.append(
                f"bands are not named: {len(indexes)} 8-bit bands taken as {' '.join(map(str, roles))}; "
                "name them in scene.json"
            )
        elif any(roles):
            notes.append(
                "bands are not named: roles taken from the colour interpretation; name them in scene.json if wrong"
            )
        else:
            notes.append('band roles are unknown; name the bands in scene.json, for instance "bands": ["B02", ...]')
    names: list[str] = []
    for index, role, text in zip(indexes, roles, said, strict=True):
        name = role if role is not None and role not in names else (text or f"band{index}")
        if role is not None and role in names:
            notes.append(f"band {index} ({text}) also reads as {role}; the first is used")
            name = f"band{index}"
        names.append(name)
    return names


def _scaled(
    path: str, dataset: Any, names: list[str], indexes: list[int], *, sidecar: Sidecar | None, item: StacScene | None,
    key: str | None, said: list[str | None], tags: dict[str, str], notes: list[str],
) -> tuple[tuple[Band, ...], bool]:  # fmt: skip
    """Scale and offset of each band, from the surest source; whether the scale is known at all."""
    count = len(indexes)
    scales = [float(dataset.scales[i - 1]) for i in indexes]
    offsets = [float(dataset.offsets[i - 1]) for i in indexes]
    known = any(scale != 1 for scale in scales) or any(offsets)
    if sidecar is not None and (sidecar.scale is not None or sidecar.offset is not None):
        scales = _per_band(path, "scale", sidecar.scale, scales)
        offsets = _per_band(path, "offset", sidecar.offset, offsets)
        known = known or sidecar.scale is not None
    elif item is not None and item.scales is not None:
        scales, offsets, known = list(item.scales), list(item.offsets), True
    elif not known:
        product = product_scale(key, said, dataset.dtypes[indexes[0] - 1])
        if product is not None:
            scales, offsets, known = [product[0]] * count, [product[1]] * count, True
            notes.append(f"no scale in the metadata: {key} products define {product[0]:g}, offset {product[1]:g}")
    if not any(offsets) and (sidecar is None or sidecar.offset is None) and item is None:
        added = add_offsets(tags, names)
        if added:
            offsets = [added.get(name, 0.0) * scale for name, scale in zip(names, scales, strict=True)]
            notes.append(f"additive offset {min(added.values()):g} of the Sentinel-2 metadata applied")
    if not all(math.isfinite(s) and s != 0 and math.isfinite(o) for s, o in zip(scales, offsets, strict=True)):
        raise SceneError(
            f"{path}: scale {scales} and offset {offsets} must be finite and the scale not 0; correct the metadata"
        )
    if any(abs(o) >= 1 and abs(s) <= 0.01 for s, o in zip(scales, offsets, strict=True)):
        raise SceneError(
            f"{path}: offset {offsets[0]:g} with scale {scales[0]:g} looks like stored units; "
            f"write it in the unit of the result, here {offsets[0] * scales[0]:g}"
        )
    parts = zip(names, indexes, scales, offsets, strict=True)
    return tuple(Band(name, index, scale, offset) for name, index, scale, offset in parts), known


def _per_band(path: str, what: str, value: float | tuple[float, ...] | None, default: list[float]) -> list[float]:
    """Spread one number over all bands, or check that there is one for each."""
    if value is None:
        return default
    if isinstance(value, float | int):
        return [float(value)] * len(default)
    if len(value) != len(default):
        raise SceneError(
            f"{path}: scene.json gives {len(value)} values of `{what}` for {len(default)} bands; give one or one each"
        )
    return list(value)
