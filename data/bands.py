"""Band roles: what a file calls its bands, mapped onto canonical (Sentinel-2) names by `configs/sensors.yaml`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a scene: `value = stored * scale + offset`.

    Attributes:
        name: canonical name (`B04`), or the file's own word where the role is unknown.
        index: band number in the file, from 1.
        scale: multiplies the stored value.
        offset: is added after scaling, in the unit of the result.
    """

    name: str
    index: int
    scale: float = 1.0
    offset: float = 0.0


class Product(BaseModel):
    """Scaling that a product defines for integer files that carry none of their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    scale: float
    offset: float


class Sensor(BaseModel):
    """One entry of `configs/sensors.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: tuple[str, ...]
    implied_by: tuple[str, ...]
    bands: dict[str, tuple[str, ...]]
    products: tuple[Product, ...]


class SensorTable(BaseModel):
    """`configs/sensors.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    canonical: tuple[str, ...]
    aliases: dict[str, tuple[str, ...]]
    sensors: dict[str, Sensor]


@cache
def sensor_table() -> SensorTable:
    """Return the validated table of sensors and aliases."""
    text = files("tuban.configs").joinpath("sensors.yaml").read_text(encoding="utf-8")
    return SensorTable.model_validate(yaml.safe_load(text))


def squeeze(text: str) -> str:
    """Lower case without separators: `SR_B2` -> `srb2`."""
    return re.sub(r"[^0-9a-z]", "", text.casefold())


def sensor_key(words: Sequence[str]) -> str | None:
    """Return the sensor that one of `words` names, or None.

    Args:
        words: what scene.json, STAC or tags say about the sensor, for instance "Sentinel-2 L1C" or "LANDSAT_8".

    Example:
        >>> sensor_key(["Sentinel-2 L1C"]), sensor_key(["LANDSAT_8"]), sensor_key(["drone"])
        ('sentinel-2', 'landsat-oli', None)
    """
    squeezed = [squeeze(word) for word in words]
    for key, sensor in sensor_table().sensors.items():
        # A short word such as "tm" must stand at the start, or any word that contains it would match.
        if any(
            word.startswith(match) or (len(match) > 4 and match in word) for word in squeezed for match in sensor.match
        ):
            return key
    return None


def implied_sensor(descriptions: Sequence[str | None]) -> str | None:
    """Return the sensor that the band names can only belong to, or None."""
    words = {word for text in descriptions if text for word in _words(text)}
    for key, sensor in sensor_table().sensors.items():
        if words.intersection(sensor.implied_by):
            return key
    return None


def canonical_name(description: str | None, sensor: str | None) -> str | None:
    """Return the canonical name of a band, or None where it has no role here.

    Args:
        description: the file's words, such as "B4, central wavelength 665 nm", "TM1 blue", "SR_B5", "nir".
        sensor: key of `configs/sensors.yaml`, or None where unknown.

    Example:
        >>> canonical_name("TM1 blue", "landsat-tm"), canonical_name("B5", "landsat-oli"), canonical_name("B5", None)
        ('B02', 'B08', 'B05')
    """
    if not description:
        return None
    table = sensor_table()
    own = table.sensors[sensor].bands if sensor else {}
    aliases = own or table.aliases
    names = {alias: name for name, known in aliases.items() for alias in known}
    return next((names[word] for word in _words(description) if word in names), None)


def product_scale(sensor: str | None, descriptions: Sequence[str | None], dtype: str) -> tuple[float, float] | None:
    """Return the scale and offset that the sensor's product defines for these names and dtype, or None."""
    if sensor is None:
        return None
    words = [squeeze(text) for text in descriptions if text]
    for product in sensor_table().sensors[sensor].products:
        if dtype in product.dtypes and words and all(word.startswith(product.names) for word in words):
            return product.scale, product.offset
    return None


def _words(text: str) -> list[str]:
    """Whole text first, then its words: "SR_B2" must win over "B2", "narrow nir" over "nir"."""
    return [squeeze(text), *(squeeze(word) for word in re.split(r"[\s,;:()/\[\]-]+", text) if squeeze(word))]
