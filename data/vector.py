"""Any OGR layer, in batches of valid 2D polygons; whatever was guessed, dropped or mended is noted and counted."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
import yaml
from pydantic import BaseModel, ConfigDict, Field
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from pyproj.exceptions import CRSError

from tuban.data.crs_guess import Bounds, guess_crs, looks_geographic
from tuban.data.dbf_encoding import detect
from tuban.data.geometry_repair import RepairCounts, decode_wkb, repair
from tuban.errors import VectorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

logger = logging.getLogger(__name__)


@cache
def plan_table() -> dict[str, Any]:
    """Return `configs/plan.yaml`: roles, recognised layer names, personal fields."""
    text = files("tuban.configs").joinpath("plan.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


class VectorSettings(BaseModel):
    """How vector layers are read.

    Attributes:
        batch_size: features held in memory at a time.
        encoding: attribute encoding of Shapefiles; None detects it.
        guess_crs: guess the CRS of a layer that has none (or an impossible one) from its coordinates.
        central_meridian: degrees, for six-digit eastings without a CRS.
        drop_fields: fields never loaded; by default the personal ones of `configs/plan.yaml`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(default=20_000, ge=1)
    encoding: str | None = None
    guess_crs: bool = False
    central_meridian: float | None = None
    drop_fields: tuple[str, ...] = Field(default_factory=lambda: tuple(plan_table()["personal_fields"]))


@dataclass(frozen=True)
class VectorLayer:
    """One layer of a vector file, opened and checked; `read` and `batches` give its polygons."""

    path: Path
    layer: str
    crs: CRS
    columns: tuple[str, ...]
    dropped: tuple[str, ...]
    features: int
    bounds: Bounds
    encoding: str | None = None
    notes: tuple[str, ...] = ()
    settings: VectorSettings = field(default_factory=VectorSettings)

    def batches(self, *, bbox: Bounds | None = None, counts: RepairCounts | None = None) -> Iterator[gpd.GeoDataFrame]:
        """Yield GeoDataFrames of at most `batch_size` valid polygons in the layer's CRS, indexed by feature id.

        Args:
            bbox: (min_x, min_y, max_x, max_y) in the layer's CRS; None reads everything.
            counts: repairs are added to it.

        Raises:
            VectorError: the file became unreadable.
        """
        counts = RepairCounts() if counts is None else counts
        start = 0
        while True:
            frame, rows = self._batch(start, bbox, counts)
            if rows:
                yield frame
            if rows < self.settings.batch_size:
                return
            start += rows

    def read(self, *, bbox: Bounds | None = None, counts: RepairCounts | None = None) -> gpd.GeoDataFrame:
        """Return all polygons that meet `bbox` as one GeoDataFrame; for boxes that are known to be small."""
        frames = list(self.batches(bbox=bbox, counts=counts))
        if not frames:
            return gpd.GeoDataFrame({name: [] for name in self.columns}, geometry=[], crs=self.crs)
        return frames[0] if len(frames) == 1 else gpd.pd.concat(frames)

    def _batch(self, start: int, bbox: Bounds | None, counts: RepairCounts) -> tuple[gpd.GeoDataFrame, int]:
        # Bytes pass as Latin-1 and are decoded here, since a character cut at the field's end must not stop the read.
        encoding = "ISO-8859-1" if self.encoding else None
        with _gdal_warnings() as messages:
            try:
                meta, fids, wkb, values = pyogrio.raw.read(
                    self.path, layer=self.layer, encoding=encoding, bbox=bbox, return_fids=True,
                    skip_features=start, max_features=self.settings.batch_size,
                )  # fmt: skip
            except (DataSourceError, DataLayerError, RuntimeError) as error:
                raise VectorError(
                    f"{self.path} layer {self.layer}: cannot be read ({error}); repair or re-export it"
                ) from error
        for message in messages:
            logger.debug("%s layer %s: %s", self.path.name, self.layer, message)
        geometry = repair(decode_wkb(wkb, counts, fids), counts, fids)
        data: dict[str, Any] = {}
        for raw_name, column in zip(meta["fields"], values, strict=True):
            name = self._text(raw_name, counts)
            if name in self.columns:
                data[name] = [self._text(v, counts) for v in column] if column.dtype == object else column
        frame = gpd.GeoDataFrame(data, geometry=geometry, crs=self.crs, index=fids)
        return frame[~shapely.is_missing(geometry)], len(geometry)

    def _text(self, value: Any, counts: RepairCounts) -> Any:
        if self.encoding is None or not isinstance(value, str):
            return value
        text = value.encode("latin-1").decode(self.encoding, errors="replace")
        counts.undecodable_text += "\ufffd" in text
        return text.rstrip("\ufffd")


class _gdal_warnings(warnings.catch_warnings):  # noqa: N801 - used as a function
    """Collect GDAL's warnings (reported by pyogrio as RuntimeWarning) instead of showing them."""

    def __init__(self) -> None:
        super().__init__(record=True)

    def __enter__(self) -> Any:
        log = super().__enter__()
        warnings.simplefilter("always")
        return log


