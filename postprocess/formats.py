"""The vector formats of `tuban export`: what each is called, may hold, and how its file is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
from pyogrio.raw import write_arrow

from tuban.errors import UsageError
from tuban.postprocess.fields import domain_of, words_of
from tuban.postprocess.streams import FIXED_TIME, fixed_times
from tuban.postprocess.styles import embed_styles, findings_qml

if TYPE_CHECKING:
    from pathlib import Path

    from tuban.postprocess.fields import FieldTable
    from tuban.postprocess.rows import Rows

_LAYER = "findings"


@dataclass(frozen=True, slots=True)
class VectorFormat:
    """A format that GDAL writes from one stream: its driver, suffix, CRS and options.

    Attributes:
        driver: GDAL's name.
        suffix: of the file.
        wgs84: whether it must be in EPSG:4326.
        placeless: whether it may hold rows without geometry.
        options: of the driver.
    """

    driver: str
    suffix: str
    wgs84: bool = False
    placeless: bool = True
    options: tuple[tuple[str, str], ...] = ()


VECTOR = {
    "gpkg": VectorFormat("GPKG", ".gpkg"),
    "shp": VectorFormat("ESRI Shapefile", ".shp", placeless=False),
    "gdb": VectorFormat("OpenFileGDB", ".gdb"),
    "geojson": VectorFormat("GeoJSON", ".geojson", wgs84=True, options=(("RFC7946", "YES"),)),
    "flatgeobuf": VectorFormat("FlatGeobuf", ".fgb", placeless=False),
    "kml": VectorFormat("KML", ".kml", wgs84=True, placeless=False),
}
SUFFIXES = {name: form.suffix for name, form in VECTOR.items()} | {
    "geoparquet": ".parquet",
    "xlsx": ".xlsx",
    "html": ".html",
    "pdf": ".pdf",
}


def refuse_placeless(fmt: str) -> None:
    """Refuse a format that is nothing without places.

    Raises:
        UsageError: it is.
    """
    if fmt in VECTOR and not VECTOR[fmt].placeless:
        able = [name for name, form in VECTOR.items() if form.placeless]
        able += [name for name in (*SUFFIXES, "postgis") if name not in VECTOR]
        raise UsageError(f"{fmt} cannot hold findings without geometry; use one of: {', '.join(able)}")


def write_vector(rows: Rows, draft: Path, fmt: str) -> None:
    """Write the rows as GeoPackage, GeoJSON, FlatGeobuf or KML.

    Raises:
        OSError: the disk filled up.
    """
    form = VECTOR[fmt]
    # Options are about geometries; without any GDAL would warn that they have no CRS.
    options: dict[str, Any] = dict(form.options) if rows.geometry else {}
    if fmt == "kml":
        options["dataset_options"] = {"NameField": _kml_name(rows.table)}
    if fmt == "gpkg":
        options["dataset_options"] = {"VERSION": "1.2"}
    if fmt in {"gpkg", "geojson"} and rows.restriction.active:
        # Written before the rows, so it says what was asked; the counts stand in the sidecar.
        options["DESCRIPTION"] = rows.restriction.intent()
    with fixed_times():
        write_arrow(
            rows.reader(),
            draft,
            layer=_LAYER,
            driver=form.driver,
            geometry_name="geometry" if rows.geometry else None,
            geometry_type="MultiPolygon" if rows.geometry else None,
            crs=rows.crs if rows.geometry else None,
            **options,
        )
    if fmt == "kml":
        _check_whole(draft)
    if fmt == "gpkg" and rows.geometry and (qml := _style(rows)) is not None:
        embed_styles(draft, lang=rows.lang, time=FIXED_TIME, qml={_LAYER: qml})


def write_geoparquet(rows: Rows, draft: Path) -> None:
    """Write GeoParquet 1.1 batch by batch (plain Parquet where rows have no places)."""
    metadata: dict[str, str] = {}
    if rows.geometry:
        column = {
            "encoding": "WKB",
            "geometry_types": ["MultiPolygon"],
            "crs": pyproj.CRS.from_user_input(rows.crs).to_json_dict(),
        }
        metadata["geo"] = json.dumps(
            {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        )
    # GDAL's remarks and Arrow's extension name are for writers; readers of GeoParquet want plain columns.
    schema = pa.schema([pa.field(field.name, field.type) for field in rows.schema])
    with pq.ParquetWriter(draft, schema.with_metadata(metadata), compression="zstd") as writer:
        for batch in rows.batches():
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        if rows.restriction.active:
            writer.add_key_value_metadata({"tuban:restriction": json.dumps(rows.restriction.facts())})


def _style(rows: Rows) -> str | None:
    """Return the QGIS style under the table's names and words; None where it lacks status or severity."""
    columns = {field.source: field.name for field in rows.table.fields if domain_of(field) in {"status", "severity"}}
    if set(columns) != {"status", "severity"}:
        return None
    columns |= {field.source: field.name for field in rows.table.fields if field.source in {"rule_id", "area_mu"}}
    in_mu = (f.name for f in rows.table.fields if f.source == "area_m2" and f.conversion == "mu")
    columns.setdefault("area_mu", next(in_mu, "area_mu"))
    coded = {field.conversion for field in rows.table.fields} & {"status", "severity"}
    words = {code: word for name in coded for code, word in words_of(name, rows.lang).items()}
    return findings_qml(rows.lang, columns=columns, words=words)


def _check_whole(draft: Path) -> None:
    """Refuse a truncated KML: GDAL's driver does not notice when the disk fills up as it closes the file."""
    with draft.open("rb") as stream:
        stream.seek(max(0, draft.stat().st_size - 64))
        if not stream.read().rstrip().endswith(b"</kml>"):
            raise OSError("the disk filled up before the end of the file")


def _kml_name(table: FieldTable) -> str:
    """Return the column that names a placemark: the finding's id, or else the first column."""
    return next((field.name for field in table.fields if field.source == "finding_id"), table.fields[0].name)
