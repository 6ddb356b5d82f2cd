"""`tuban export`: findings as layers, ledger or report, for the programs inspectors use."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely
from pyogrio.raw import write_arrow

from tuban.errors import UsageError
from tuban.postprocess.fields import convert, load_fields
from tuban.postprocess.ledger import write_ledger
from tuban.postprocess.manifest import FILE_NAME
from tuban.postprocess.page import LANGUAGES
from tuban.postprocess.report import write_report
from tuban.postprocess.streams import fixed_times, iter_layer, output_errors, read_info

if TYPE_CHECKING:
    from collections.abc import Iterator

    import geopandas as gpd

    from tuban.postprocess.fields import FieldTable, Lang
    from tuban.postprocess.sources import PixelSource

logger = logging.getLogger(__name__)

SHAPEFILE_ENCODING = "GB18030"
_DBF_BYTES = 254
_LAYER = "findings"


@dataclass(frozen=True, slots=True)
class _Format:
    """A vector format that GDAL writes: driver, suffix, whether it must be in WGS 84, driver options."""

    driver: str
    suffix: str
    wgs84: bool = False
    options: tuple[tuple[str, str], ...] = ()


_VECTOR = {
    "gpkg": _Format("GPKG", ".gpkg"),
    "shp": _Format("ESRI Shapefile", ".shp"),
    "gdb": _Format("OpenFileGDB", ".gdb"),
    "geojson": _Format("GeoJSON", ".geojson", wgs84=True, options=(("RFC7946", "YES"),)),
    "flatgeobuf": _Format("FlatGeobuf", ".fgb"),
    "kml": _Format("KML", ".kml", wgs84=True),
}
_SUFFIXES = {name: form.suffix for name, form in _VECTOR.items()} | {
    "geoparquet": ".parquet",
    "xlsx": ".xlsx",
    "html": ".html",
}
FORMATS = tuple(_SUFFIXES)
"""Formats that work."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        path: the file or folder (File GDB) to open.
        files: everything written, in order.
        rows: findings in it.
        notes: what the format could not hold.
    """

    path: Path
    files: tuple[Path, ...]
    rows: int
    notes: tuple[str, ...]


def export(
    findings_gpkg: str | Path,
    fmt: str,
    out: str | Path,
    *,
    lang: str = "zh",
    profile: str = "neutral",
    pair: PixelSource | None = None,
    batch: int = 5000,
) -> ExportResult:
    """Write the findings of a run in another format.

    Args:
        findings_gpkg: `findings.gpkg` of a run, or the run's folder.
        fmt: one of `FORMATS`.
        out: the file to write, or an existing folder (then the file is called `findings` plus the format's suffix).
        lang: language of headings and words, `zh` or `en`.
        profile: field table, `neutral`, `cn-weipian` or the path of a YAML file (`docs/outputs.md`).
        pair: pixels for the chips of `html`; without them the report has none and says so.
        batch: findings held in memory at a time.

    Returns:
        What was written; `notes` says what the format could not hold.

    Raises:
        UsageError: unknown format, language or field table, or an `out` with another format's suffix.
        VectorError: the findings cannot be read.
        OutputError: the result cannot be written; nothing is left under its final name.
    """
    if fmt not in _SUFFIXES:
        raise UsageError(f"cannot export to {fmt!r}; the formats that work are: {', '.join(FORMATS)}")
    if lang not in LANGUAGES:
        raise UsageError(f"no headings in language {lang!r}; use one of: {', '.join(LANGUAGES)}")
    words: Lang = "zh" if lang == "zh" else "en"
    source = Path(findings_gpkg)
    source = source / "findings.gpkg" if source.is_dir() and source.suffix != ".gdb" else source
    table = load_fields(profile)
    target = _target(Path(out), fmt)
    if target.resolve() == source.resolve():
        raise UsageError(f"{target} is the file to export from; give another --out")
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tuban-", dir=target.parent))
    try:
        draft = folder / target.name
        with output_errors(target):
            rows, notes = _write(fmt, source, draft, table, words, pair, batch)
            files = _place(folder, draft, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not rows:
        notes.append("there are no findings; the changes are in the layer `changes` of findings.gpkg")
    logger.info("exported %d findings as %s", rows, fmt)
    return ExportResult(target, files, rows, tuple(notes))


def _write(
    fmt: str, source: Path, draft: Path, table: FieldTable, lang: Lang, pair: PixelSource | None, batch: int
) -> tuple[int, list[str]]:
    rows, _ = read_info(source, _LAYER)
    if fmt == "html":
        return rows, _report(source, draft, lang, pair)
    if fmt == "gpkg" and table.id == "neutral" and source.suffix == ".gpkg":
        # Nothing is renamed: the whole file with all layers and styles.
        shutil.copyfile(source, draft)
        return rows, []
    if fmt == "xlsx":
        return write_ledger(draft, iter_layer(source, _LAYER, batch=batch, geometry=False), table, lang=lang)
    stream = _Stream(source, table, lang, batch, fmt)
    if fmt == "geoparquet":
        _geoparquet(stream, draft)
    else:
        _vector(stream, draft, _VECTOR[fmt])
    notes = [f"{name}: {count} texts cut to {_DBF_BYTES} bytes" for name, count in sorted(stream.cut.items())]
    if fmt == "shp":
        _dictionary(draft, table, stream.cut)
    return rows, notes


class _Stream:
    """The findings as Arrow batches under the names of a field table."""

    def __init__(self, source: Path, table: FieldTable, lang: Lang, batch: int, fmt: str) -> None:
        self.source, self.table, self.lang, self.batch = source, table, lang, batch
        self.shapefile = fmt == "shp"
        self.wgs84 = fmt in _VECTOR and _VECTOR[fmt].wgs84
        self.crs = "EPSG:4326" if self.wgs84 else read_info(source, _LAYER)[1]
        self.cut: dict[str, int] = {}
        kinds = {"float": pa.float64(), "str": pa.string()}
        names = [field.shp if self.shapefile else field.name for field in table.fields]
        self.attributes = pa.schema([(n, kinds[f.type]) for n, f in zip(names, table.fields, strict=True)])
        wkb = pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "ogc.wkb"})
        self.schema = self.attributes.append(wkb)

    def reader(self) -> pa.RecordBatchReader:
        """Return the stream, read once."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches."""
        for frame in iter_layer(self.source, _LAYER, batch=self.batch):
            values = convert(frame, self.table, lang=self.lang)
            values.columns = self.attributes.names
            if self.shapefile:
                for name in (field.name for field in self.attributes if field.type == pa.string()):
                    values[name] = [self._fitting(name, text) for text in values[name]]
            shapes: gpd.GeoSeries = frame.geometry
            if self.wgs84:
                shapes = shapes.to_crs(4326)
            columns = pa.RecordBatch.from_pandas(values, schema=self.attributes, preserve_index=False).columns
            yield pa.RecordBatch.from_arrays(
                [*columns, pa.array(shapely.to_wkb(shapes.to_numpy()), pa.binary())], schema=self.schema
            )

    def _fitting(self, name: str, text: str | None) -> str | None:
        """Return text that fits a DBF field, cut between characters; cuts are counted."""
        if text is None or len(raw := text.encode(SHAPEFILE_ENCODING)) <= _DBF_BYTES:
            return text
        self.cut[name] = self.cut.get(name, 0) + 1
        return raw[:_DBF_BYTES].decode(SHAPEFILE_ENCODING, errors="ignore")


def _vector(stream: _Stream, draft: Path, form: _Format) -> None:
    options: dict[str, Any] = dict(form.options)
    if form.driver == "ESRI Shapefile":
        options["encoding"] = SHAPEFILE_ENCODING
    if form.driver == "KML":
        options["dataset_options"] = {"NameField": _kml_name(stream.table)}
    with fixed_times():
        write_arrow(
            stream.reader(),
            draft,
            layer=draft.stem if form.driver == "ESRI Shapefile" else _LAYER,
            driver=form.driver,
            geometry_name="geometry",
            geometry_type="MultiPolygon",
            crs=stream.crs,
            **options,
        )
    _check_whole(draft)


def _check_whole(draft: Path) -> None:
    """Refuse a truncated Shapefile or KML: GDAL's drivers do not notice when the disk fills up as they close a file."""
    if draft.suffix == ".kml":
        with draft.open("rb") as stream:
            stream.seek(max(0, draft.stat().st_size - 64))
            whole = stream.read().rstrip().endswith(b"</kml>")
    elif draft.suffix == ".shp":
        dbf = draft.with_suffix(".dbf")
        with dbf.open("rb") as stream:
            _, rows, header, width = struct.unpack("<4sIHH", stream.read(12).ljust(12, b"\0"))
        with draft.open("rb") as stream:
            words = int.from_bytes(stream.read(28)[24:], "big")
        whole = 0 < header + rows * width <= dbf.stat().st_size and 0 < 2 * words <= draft.stat().st_size
    else:
        return
    if not whole:
        raise OSError("the disk filled up before the end of the file")


def _kml_name(table: FieldTable) -> str:
    """Return the column that names a placemark: the finding's id, or else the first column."""
    return next((field.name for field in table.fields if field.source == "finding_id"), table.fields[0].name)


def _geoparquet(stream: _Stream, draft: Path) -> None:
    """Write GeoParquet 1.1 batch by batch; the metadata needs no look at the data."""
    column = {
        "encoding": "WKB",
        "geometry_types": ["MultiPolygon"],
        "crs": pyproj.CRS.from_user_input(stream.crs).to_json_dict(),
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    # The extension name is Arrow's; readers of GeoParquet want plain bytes and the metadata.
    schema = stream.attributes.append(pa.field("geometry", pa.binary())).with_metadata({"geo": json.dumps(geo)})
    with pq.ParquetWriter(draft, schema, compression="zstd") as writer:
        for batch in stream.batches():
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))