def layer_names(path: Path) -> tuple[str, ...]:
    """Return the names of the layers of `path` that hold geometry.

    Raises:
        VectorError: the file is missing, or OGR cannot open it.
    """
    if not path.exists():
        raise VectorError(f"no such file: {path}; check the path (relative paths start at the file that names them)")
    try:
        with _gdal_warnings():
            listed = pyogrio.list_layers(path)
    except DataSourceError as error:
        raise VectorError(
            f"{path}: not vector data that OGR opens ({error}); give GPKG, GDB, SHP or GeoJSON"
        ) from error
    return tuple(str(name) for name, kind in listed if kind is not None)


def open_layer(
    path: str | Path, layer: str | None = None, *, settings: VectorSettings | None = None, allow_empty: bool = False
) -> VectorLayer:
    """Open one layer and check what can be checked without reading its features.

    Args:
        path: any vector file OGR opens.
        layer: layer name; None takes the only one.
        settings: how it is read.
        allow_empty: accept a layer without features.

    Raises:
        VectorError: missing or unreadable file, missing layer (the message lists those present), no features, no CRS
            and `guess_crs` is off, coordinates the CRS cannot have.
    """
    settings = settings or VectorSettings()
    path = Path(path)
    name = _pick_layer(path, layer)
    encoding = detect(path, settings.encoding) if path.suffix.lower() == ".shp" else None
    with _gdal_warnings():
        info = pyogrio.read_info(
            path,
            layer=name,
            encoding="ISO-8859-1" if encoding else None,
            force_feature_count=True,
            force_total_bounds=True,
        )
    where = f"{path} layer {name}"
    if not info["features"] and not allow_empty:
        raise VectorError(f"{where}: has no features; export it again, or take it out of the plan")
    bounds: Bounds = tuple(info["total_bounds"]) if info["total_bounds"] is not None else (0.0, 0.0, 0.0, 0.0)
    crs, notes = _checked_crs(info["crs"], bounds, settings, where, empty=not info["features"])
    fields = [str(f) for f in info["fields"]]
    if encoding:
        fields = [f.encode("latin-1").decode(encoding.name, errors="replace").rstrip("\ufffd") for f in fields]
        notes += [encoding.note] if encoding.note else []
    unwanted = {f.upper() for f in settings.drop_fields}
    dropped = tuple(f for f in fields if f.upper() in unwanted)
    if dropped:
        notes.append(f"{where}: personal fields not loaded: {', '.join(dropped)}")
    return VectorLayer(
        path=path, layer=name, crs=crs, columns=tuple(f for f in fields if f not in dropped), dropped=dropped,
        features=int(info["features"]), bounds=bounds, encoding=encoding.name if encoding else None,
        notes=tuple(notes), settings=settings,
    )  # fmt: skip


def require_columns(layer: VectorLayer, names: Sequence[str]) -> None:
    """Check that the layer has every column of `names`.

    Raises:
        VectorError: a column is missing; the message lists those present.
    """
    missing = [name for name in names if name not in layer.columns]
    if missing:
        raise VectorError(
            f"{layer.path} layer {layer.layer}: no column {', '.join(missing)}; "
            f"it has {', '.join(layer.columns) or 'none'}"
        )


def _pick_layer(path: Path, layer: str | None) -> str:
    names = layer_names(path)
    if not names:
        raise VectorError(f"{path}: holds no layer with geometry; export polygons into it")
    if layer is None:
        if len(names) > 1:
            raise VectorError(f"{path}: holds {len(names)} layers, name one of them: {', '.join(names)}")
        return names[0]
    if layer not in names:
        raise VectorError(f"{path}: no layer {layer!r}; it has {', '.join(names)}")
    return layer


def _checked_crs(
    text: str | None, bounds: Bounds, settings: VectorSettings, where: str, *, empty: bool
) -> tuple[CRS, list[str]]:
    """Return the layer's CRS, checked against its coordinates, and notes on what was guessed."""
    try:
        crs = CRS.from_user_input(text) if text else None
    except CRSError as error:
        raise VectorError(f"{where}: its CRS is not understood ({error}); define the projection again") from error
    if crs is not None and (empty or not np.isfinite(bounds).all()):
        return crs, []
    if crs is not None and crs.is_geographic == looks_geographic(bounds):
        return crs, []
    if crs is not None and not settings.guess_crs:
        kind = "degrees" if crs.is_geographic else "metres"
        raise VectorError(
            f"{where}: declares {crs.name}, but its coordinates (x {bounds[0]:.6g}..{bounds[2]:.6g}, "
            f"y {bounds[1]:.6g}..{bounds[3]:.6g}) are not in {kind}; define the right projection, or set guess_crs=true"
        )
    if not settings.guess_crs:
        raise VectorError(f"{where}: has no CRS; define the projection in the file, or set guess_crs=true")
    guessed, why = guess_crs(bounds, central_meridian=settings.central_meridian, where=where)
    return guessed, [why if crs is None else f"{why} (it declares {crs.name}, which its coordinates cannot have)"]
