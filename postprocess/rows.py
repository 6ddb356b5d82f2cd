"""The findings of an export as Arrow batches: restricted, under the names of a field table, never all in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import shapely

from tuban.postprocess.fields import convert, fit
from tuban.postprocess.restrict import PLACE_COLUMNS
from tuban.postprocess.streams import iter_layer, read_columns, read_extent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import geopandas as gpd
    import pandas as pd
    from numpy.typing import NDArray

    from tuban.postprocess.fields import ExportField, FieldTable, Lang
    from tuban.postprocess.restrict import Restriction

_WKB = {"ARROW:extension:name": "ogc.wkb"}
_TYPES = {"float": pa.float64(), "str": pa.string(), "int": pa.int32()}


class Rows:
    """The rows of one layer on their way into a file; formats with needs of their own derive from it.

    Args:
        source: `findings.gpkg`.
        table: the field table; it is fit to the layer.
        restriction: what is left out.
        lang: language of words.
        batch: rows in memory at a time.
        wgs84: whether the format must be in EPSG:4326.
        layer: of `source`.

    Attributes:
        table: the fields as exported.
        crs: CRS of the geometries as exported.
        count: rows handed out so far.

    Raises:
        UsageError: the layer lacks a column of the table.
        VectorError: the layer cannot be read.
    """

    codes = False
    """Whether coded values stay codes, for the format's coded domains hold the words."""

    def __init__(
        self,
        source: Path,
        table: FieldTable,
        restriction: Restriction,
        *,
        lang: Lang = "zh",
        batch: int = 5000,
        wgs84: bool = False,
        layer: str = "findings",
    ) -> None:
        self.source, self.restriction, self.lang, self.batch, self.layer = source, restriction, lang, batch, layer
        without = () if restriction.geometry else PLACE_COLUMNS
        self.table = fit(table, read_columns(source, layer), without=without)
        self.source_crs, bounds = read_extent(source, layer)
        restriction.prepare(self.source_crs, bounds)
        self.crs = "EPSG:4326" if wgs84 else self.source_crs
        self.count = 0

    @property
    def geometry(self) -> bool:
        """Whether the rows have places."""
        return self.restriction.geometry

    def name(self, field: ExportField) -> str:
        """Return the name of a column in the format."""
        return field.name

    def kind(self, field: ExportField) -> pa.DataType:
        """Return the type of a column in the format."""
        return _TYPES[field.type]

    def remarks(self, field: ExportField) -> dict[str, str]:
        """Return what GDAL is told about a column beside its type: its alias in the reader's language."""
        return {"GDAL:OGR:alternative_name": field.zh if self.lang == "zh" else field.en}

    def values(self, field: ExportField, column: pd.Series[Any]) -> pa.Array:
        """Return the values of a column in the format's type."""
        if field.type == "int":
            return pa.array(column.astype("float64").astype("Int64"), self.kind(field), from_pandas=True)
        return pa.array(column, self.kind(field), from_pandas=True)

    @property
    def attributes(self) -> pa.Schema:
        """The columns without geometry."""
        return pa.schema([pa.field(self.name(f), self.kind(f), metadata=self.remarks(f)) for f in self.table.fields])

    @property
    def schema(self) -> pa.Schema:
        """The columns, with `geometry` (ISO WKB) last where rows have places."""
        shape = pa.field("geometry", pa.binary(), metadata=_WKB)
        return self.attributes.append(shape) if self.geometry else self.attributes

    def frames(self) -> Iterator[gpd.GeoDataFrame]:
        """Yield the restricted rows under the names of the layer itself."""
        read = self.geometry or self.restriction.clip is not None
        for frame in self.restriction.apply(iter_layer(self.source, self.layer, batch=self.batch, geometry=read)):
            self.count += len(frame)
            if len(frame):
                yield frame

    def table_frames(self) -> Iterator[pd.DataFrame]:
        """Yield the restricted rows under the names of the field table, without geometry."""
        for frame in self.frames():
            yield convert(frame, self.table, lang=self.lang, codes=self.codes)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as Arrow batches of `schema`."""
        schema = self.schema
        for frame in self.frames():
            words = convert(frame, self.table, lang=self.lang, codes=self.codes)
            arrays = [self.values(field, words[field.name]) for field in self.table.fields]
            if self.geometry:
                shapes = frame.geometry if self.crs == self.source_crs else frame.geometry.to_crs(self.crs)
                arrays.append(pa.array(shapely.to_wkb(multi(shapes.to_numpy()), flavor="iso"), pa.binary()))
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def reader(self) -> pa.RecordBatchReader:
        """Return the batches as a stream that GDAL reads once."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())


def multi(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return geometries with every Polygon as a MultiPolygon of one part, as a layer of one type needs them."""
    single = shapely.get_type_id(shapes) == int(shapely.GeometryType.POLYGON)
    if single.any():
        shapes = shapes.copy()
        shapes[single] = shapely.multipolygons(shapes[single], indices=np.arange(int(single.sum())))
    return shapes