def _report(source: Path, draft: Path, lang: Lang, pair: PixelSource | None) -> list[str]:
    record = source.parent / FILE_NAME
    if not record.is_file():
        raise UsageError(f"no {FILE_NAME} beside {source}; the report needs it, so export from the folder of the run")
    run = json.loads(record.read_text(encoding="utf-8"))
    judged = run.get("rule_pack") is not None
    write_report(draft, run=run, findings=source if judged else None, changes=source, pair=pair, lang=lang)
    return [] if pair is not None else ["no imagery was given, so the report has no before/after pictures"]


def _dictionary(draft: Path, table: FieldTable, cut: dict[str, int]) -> None:
    """Write what the short names of a Shapefile mean, as CSV that Excel opens in Chinese."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\r\n")
    rows.writerow(["字段 field", "全名 name", "中文", "English", "截断条数 texts cut"])
    rows.writerows([field.shp, field.name, field.zh, field.en, cut.get(field.shp, 0)] for field in table.fields)
    draft.with_name(f"{draft.stem}_fields.csv").write_text(text.getvalue(), encoding="utf-8-sig", newline="")


def _target(out: Path, fmt: str) -> Path:
    suffix = _SUFFIXES[fmt]
    if out.is_dir() and out.suffix.lower() != ".gdb":
        return out / f"{_LAYER}{suffix}"
    if out.suffix.lower() == suffix or (fmt == "geojson" and out.suffix.lower() == ".json"):
        return out
    if out.suffix:
        raise UsageError(f"--out {out} does not end in {suffix}, as {fmt} needs; rename it or give a folder")
    return out.with_name(out.name + suffix)


def _place(folder: Path, draft: Path, target: Path) -> tuple[Path, ...]:
    """Give every finished file its final name, the one people open last."""
    parts = sorted(folder.iterdir(), key=lambda part: (part == draft, part.name))
    placed = []
    for part in parts:
        final = target.parent / part.name
        if final.is_dir():
            # A folder cannot be replaced in one step: the old one steps aside into the temporary folder.
            final.replace(folder / f"{part.name}.old")
        part.replace(final)
        placed.append(final)
    return (target, *(part for part in placed if part != target))
