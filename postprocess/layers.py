"""`findings.gpkg`: the layers `findings`, `changes`, `plan_qa` and `unseen`, written in batches, styled for QGIS.

The file appears under its name only when it is complete. Two runs that append the same frames write the same bytes:
the times that a GeoPackage carries are set to `FIXED_TIME`.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely

from tuban.errors import VectorError
from tuban.postprocess.layer_columns import (
    CHANGE_COLUMNS,
    FINDING_COLUMNS,
    LAYERS,
    PLAN_QA_COLUMNS,
    UNSEEN_COLUMNS,
    USUAL,
)
from tuban.postprocess.streams import FIXED_TIME, fixed_times, iter_layer, output_errors, pyogrio_crs, read_info
from tuban.postprocess.styles import embed_styles, layer_styles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from pyproj import CRS

logger = logging.getLogger(__name__)

__all__ = [
    "CHANGE_COLUMNS",
    "FINDING_COLUMNS",
    "LAYERS",
    "PLAN_QA_COLUMNS",
    "UNSEEN_COLUMNS",
    "USUAL",
    "LayerWriter",
    "iter_layer",
    "output_errors",
    "pyogrio_crs",
    "read_info",
    "write_layers",
]

_DTYPES = {"str": "object", "float": "float64", "int": "int64", "bool": "bool"}


class LayerWriter:
    """Writes `findings.gpkg` batch by batch; use it as a context manager.

    Frames of several layers may be appended in any order. On leaving the block without an error every layer exists
    (an empty one with its columns), the styles are embedded, and the file gets its final name; after an error nothing
    is left.

    Args:
        path: the final name; an older file there is replaced.
        crs: the CRS of every layer; frames in another CRS are refused.
        lang: language of the style names and labels, `zh` or `en`.
        layers: those that the file has, in order.

    Attributes:
        counts: rows written, by layer.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
        VectorError: a frame lacks a column, has others than the batch before it, or is in another CRS (plan_qa is
            reprojected).
    """

    def __init__(
        self, path: str | Path, *, crs: CRS | str | int, lang: str = "zh", layers: Sequence[str] = USUAL
    ) -> None:
        self.path = Path(path)
        self.crs = pyogrio_crs(crs)
        self.lang = lang
        self.counts: dict[str, int] = dict.fromkeys(layers, 0)
        self._extra: dict[str, dict[str, str]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._file = self.path

    def __enter__(self) -> Self:
        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix=".tuban-", dir=self.path.parent)
        self._file = Path(self._folder.name) / self.path.name
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._folder is not None:
                self._folder.cleanup()

    def append(self, layer: str, frame: gpd.GeoDataFrame) -> None:
        """Append the rows of `frame` to one of the file's layers."""
        if layer not in self.counts:
            raise VectorError(f"{self.path.name} has no layer {layer!r}; use one of: {', '.join(self.counts)}")
        if frame.empty:
            return
        self._write(layer, self._conform(layer, frame))
        self.counts[layer] += len(frame)

    def tee(self, layer: str, frames: Iterable[gpd.GeoDataFrame]) -> Iterator[gpd.GeoDataFrame]:
        """Append each frame and pass it on, so that the next step reads the stream once."""
        for frame in frames:
            self.append(layer, frame)
            yield frame

    def _conform(self, layer: str, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """Return `frame` with the layer's columns in order and in their types, then the columns beyond them."""
        if layer == "plan_qa" and frame.crs is not None:
            # Problems are found in the plan's CRS and only pointed at; a finding's outline is never moved.
            frame = frame.to_crs(self.crs)
        elif frame.crs is None or pyogrio_crs(frame.crs) != self.crs:
            raise VectorError(f"rows for {layer} are in {frame.crs}, the file is in {self.crs}; reproject them first")
        wanted = LAYERS[layer]
        missing = [name for name in wanted if name not in frame.columns]
        if missing and layer != "plan_qa":
            raise VectorError(f"rows for {layer} lack {', '.join(missing)}; the contract names every column")
        geometry = frame.geometry.name
        further = {str(n): str(frame[n].dtype) for n in frame.columns if n not in wanted and n != geometry}
        known = self._extra.setdefault(layer, further)
        if set(further) != set(known):
            odd = sorted(set(further) ^ set(known))
            raise VectorError(f"batches for {layer} differ in the columns {', '.join(odd)}; give each batch the same")
        data = {name: _column(frame.get(name), kind, len(frame)) for name, kind in wanted.items()}
        data |= {name: frame[name].astype(kind).to_numpy() for name, kind in known.items()}
        return gpd.GeoDataFrame(data, geometry=_areal(frame.geometry.to_numpy()), crs=self.crs)

    def _write(self, layer: str, frame: gpd.GeoDataFrame) -> None:
        exists = self._file.exists() and (self.counts[layer] > 0)
        with output_errors(self.path), fixed_times():
            pyogrio.write_dataframe(
                frame,
                self._file,
                layer=layer,
                driver="GPKG",
                append=exists,
                geometry_type="MultiPolygon",
                promote_to_multi=True,
                # 1.2 is the oldest version in use: QGIS and ArcGIS of some years ago open it without a warning.
                dataset_options={"VERSION": "1.2"},
            )

    def _finish(self) -> None:
        for layer, rows in self.counts.items():
            if not rows:
                blank = {name: pd.Series(dtype=_DTYPES[kind]) for name, kind in LAYERS[layer].items()}
                self._write(layer, gpd.GeoDataFrame(blank, geometry=[], crs=self.crs))
        with output_errors(self.path):
            embed_styles(self._file, lang=self.lang, time=FIXED_TIME, qml=layer_styles(self.counts, self.lang))
            self._file.replace(self.path)
        logger.info("wrote %s: %s", self.path.name, self.counts)


def write_layers(
    path: str | Path,
    *,
    crs: CRS | str | int,
    changes: Iterable[gpd.GeoDataFrame] = (),
    findings: Iterable[gpd.GeoDataFrame] = (),
    plan_qa: Iterable[gpd.GeoDataFrame] = (),
    lang: str = "zh",
) -> dict[str, int]:
    """Write `findings.gpkg` from three streams and return the rows written, by layer.

    Args:
        path: the file to write.
        crs: the CRS of every frame.
        changes: frames with `CHANGE_COLUMNS`.
        findings: frames with `FINDING_COLUMNS`.
        plan_qa: frames with `PLAN_QA_COLUMNS`.
        lang: language of the styles, `zh` or `en`.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
        VectorError: a frame does not fit its layer.
    """
    with LayerWriter(path, crs=crs, lang=lang) as writer:
        for layer, frames in (("changes", changes), ("findings", findings), ("plan_qa", plan_qa)):
            for frame in frames:
                writer.append(layer, frame)
        return writer.counts


def _areal(geometries: Any) -> Any:
    """Return the areas of mixed geometries (None where there are none); areas pass as they are."""
    kinds = shapely.get_type_id(geometries)
    mixed = ~np.isin(kinds, (-1, int(shapely.GeometryType.POLYGON), int(shapely.GeometryType.MULTIPOLYGON)))
    if mixed.any():
        geometries = geometries.copy()
        for at in np.flatnonzero(mixed):
            parts = [part for part in shapely.get_parts(geometries[at]) if part.geom_type == "Polygon"]
            geometries[at] = shapely.MultiPolygon(parts) if parts else None
    return geometries


def _column(values: pd.Series | None, kind: str, rows: int) -> object:
    """Return a column in its declared type; an absent one (plan_qa only) is empty."""
    if values is None:
        values = pd.Series([None] * rows, dtype="object")
    if kind == "str":
        # Dates and codes arrive as several types; the layer holds text.
        return values.map(lambda value: None if pd.isna(value) else str(value)).astype("object").to_numpy()
    return values.astype(_DTYPES[kind]).to_numpy()
