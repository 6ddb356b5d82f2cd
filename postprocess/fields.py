"""Field tables: which columns an export has, in which order, under which names (`configs/fields/*.yaml`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tuban.configs.shipped import named_text, shipped_names
from tuban.data.classes import classes
from tuban.errors import UsageError
from tuban.postprocess.area import to_mu
from tuban.postprocess.legend import known_roles, role_name
from tuban.postprocess.styles import SEVERITY_NAMES, STATUS_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import geopandas as gpd

Lang = Literal["zh", "en"]
Conversion = Literal["value", "mu", "month", "class", "status", "severity", "role", "reason", "lonlat", "blank"]
CODED = ("class", "status", "severity", "role")
"""Conversions that put a code into words."""

_CODED_SOURCES = {
    "status": "status",
    "severity": "severity",
    "from_class": "class",
    "to_class": "class",
    "zone_role": "role",
}


class ExportField(BaseModel):
    """One column of an export.

    Attributes:
        name: in GeoPackage, GeoJSON and so on.
        shp: in Shapefiles: at most 10 ASCII characters.
        zh: Chinese heading.
        en: English heading.
        source: the column of `findings` it comes from.
        conversion: how its value is made (`as` in the file): `value` as it stands, `mu` (from m²), `month`, `class`,
            `status`, `severity` and `role` in words, `reason` in one language, `lonlat` as one text, `blank` for people
            to fill in.
        when: the value is given only where these columns hold these values.
        type: `str`, `float` or `int` (of 32 bits; a yes or no is 1 or 0).
        decimals: of a number, in text formats and ledgers.
        optional: the field is left out where findings lack its column; without this that is an error.
        choices: what people may fill in: a list to pick from in ledgers, a coded domain in a File GDB.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str = Field(min_length=1, max_length=60)
    shp: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,9}$")
    zh: str
    en: str
    source: str = ""
    conversion: Conversion = Field("value", alias="as")
    when: dict[str, str] = Field(default_factory=dict)
    type: Literal["str", "float", "int"] = "str"
    decimals: int = Field(2, ge=0, le=12)
    optional: bool = False
    choices: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_source(self) -> ExportField:
        if not self.source and self.conversion not in {"blank", "lonlat"}:
            raise ValueError(f"field {self.name} needs a `source` column")
        return self


