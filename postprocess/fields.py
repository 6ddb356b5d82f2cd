"""Field tables: which columns an export has, in which order, under which names (`configs/fields/*.yaml`)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tuban.data.classes import classes
from tuban.errors import UsageError
from tuban.postprocess.area import to_mu
from tuban.postprocess.styles import SEVERITY_NAMES, STATUS_NAMES

if TYPE_CHECKING:
    import geopandas as gpd

Lang = Literal["zh", "en"]


class ExportField(BaseModel):
    """One column of an export.

    Attributes:
        name: in GeoPackage, GeoJSON and so on.
        shp: in Shapefiles: at most 10 ASCII characters.
        zh: Chinese heading.
        en: English heading.
        source: the column of `findings` it comes from.
        conversion: how its value is made (`as` in the file): `value` as it stands, `mu` (from m²), `month`, `class`,
            `status` and `severity` in words, `lonlat` as one text, `blank` for people to fill in.
        when: the value is given only where these columns hold these values.
        type: `str` or `float`.
        decimals: of a number, in text formats and ledgers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str = Field(min_length=1, max_length=60)
    shp: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,9}$")
    zh: str
    en: str
    source: str = ""
    conversion: Literal["value", "mu", "month", "class", "status", "severity", "lonlat", "blank"] = Field(
        "value", alias="as"
    )
    when: dict[str, str] = Field(default_factory=dict)
    type: Literal["str", "float"] = "str"
    decimals: int = Field(2, ge=0, le=12)

    @model_validator(mode="after")
    def _has_source(self) -> ExportField:
        if not self.source and self.conversion not in {"blank", "lonlat"}:
            raise ValueError(f"field {self.name} needs a `source` column")
        return self


class FieldTable(BaseModel):
    """The columns of an export, in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: dict[Lang, str]
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
    folder = files("tuban.configs").joinpath("fields")
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_fields(profile: str) -> FieldTable:
    """Load a field table by the name of a shipped one or by the path of a YAML file.

    Raises:
        UsageError: there is no such table, or it is malformed.

    Example:
        >>> load_fields("cn-weipian").fields[4].zh
        '图斑编号'
    """
    try:
        if profile in profiles():
            text = files("tuban.configs").joinpath(f"fields/{profile}.yaml").read_text(encoding="utf-8")
        else:
            text = Path(profile).read_text(encoding="utf-8")
        return FieldTable.model_validate(yaml.safe_load(text))
    except OSError as error:
        known = ", ".join(profiles())
        raise UsageError(f"no field table {profile!r}; use one of: {known}, or the path of a YAML file") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the table"
        raise UsageError(f"field table {profile}: {where}: {first['msg']}; see docs/outputs.md") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"field table {profile} is not YAML: {' '.join(str(error).split())}; mend it") from error


def convert(frame: gpd.GeoDataFrame, table: FieldTable, *, lang: Lang = "zh") -> pd.DataFrame:
    """Return the attributes of findings under a table's `name`s, in its order; the index is kept.

    Args:
        frame: rows with the contract's columns of `findings`.
        table: the field table.
        lang: language of classes, statuses and severities in words.

    Raises:
        UsageError: a source column is absent.
    """
    wanted = [field.source for field in table.fields if field.source]
    wanted += [name for field in table.fields for name in field.when]
    lacking = sorted(set(wanted) - set(frame.columns))
    if lacking:
        raise UsageError(f"findings lack {', '.join(lacking)}, which field table {table.id} uses; use another table")
    return pd.DataFrame({field.name: _column(frame, field, lang) for field in table.fields}, index=frame.index)


def _column(frame: gpd.GeoDataFrame, field: ExportField, lang: Lang) -> pd.Series[Any]:
    if field.conversion == "blank":
        return pd.Series([None] * len(frame), index=frame.index, dtype=object)
    if field.conversion == "lonlat":
        pairs = zip(frame["lon"], frame["lat"], strict=True)
        return pd.Series([f"{lon:.6f},{lat:.6f}" for lon, lat in pairs], index=frame.index, dtype=object)
    values = frame[field.source]
    if field.type == "float":
        values = values.astype("float64")
        if field.conversion == "mu":
            values = pd.Series(to_mu(values.to_numpy()), index=frame.index)
        values = values.round(field.decimals)
    else:
        words = _words(field.conversion, lang)
        values = values.map(lambda value: _text(value, field.conversion, words)).astype(object)
    for column, value in field.when.items():
        values = values.where(frame[column] == value, other=np.nan if field.type == "float" else None)
    return values


def _words(conversion: str, lang: Lang) -> dict[str, str]:
    at = 0 if lang == "zh" else 1
    if conversion == "class":
        return {entry.name: entry.zh if at == 0 else entry.name for entry in classes().values()}
    if conversion == "status":
        return {name: words[at] for name, words in STATUS_NAMES.items()}
    if conversion == "severity":
        return {name: f"{name} {words[at]}" for name, words in SEVERITY_NAMES.items()}
    return {}


def _text(value: object, conversion: str, words: dict[str, str]) -> str | None:
    if value is None or value != value:  # noqa: PLR0124 - NaN and NaT are unequal to themselves
        return None
    text = str(value)
    return text[:7] if conversion == "month" else words.get(text, text)
