"""What is known about a scene besides its pixels: `scene.json`, TIFF and Sentinel-2 tags, dates."""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from tuban.data.address import gdal_path, is_remote
from tuban.data.fetch import fetch_beside
from tuban.data.mask_kinds import Kind  # noqa: TC001 - pydantic reads it at run time
from tuban.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tuban.data.remote import RemoteSettings

# Tags that give the day of acquisition, the surest first.
ACQUISITION_TAGS = (
    "ACQUISITIONDATETIME", "ACQUISITION_DATE", "ACQUISITIONDATE", "DATATAKE_1_DATATAKE_SENSING_START",
    "PRODUCT_START_TIME", "DATE_ACQUIRED", "SENSING_TIME",
)  # fmt: skip
SENSOR_TAGS = (
    "DATATAKE_1_SPACECRAFT_NAME",
    "SPACECRAFT_ID",
    "SPACECRAFT_NAME",
    "SATELLITEID",
    "PLATFORM",
    "SENSOR",
    "SENSOR_ID",
)
# `band_id` of the offsets in Sentinel-2 metadata (products since processing baseline 04.00).
SENTINEL2_BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_OFFSET_TAG = re.compile(r"^(?:.*_)?(?:BOA|RADIO)_ADD_OFFSET(?:_(?:BAND_?)?(?P<band>[0-9A-Z]+))?$", re.IGNORECASE)


class Sidecar(BaseModel):
    """`scene.json` beside an image; `before` and `after` are the dates of `before.*` and `after.*`.

    `mask` is the path of the cloud mask, from the folder of `scene.json`, for all images there or by their stems.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    date: str | None = None
    before: str | None = None
    after: str | None = None
    sensor: str | None = None
    bands: tuple[str, ...] | None = None
    scale: float | tuple[float, ...] | None = None
    offset: float | tuple[float, ...] | None = None
    nodata: float | None = None
    mask: str | dict[str, str] | None = None
    mask_kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class DateFound:
    """A date and where it comes from; `note` is set where it is to be taken with care."""

    date: dt.date | None
    source: str
    note: str = ""


def parse_date(text: str | dt.date, where: str) -> dt.date:
    """Return a date from ISO 8601 (date or date and time), `YYYYMMDD` or TIFF's `YYYY:MM:DD HH:MM:SS`.

    Args:
        text: the date.
        where: what to name in the error, for instance "--date-before" or a file.

    Raises:
        SceneError: not a date.

    Example:
        >>> parse_date("2016:03:15 10:50:01", "TIFFTAG_DATETIME")
        datetime.date(2016, 3, 15)
    """
    if isinstance(text, dt.datetime):
        return text.date()
    if isinstance(text, dt.date):
        return text
    cleaned = re.sub(r"^(\d{4})[:/](\d{2})[:/](\d{2})", r"\1-\2-\3", text.strip())
    try:
        return dt.datetime.fromisoformat(cleaned).date()
    except ValueError:
        raise SceneError(f"{where}: {text!r} is not a date; write YYYY-MM-DD, for instance 2024-06-30") from None


def read_sidecar(image: str, remote: RemoteSettings) -> tuple[Sidecar | None, Path | None, tuple[str, ...]]:
    """Read `scene.json` beside an image, a remote one included.

    Args:
        image: path or URL of the image.
        remote: time-outs and the allow-list of a remote one.

    Returns:
        The sidecar, its path (its name, of a remote one) and notes on keys that mean nothing here;
        `(None, None, ())` where there is none.

    Raises:
        SceneError: the file is not JSON or a value has the wrong type.
        ReadError: the server fails.
    """
    path = Path("scene.json") if is_remote(image) else Path(gdal_path(image)).parent / "scene.json"
    try:
        text = fetch_beside(image, path.name, remote) if is_remote(image) else _local_text(path)
        if text is None:
            return None, None, ()
        # Through JSON, so that strict types still take a JSON list for a tuple.
        sidecar = Sidecar.model_validate_json(text)
        keys = set(json.loads(text))
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        detail = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        place = ".".join(str(part) for part in detail["loc"]) or "the file"
        raise SceneError(f"{path}: {place}: {detail['msg']}; correct it or remove scene.json") from None
    unknown = sorted(keys - set(Sidecar.model_fields))
    return sidecar, path, (f"{path.name}: ignored unknown keys {', '.join(unknown)}",) if unknown else ()


def image_stem(image: str) -> str:
    """Return the name of an image without suffix, in small letters, of a path or a URL.

    Example:
        >>> image_stem("https://example.org/Before.tif?sig=1")
        'before'
    """
    return Path(re.split(r"[?#]", image, maxsplit=1)[0] if is_remote(image) else image).stem.casefold()


def _local_text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8-sig") if path.is_file() else None


def sidecar_date(sidecar: Sidecar, image: str, path: Path) -> DateFound:
    """Return the date that `scene.json` gives for this image: `date`, or `before`/`after` by the file's stem."""
    stem = image_stem(image)
    text = {"before": sidecar.before, "after": sidecar.after}.get(stem) or sidecar.date
    if text is None:
        return DateFound(None, "")
    return DateFound(parse_date(text, str(path)), path.name)


def tag_date(tags: Mapping[str, str]) -> DateFound:
    """Return the date in a file's tags; a malformed tag is passed over with a note, for the user cannot mend it."""
    upper = {key.upper(): value for key, value in tags.items()}
    note = ""
    for key in (*ACQUISITION_TAGS, "TIFFTAG_DATETIME"):
        if key not in upper:
            continue
        try:
            date = parse_date(upper[key], key)
        except SceneError:
            note = f"tag {key}={upper[key]!r} is not a date and was passed over"
            continue
        if key == "TIFFTAG_DATETIME":
            note = "the date is TIFFTAG_DATETIME, which may be the day the file was made; give the date if it is not"
        return DateFound(date, f"tag {key}", note)
    return DateFound(None, "", note)


def sensor_words(tags: Mapping[str, str]) -> list[str]:
    """Return what the tags say about the sensor."""
    upper = {key.upper(): value for key, value in tags.items()}
    return [upper[key] for key in SENSOR_TAGS if key in upper]


def add_offsets(tags: Mapping[str, str], names: Iterable[str]) -> dict[str, float]:
    """Return Sentinel-2's additive offset per band in stored units (-1000 since baseline 04.00), from tags only.

    Args:
        tags: `BOA_ADD_OFFSET` or `RADIO_ADD_OFFSET`, alone or with a band id (`_1`) or name (`_B02`) at the end.
        names: canonical names of the scene's bands.

    Example:
        >>> add_offsets({"BOA_ADD_OFFSET_1": "-1000"}, ["B02", "B03"])
        {'B02': -1000.0}
    """
    general: float | None = None
    single: dict[str, float] = {}
    for key, value in tags.items():
        match = _OFFSET_TAG.match(key)
        if match is None:
            continue
        try:
            number = float(value)
        except ValueError:
            raise SceneError(
                f"tag {key}={value!r} is not a number; correct it or give `offset` in scene.json"
            ) from None
        band = match["band"]
        if band is None:
            general = number
        else:
            index = int(band) if band.isdigit() else -1
            single[SENTINEL2_BAND_IDS[index] if 0 <= index < len(SENTINEL2_BAND_IDS) else band.upper()] = number
    found = {name: single.get(name, general) for name in names}
    return {name: value for name, value in found.items() if value is not None}
