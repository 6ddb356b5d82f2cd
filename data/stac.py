"""A STAC item as a scene: its assets become the bands of one virtual raster."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin
from urllib.request import url2pathname
from xml.sax.saxutils import escape

from tuban.data.address import gdal_path, is_remote, joined
from tuban.data.bands import canonical_name, sensor_key, sensor_table
from tuban.data.fetch import fetch_text
from tuban.data.mask_files import MaskRef
from tuban.data.mask_kinds import kind_named
from tuban.data.metadata import parse_date
from tuban.data.remote import RemoteSettings
from tuban.data.source import Source
from tuban.errors import ForbiddenAddressError, SceneError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping

# GDAL's names of the data types that rasterio reports.
_GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "float32": "Float32", "float64": "Float64",
}  # fmt: skip
# An item of a STAC API has no suffix: …/collections/<id>/items/<id>.
_API_ITEM = re.compile(r"^https?://.*/collections/[^/]+/items/[^/]+$", re.IGNORECASE)
_OFFSET_FLAG = "earthsearch:boa_offset_applied"


@dataclass(frozen=True, slots=True)
class StacScene:
    """What a STAC item says: `source` is the XML of the virtual raster; scales are None where the item has none."""

    source: str
    names: tuple[str, ...]
    scales: tuple[float, ...] | None
    offsets: tuple[float, ...]
    date: dt.date | None
    sensor: str | None
    notes: tuple[str, ...]
    mask: MaskRef | None = None


@dataclass(frozen=True, slots=True)
class _AssetBand:
    name: str
    href: str
    index: int
    scale: float | None
    offset: float | None
    nodata: float | None


def is_item(uri: str) -> bool:
    """Tell by its name whether an input is the JSON of a STAC item; a query of a URL does not count.

    Example:
        >>> is_item("https://example.org/items/S2A.json?token=1"), is_item("before.tif")
        (True, False)
    """
    name = re.split(r"[?#]", uri, maxsplit=1)[0] if is_remote(uri) else uri
    return name.casefold().endswith((".json", ".geojson")) or bool(_API_ITEM.search(name))


def read_item(path: str, remote: RemoteSettings | None = None) -> StacScene:
    """Read the JSON of a STAC item (1.0 or 1.1) and stack those of its assets whose band role is known.

    Args:
        path: path or URL of the item; the hrefs of its assets may be relative to it, `http(s)://` or `s3://`.
        remote: time-outs, retries and the allow-list, for the item and its assets.

    Raises:
        SceneError: not a STAC item, no usable asset, or assets that do not cover the same area.
        ReadError: a server fails.
        ForbiddenAddressError: the item or an asset is not on the allow-list of this service.
    """
    remote = remote or RemoteSettings()
    allow = remote.allowed()
    if allow is not None:
        allow.check(path)
    try:
        item = json.loads(fetch_text(path, remote) if is_remote(path) else Path(gdal_path(path)).read_text("utf-8-sig"))
    except FileNotFoundError:
        raise SceneError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SceneError(f"{path}: cannot be read as JSON ({error}); give a STAC item or an image") from None
    if not isinstance(item, dict) or item.get("type") != "Feature" or not isinstance(item.get("assets"), dict):
        raise SceneError(f"{path}: is not a STAC item (type Feature with assets); give the item's JSON or an image")
    properties: dict[str, Any] = item.get("properties") or {}
    sensor = properties.get("platform") or properties.get("constellation")
    key = sensor_key([str(w) for w in (properties.get("platform"), properties.get("constellation")) if w])
    chosen: dict[str, _AssetBand] = {}
    for band in _asset_bands(path, item["assets"], key):
        chosen.setdefault(band.name, band)
    bands = [chosen[name] for name in sensor_table().canonical if name in chosen]
    if not bands:
        raise SceneError(
            f"{path}: no asset has a band role that is known (eo:bands common_name or name); give an image instead"
        )
    text = properties.get("datetime") or properties.get("start_datetime")
    scales, offsets, notes = _scaling(bands, properties, key)
    return StacScene(
        source=_virtual_raster(path, bands, remote),
        names=tuple(band.name for band in bands),
        scales=scales,
        offsets=offsets,
        date=parse_date(str(text), path) if text else None,
        sensor=str(sensor) if sensor else None,
        notes=notes,
        mask=_mask(path, item["assets"]),
    )


def _asset_bands(path: str, assets: Mapping[str, Any], key: str | None) -> Iterator[_AssetBand]:
    """Yield every band of the data assets whose role is known; previews and masks are passed over."""
    for name, asset in assets.items():
        roles = set(asset.get("roles") or ("data",))
        if "href" not in asset or roles & {"thumbnail", "overview", "visual", "metadata"} or name == "visual":
            continue
        described = asset.get("bands") or asset.get("eo:bands") or [{}]
        rasters = asset.get("raster:bands") or asset.get("bands") or []
        for index, band in enumerate(described, start=1):
            # A name such as B8A says more than a common name: Sentinel-2 calls several bands "rededge".
            words = [
                band.get("name"),
                band.get("eo:common_name"),
                band.get("common_name"),
                name if len(described) == 1 else None,
            ]
            role = next((r for r in (canonical_name(w, key) for w in words if w) if r), None)
            raster = rasters[index - 1] if index <= len(rasters) else {}
            if role is not None:
                yield _AssetBand(
                    role,
                    _href(path, str(asset["href"])),
                    index,
                    raster.get("scale", raster.get("raster:scale")),
                    raster.get("offset", raster.get("raster:offset")),
                    raster.get("nodata"),
                )


def _mask(path: str, assets: Mapping[str, Any]) -> MaskRef | None:
    """The first asset whose key names a kind of cloud mask."""
    for key, asset in assets.items():
        kind = kind_named(key)
        if kind is not None and "href" in asset:
            return MaskRef(_href(path, str(asset["href"])), kind, f"asset {key} of the STAC item")
    return None


def _scaling(
    bands: list[_AssetBand], properties: Mapping[str, Any], key: str | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...], tuple[str, ...]]:
    """Scales and offsets that the item states; its flag that the offset is already applied goes before them."""
    if any(band.scale is None for band in bands):
        baseline = str(properties.get("s2:processing_baseline") or "")
        if key == "sentinel-2" and baseline >= "04.00" and _OFFSET_FLAG not in properties:
            note = f"the item states no scale; processing baseline {baseline} defines 0.0001 and offset -1000"
            return (1e-4,) * len(bands), (-0.1,) * len(bands), (note,)
        return None, (), ()
    scales = tuple(float(band.scale or 1.0) for band in bands)
    offsets = tuple(float(band.offset or 0.0) for band in bands)
    if properties.get(_OFFSET_FLAG) is True and any(offsets):
        return (
            scales,
            (0.0,) * len(bands),
            (f"{_OFFSET_FLAG} is true: the offset {min(offsets):g} is not applied again",),
        )
    return scales, offsets, ()


def _href(item: str, href: str) -> str:
    """Turn an asset's href into something GDAL opens."""
    linked = joined(item, href)
    if linked != href or href.startswith(("/", "<")):
        return linked
    return url2pathname(urljoin(Path(item).absolute().as_uri(), href)[len("file://") :])