class FieldTable(BaseModel):
    """The columns of an export, in order.

    Attributes:
        id: its name.
        title: of ledgers.
        further: whether columns that the table does not name follow under their own names, or are dropped.
        fields: the columns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: dict[Lang, str]
    further: Literal["keep", "drop"] = "drop"
    fields: tuple[ExportField, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> FieldTable:
        for kind in ("name", "shp", "zh"):
            # Shapefile and GeoPackage names are equal regardless of case.
            names = [str(getattr(field, kind)).upper() for field in self.fields]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"`{kind}` stands twice: {', '.join(twice)}")
        return self


def profiles() -> tuple[str, ...]:
    """Return the names of the shipped field tables."""
    return shipped_names("fields")


def load_fields(profile: str) -> FieldTable:
    """Load a field table by the name of a shipped one or by the path of a YAML file.

    Raises:
        UsageError: there is no such table, or it is malformed.

    Example:
        >>> load_fields("cn-weipian").fields[4].zh
        '图斑编号'
    """
    try:
        return FieldTable.model_validate(yaml.safe_load(named_text("fields", profile, "field table")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the table"
        raise UsageError(f"field table {profile}: {where}: {first['msg']}; see docs/exports.md") from error
    except yaml.YAMLError as error:
        raise UsageError(f"field table {profile} is not YAML: {' '.join(str(error).split())}; mend it") from error


def fit(table: FieldTable, columns: Mapping[str, str], *, without: Collection[str] = ()) -> FieldTable:
    """Return the table for a layer: optional fields it lacks are gone, its further columns follow.

    Args:
        table: the field table.
        columns: dtype by name of the layer's columns, as `pyogrio.read_info` gives them.
        without: columns that must not be exported, such as places.

    Raises:
        UsageError: the layer lacks a column that the table needs.
    """
    fields = [
        field
        for field in table.fields
        if field.source not in without
        and not (field.conversion == "lonlat" and {"lon", "lat"} & set(without))
        and not (field.optional and field.source not in columns)
    ]
    wanted = {name for field in fields for name in (field.source, *field.when) if name}
    lacking = sorted(wanted - set(columns))
    if lacking:
        raise UsageError(f"findings lack {', '.join(lacking)}, which field table {table.id} uses; use another table")
    if table.further == "keep":
        named = {field.source for field in table.fields} | set(without)
        taken = {field.shp.upper() for field in fields}
        fields += [_further(name, columns[name], taken) for name in columns if name not in named]
    return table.model_copy(update={"fields": tuple(fields)})


def _further(name: str, dtype: str, taken: set[str]) -> ExportField:
    """Return the field of a column that no table names; its short name is made to collide with none in `taken`."""
    plain = re.sub(r"[^A-Za-z0-9_]", "", name).upper().lstrip("_0123456789") or "F"
    short = plain[:10]
    number = 1
    while short in taken:
        short = f"{plain[: 10 - len(str(number)) - 1]}_{number}"
        number += 1
    taken.add(short)
    kind: Literal["str", "float", "int"] = "str"
    if dtype in {"bool", "int8", "int16", "int32", "uint8", "uint16"}:
        kind = "int"
    elif dtype.startswith(("float", "int", "uint")):
        kind = "float"
    decimals = 6 if dtype.startswith("float") else 0
    return ExportField(name=name, shp=short, zh=name, en=name, source=name, type=kind, decimals=decimals)


def domain_of(field: ExportField) -> str | None:
    """Return which coded words a field holds (one of `CODED`), or None."""
    if field.conversion in CODED:
        return field.conversion
    return _CODED_SOURCES.get(field.source) if field.conversion == "value" else None


def words_of(domain: str, lang: str) -> dict[str, str]:
    """Return the words of the codes of a domain: `class`, `status`, `severity` or `role`."""
    at = 0 if lang == "zh" else 1
    if domain == "class":
        return {entry.name: entry.zh if at == 0 else entry.name for entry in classes().values()}
    if domain == "status":
        return {name: words[at] for name, words in STATUS_NAMES.items()}
    if domain == "severity":
        return {name: f"{name} {words[at]}" for name, words in SEVERITY_NAMES.items()}
    if domain == "role":
        return {role: role_name(role, lang) for name in known_roles() for role in (name, f"not:{name}")}
    return {}


def half(text: str, lang: str) -> str:
    """Return the part of a reason in one language; it is written as `Chinese | English`.

    Example:
        >>> half("疑似 | suspected", "en"), half("only one", "zh")
        ('suspected', 'only one')
    """
    parts = text.split(" | ")
    if len(parts) < 2 or len(parts) % 2:
        return text
    middle = len(parts) // 2
    return " | ".join(parts[:middle] if lang == "zh" else parts[middle:])


def convert(frame: gpd.GeoDataFrame, table: FieldTable, *, lang: Lang = "zh", codes: bool = False) -> pd.DataFrame:
    """Return the attributes of findings under a table's `name`s, in its order; the index is kept.

    Args:
        frame: rows with the contract's columns of `findings`.
        table: the field table, as `fit` to the layer.
        lang: language of classes, statuses and severities in words.
        codes: leave coded values as codes, for formats whose coded domains hold the words.

    Raises:
        UsageError: a source column is absent.
    """
    wanted = {name for field in table.fields for name in (field.source, *field.when) if name}
    lacking = sorted(wanted - set(frame.columns))
    if lacking:
        raise UsageError(f"findings lack {', '.join(lacking)}, which field table {table.id} uses; use another table")
    columns = {field.name: _column(frame, field, lang, codes=codes) for field in table.fields}
    return pd.DataFrame(columns, index=frame.index)


def _column(frame: gpd.GeoDataFrame, field: ExportField, lang: Lang, *, codes: bool) -> pd.Series[Any]:
    if field.conversion == "blank":
        return pd.Series([None] * len(frame), index=frame.index, dtype=object)
    if field.conversion == "lonlat":
        pairs = zip(frame["lon"], frame["lat"], strict=True)
        return pd.Series([f"{lon:.6f},{lat:.6f}" for lon, lat in pairs], index=frame.index, dtype=object)
    values = frame[field.source]
    if field.type == "str":
        words = {} if codes else words_of(field.conversion, lang)
        values = _texts(values.astype(object), field.conversion, words, lang)
    else:
        values = values.astype("float64")
        if field.conversion == "mu":
            values = pd.Series(to_mu(values.to_numpy()), index=frame.index)
        values = values.round(field.decimals if field.type == "float" else 0)
    for column, value in field.when.items():
        values = values.where(frame[column] == value, other=None if field.type == "str" else np.nan)
    return values


def _texts(values: pd.Series[Any], conversion: str, words: Mapping[str, str], lang: str) -> pd.Series[Any]:
    missing = values.isna()
    if conversion == "month":
        made = [None if gone else str(value)[:7] for value, gone in zip(values, missing, strict=True)]
    elif conversion == "reason":
        made = [None if gone else half(str(value), lang) for value, gone in zip(values, missing, strict=True)]
    else:
        made = [
            None if gone else words.get(text := str(value), text) for value, gone in zip(values, missing, strict=True)
        ]
    return pd.Series(made, index=values.index, dtype=object)
