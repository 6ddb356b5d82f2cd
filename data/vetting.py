"""What a service looks at before it lets GDAL open an image: the address, the kind of file, and addresses inside it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

from tuban.data.address import gdal_path, joined, redacted
from tuban.data.fetch import fetch_text, head_of
from tuban.errors import ForbiddenAddressError, SceneError

if TYPE_CHECKING:
    from tuban.data.allow import AllowList
    from tuban.data.remote import RemoteSettings

# First bytes of the formats that a service reads: TIFF, BigTIFF, JPEG 2000 (file and codestream), PNG, JPEG.
IMAGE_HEADS = (
    b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff",
)  # fmt: skip
_NESTED = 4  # virtual rasters inside one another; more is no honest file
_PARTS = 512  # sources of one virtual raster that are looked at
# All that an honest mosaic or band stack is made of. Elements that run code, read raw bytes or open files under other
# drivers are not among them, and neither is anything that a later GDAL may bring.
_ELEMENTS = frozenset(
    {
        "VRTDataset",
        "SRS",
        "GeoTransform",
        "Metadata",
        "MDI",
        "VRTRasterBand",
        "Description",
        "NoDataValue",
        "ColorInterp",
        "UnitType",
        "Offset",
        "Scale",
        "CategoryNames",
        "Category",
        "ColorTable",
        "Entry",
        "SimpleSource",
        "ComplexSource",
        "SourceFilename",
        "SourceBand",
        "SourceProperties",
        "SrcRect",
        "DstRect",
        "NODATA",
        "UseMaskBand",
        "ScaleOffset",
        "ScaleRatio",
        "MaskBand",
        "HideNoDataValue",
        "OverviewList",
    }
)
_ATTRIBUTES = frozenset(
    {
        "rasterXSize",
        "rasterYSize",
        "dataAxisToSRSAxisMapping",
        "dataType",
        "band",
        "blockXSize",
        "blockYSize",
        "resampling",
        "relativeToVRT",
        "shared",
        "xOff",
        "yOff",
        "xSize",
        "ySize",
        "RasterXSize",
        "RasterYSize",
        "DataType",
        "BlockXSize",
        "BlockYSize",
        "domain",
        "key",
        "c1",
        "c2",
        "c3",
        "c4",
    }
)


def vetted(uri: str, settings: RemoteSettings, allow: AllowList) -> bool:
    """Check an image before GDAL opens it, following what it refers to.

    Args:
        uri: as given.
        settings: time-outs of the requests.
        allow: what may be read.

    Returns:
        Whether it is a virtual raster.

    Raises:
        ForbiddenAddressError: it, or an address inside it, is not allowed or is in a form that cannot be checked.
        ReadError: it cannot be fetched.
    """
    return _vetted(uri, settings, allow, _NESTED)


def _vetted(uri: str, settings: RemoteSettings, allow: AllowList, depth: int) -> bool:
    place = allow.check(uri)
    if uri.startswith(("/vsizip", "/vsitar", "/vsigzip", "/vsi7z", "/vsirar", "/vsisubfile")):
        return False  # only the drivers of a service open it, and those follow no address
    head = _local_head(place.where) if place.kind == "local" else head_of(uri, settings)
    if head is None:
        return False
    if head.startswith(IMAGE_HEADS):
        return False
    if b"<VRTDataset" not in head:
        raise ForbiddenAddressError(
            f"{redacted(uri)}: refused, a service reads GeoTIFF, JPEG 2000, PNG, JPEG and VRT only; convert the image"
        )
    if depth == 0:
        raise ForbiddenAddressError(f"{redacted(uri)}: refused, virtual rasters stand inside one another too often")
    text = Path(place.where).read_text(encoding="utf-8") if place.kind == "local" else fetch_text(uri, settings)
    for source in _sources(uri, text):
        _vetted(source, settings, allow, depth - 1)
    return True


def _local_head(path: str) -> bytes | None:
    try:
        with Path(path).open("rb") as file:
            return file.read(4096)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def _sources(uri: str, text: str) -> list[str]:
    """Addresses of the sources of a virtual raster, as seen from it."""
    try:
        root = ET.fromstring(text)  # noqa: S314 - expat bounds entity expansion; entities are refused below
    except ET.ParseError as error:
        raise SceneError(f"{redacted(uri)}: is no valid VRT ({error}); make it again with gdalbuildvrt") from error
    found: list[str] = []
    for element in root.iter():
        strange = (
            element.tag
            if element.tag not in _ELEMENTS
            else next((a for a in element.attrib if a not in _ATTRIBUTES), "")
        )
        if strange or "<!" in text:
            raise ForbiddenAddressError(
                f"{redacted(uri)}: refused, a service reads plain mosaics and band stacks, not a VRT with "
                f"{strange or 'a document type'}; convert it to a GeoTIFF"
            )
        if element.get("domain", "") not in {"", "IMAGE_STRUCTURE", "IMAGERY"}:  # OVERVIEWS and GEOLOCATION name files
            raise ForbiddenAddressError(
                f"{redacted(uri)}: refused, its metadata may name files; convert it to a GeoTIFF"
            )
        if element.tag == "SourceFilename":
            name = (element.text or "").strip()
            beside = element.get("relativeToVRT") == "1" and "://" not in name and not name.startswith("/")
            found.append(_beside(uri, name) if beside else gdal_path(name))
    if len(found) > _PARTS:
        found = list(dict.fromkeys(found))
    if len(found) > _PARTS:
        raise ForbiddenAddressError(
            f"{redacted(uri)}: refused, it has more than {_PARTS} sources; convert it to a GeoTIFF"
        )
    return list(dict.fromkeys(found))


def _beside(uri: str, name: str) -> str:
    remote = joined(uri, name)
    return remote if remote != name else str(Path(gdal_path(uri)).parent / name)