def _virtual_raster(path: str, bands: list[_AssetBand], remote: RemoteSettings) -> str:
    """XML of a virtual raster on the finest grid of the assets."""
    headers: dict[str, Any] = {}
    for href in dict.fromkeys(band.href for band in bands):
        try:
            asset = Source(href, remote)
            headers[href] = asset.read(lambda data: (data.profile, data.bounds, data.dtypes, data.nodata))
            asset.close()
        except ForbiddenAddressError:
            raise
        except SceneError as error:
            raise type(error)(f"{path}: asset {error}") from error
    profile, bounds, _, _ = min(headers.values(), key=lambda head: abs(head[0]["transform"].determinant))
    for href, (other, box, _, _) in headers.items():
        apart = max(abs(a - b) for a, b in zip(box, bounds, strict=True))
        if other["crs"] != profile["crs"] or apart > abs(other["transform"].a):
            raise SceneError(f"{path}: asset {href} covers another area or has another CRS; give one image per date")
    t, lines = profile["transform"], []
    for number, band in enumerate(bands, start=1):
        head, _, dtypes, nodata = headers[band.href]
        nodata = band.nodata if band.nodata is not None else nodata
        if number > 1 and nodata is None:
            nodata = headers[bands[0].href][3]
        if band.index > len(dtypes):
            raise SceneError(
                f"{path}: asset {band.href} has {len(dtypes)} bands, the item describes {band.index}; correct the item"
            )
        empty = "" if nodata is None else f"<NODATA>{nodata}</NODATA>"
        lines.append(
            f'<VRTRasterBand dataType="{_GDAL_TYPES.get(dtypes[band.index - 1], "Float32")}" band="{number}">'
            f"<Description>{band.name}</Description>"
            + ("" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>")
            + '<ComplexSource resampling="bilinear">'
            f'<SourceFilename relativeToVRT="0">{escape(band.href)}</SourceFilename>'
            f"<SourceBand>{band.index}</SourceBand>"
            f'<SrcRect xOff="0" yOff="0" xSize="{head["width"]}" ySize="{head["height"]}"/>'
            f'<DstRect xOff="0" yOff="0" xSize="{profile["width"]}" ySize="{profile["height"]}"/>{empty}'
            "</ComplexSource></VRTRasterBand>"
        )
    wkt = escape(profile["crs"].to_wkt()) if profile["crs"] else ""
    return (
        f'<VRTDataset rasterXSize="{profile["width"]}" rasterYSize="{profile["height"]}">'
        f'<SRS dataAxisToSRSAxisMapping="1,2">{wkt}</SRS>'
        f"<GeoTransform>{t.c!r},{t.a!r},{t.b!r},{t.f!r},{t.d!r},{t.e!r}</GeoTransform>"
        + "".join(lines)
        + "</VRTDataset>"
    )
