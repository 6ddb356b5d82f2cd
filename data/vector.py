"""Any OGR layer, in batches of valid 2D polygons; whatever was guessed, dropped or mended is noted and counted."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from pyarrow.lib import ArrowException
from pydantic import BaseModel, ConfigDict, Field
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from tuban.data.crs_guess import Bounds, checked_crs
from tuban.data.dbf_encoding import detect
from tuban.data.geometry_repair import RepairCounts, curved, decode_wkb, repair, split_at_antimeridian
from tuban.data.ogr_layers import gdal_warnings, layer_names, pick_layer
from tuban.data.plan_table import personal_fields
from tuban.errors import VectorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyproj import CRS

    _Record = tuple[Any, Any, dict[str, Any]]

logger = logging.getLogger(__name__)

__all__ = ["VectorLayer", "VectorSettings", "layer_names", "open_layer", "require_columns"]

_RANDOM_ACCESS = {".gpkg", ".shp", ".gdb"}


class VectorSettings(BaseModel):
    """How vector layers are read.

    Attributes:
        batch_size: features held in memory at a time.
        encoding: attribute encoding of Shapefiles; None detects it.
        guess_crs: guess the CRS of a layer that has none (or an impossible one) from its coordinates.
        central_meridian: degrees, for six-digit eastings without a CRS.
        drop_fields: fields never loaded; by default the personal ones of `configs/plan/*.yaml`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(default=20_000, ge=1)
    encoding: str | None = None
    guess_crs: bool = False
    central_meridian: float | None = None
    drop_fields: tuple[str, ...] = Field(default_factory=personal_fields)


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

    @property
    def address(self) -> str:
        """Path of the file."""
        return str(self.path)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    def batches(
        self,
        *,
        bbox: Bounds | None = None,
        columns: Sequence[str] | None = None,
        counts: RepairCounts | None = None,
        neighbours: bool = False,
    ) -> Iterator[gpd.GeoDataFrame]:
        """Yield GeoDataFrames of at most `batch_size` valid polygons in the layer's CRS, indexed by feature id.

        Args:
            bbox: (min_x, min_y, max_x, max_y) in the layer's CRS; None reads everything.
            columns: fields to read, absent ones ignored; None reads all. Fields that were dropped are never read.
            counts: repairs are added to it.
            neighbours: yield features that lie near one another together (along a Hilbert curve), so that what lies
                around a batch is small. Only whole layers of more than one batch in formats with random access
                (GeoPackage, Shapefile, File GDB); others keep the order of the file.

        Raises:
            VectorError: the file became unreadable.
        """
        counts = RepairCounts() if counts is None else counts
        wanted = [name for name in self.columns if columns is None or name in columns]
        near = neighbours and bbox is None and self.features > self.settings.batch_size
        records = self._near(wanted) if near and self.path.suffix.lower() in _RANDOM_ACCESS else None
        for fids, wkb, data in records or self._stream(wanted, bbox, counts):
            geometry = repair(decode_wkb(wkb, counts, fids), counts, fids)
            if self.crs.is_geographic:
                geometry = split_at_antimeridian(geometry, counts, fids)
            texts = {name: self._decoded(column, counts) for name, column in data.items()}
            frame = gpd.GeoDataFrame(texts, geometry=geometry, crs=self.crs, index=fids)
            yield frame[~shapely.is_missing(geometry)]

    def read(self, *, bbox: Bounds | None = None, counts: RepairCounts | None = None) -> gpd.GeoDataFrame:
        """Return all polygons that meet `bbox` as one GeoDataFrame; for boxes that are known to be small."""
        frames = list(self.batches(bbox=bbox, counts=counts))
        if not frames:
            return gpd.GeoDataFrame({name: [] for name in self.columns}, geometry=[], crs=self.crs)
        return frames[0] if len(frames) == 1 else gpd.pd.concat(frames)

    def _stream(self, wanted: list[str], bbox: Bounds | None, counts: RepairCounts) -> Iterator[_Record]:
        """Read the layer once, front to back."""
        with contextlib.ExitStack() as stack:
            with self._reading():
                meta, reader = stack.enter_context(
                    pyogrio.open_arrow(
                        self.path, layer=self.layer, encoding=self._raw_encoding, columns=self._raw_names(wanted),
                        bbox=bbox, return_fids=True, batch_size=self.settings.batch_size, use_pyarrow=True,
                    )
                )  # fmt: skip
            while True:
                with self._reading():
                    record = next(reader, None)
                if record is None:
                    return
                frame = record.to_pandas()
                fids = frame.pop(meta["fid_column"] or "OGC_FID").to_numpy()
                wkb = frame.pop(meta["geometry_name"] or "wkb_geometry").to_numpy(dtype=object)
                bent = curved(wkb)
                if bent.size:
                    counts.curved += int(bent.size)
                    wkb = wkb.copy()  # what comes from Arrow is read-only
                    wkb[bent] = self._by_id(fids[bent], [])[1]
                yield fids, wkb, {self._text(name): frame[name] for name in frame.columns}

    def _near(self, wanted: list[str]) -> Iterator[_Record]:
        """Read the layer along a Hilbert curve."""
        with self._reading():
            fids, boxes = pyogrio.read_bounds(self.path, layer=self.layer)
        centres = np.nan_to_num((boxes[:2] + boxes[2:]).T / 2)
        place = gpd.GeoSeries(gpd.points_from_xy(*centres.T)).hilbert_distance(total_bounds=self.bounds)
        order = fids[np.lexsort((fids, place.to_numpy()))]
        for start in range(0, len(order), self.settings.batch_size):
            yield self._by_id(order[start : start + self.settings.batch_size], wanted)

    def _by_id(self, fids: Any, wanted: list[str]) -> _Record:
        with self._reading():
            meta, _, wkb, values = pyogrio.raw.read(
                self.path, layer=self.layer, encoding=self._raw_encoding, columns=self._raw_names(wanted), fids=fids
            )
        columns = zip(meta["fields"], values, strict=True)
        return fids, wkb, {self._text(name): gpd.pd.Series(column) for name, column in columns}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Log what GDAL warns of, and turn its errors into one that names the file."""
        try:
            with gdal_warnings() as messages:
                yield
        except (DataSourceError, DataLayerError, FeatureError, RuntimeError, ArrowException, OSError) as error:
            why = " ".join(str(error).split())
            raise VectorError(
                f"{self.path} layer {self.layer}: cannot be read ({why}); repair or re-export it"
            ) from error
        for message in messages:
            logger.debug("%s layer %s: %s", self.path.name, self.layer, message.message)

    # Bytes pass as Latin-1 and are decoded here, since a character cut at the field's end must not stop the read.
    @property
    def _raw_encoding(self) -> str | None:
        return "ISO-8859-1" if self.encoding else None

    def _raw_names(self, wanted: list[str]) -> list[str]:
        """Return names as GDAL, which reads them as Latin-1, knows them."""
        if self.encoding is None:
            return wanted
        with self._reading():
            names = pyogrio.read_info(self.path, layer=self.layer, encoding=self._raw_encoding)["fields"]
        return [str(name) for name in names if self._text(str(name)) in wanted]

    def _text(self, name: str) -> str:
        if self.encoding is None:
            return name
        return name.encode("latin-1").decode(self.encoding, errors="replace").rstrip("\ufffd")

    def _decoded(self, column: Any, counts: RepairCounts) -> Any:
        if self.encoding is None or not (column.dtype == object or gpd.pd.api.types.is_string_dtype(column)):
            return column.to_numpy()
        encoding, texts = self.encoding, []
        for value in column.tolist():
            if not isinstance(value, str):
                texts.append(None if gpd.pd.isna(value) else value)
                continue
            text = value.encode("latin-1").decode(encoding, errors="replace")
            counts.undecodable_text += "\ufffd" in text
            texts.append(text.rstrip("\ufffd"))
        return texts


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
    name = pick_layer(path, layer)
    encoding = detect(path, settings.encoding) if path.suffix.lower() == ".shp" else None
    with gdal_warnings():
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
    bounds = _extent(path, name, info["total_bounds"])
    crs, notes = checked_crs(
        info["crs"], bounds, where, guess=settings.guess_crs, central_meridian=settings.central_meridian,
        empty=not info["features"],
    )  # fmt: skip
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


def _extent(path: Path, layer: str, declared: Any) -> Bounds:
    """Return the extent of a layer; where coordinates that are not finite spoil it, that of the others."""
    if declared is None:
        return (0.0, 0.0, 0.0, 0.0)
    west, south, east, north = (float(value) for value in declared)
    if not np.isfinite((west, south, east, north)).all():
        with gdal_warnings():
            boxes = pyogrio.read_bounds(path, layer=layer)[1]
        boxes = boxes[:, np.isfinite(boxes).all(axis=0)]
        if boxes.size:
            (west, south), (east, north) = boxes[:2].min(axis=1).tolist(), boxes[2:].max(axis=1).tolist()
    return (west, south, east, north)


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
