"""Shapefiles as old desktops read them: GB18030, short names, a dictionary beside them, parts below 2 GB."""

from __future__ import annotations

import csv
import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import shapely
from pyogrio.raw import write_arrow

from tuban.postprocess.rows import Rows
from tuban.postprocess.streams import fixed_times

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

    from tuban.postprocess.fields import ExportField

ENCODING = "GB18030"
TEXT_BYTES = 254
PART_BYTES = 2**31 - 2**16
"""Size of a .dbf or .shp that every reader takes: many keep offsets in signed 32-bit numbers."""

_DECIMAL_DIGITS = 18
_DECIMAL_WIDTH = 20  # GDAL adds room for the sign and the point
_INTEGER_WIDTH = 9  # what a DBF reader holds as a 32-bit number


class ShapeRows(Rows):
    """Rows with short names, texts that fit a DBF field and numbers with the table's decimals.

    Attributes:
        widths: bytes of each text field, known after `measure`.
        cut: texts cut to `TEXT_BYTES`, by short name.
        shape_bytes: size of the geometries in a .shp, known after `measure`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.widths = {field.shp: 1 for field in self.table.fields if field.type == "str"}
        self.cut: dict[str, int] = {}
        self.shape_bytes = 0

    def measure(self) -> int:
        """Look at every row once for the widths of the texts, which a DBF needs first; return the number of rows."""
        rows = 0
        for batch in self.batches():
            rows += batch.num_rows
            self.shape_bytes += int(_shape_bytes(batch).sum())
            for name in self.widths:
                texts = batch.column(name).drop_null().to_pylist()
                self.widths[name] = max(self.widths[name], *(len(text.encode(ENCODING)) for text in texts), 1)
        # Counted once, not once more while writing.
        self.count = 0
        self.restriction.reset()
        self.cut.clear()
        return rows

    @property
    def record_bytes(self) -> int:
        """Size of one DBF record."""
        kinds = {"float": _DECIMAL_WIDTH, "int": _INTEGER_WIDTH}
        return 1 + sum(self.widths.get(field.shp) or kinds[field.type] for field in self.table.fields)

    def name(self, field: ExportField) -> str:
        """Return the short name."""
        return field.shp

    def kind(self, field: ExportField) -> pa.DataType:
        """Return the type: a decimal carries the width and decimals of a DBF number."""
        if field.type == "float":
            return pa.decimal128(_DECIMAL_DIGITS, field.decimals)
        return super().kind(field)

    def remarks(self, field: ExportField) -> dict[str, str]:
        """Return the width of a text or integer field."""
        if field.type == "float":
            return {}
        return {"GDAL:OGR:width": str(self.widths.get(field.shp) or _INTEGER_WIDTH)}

    def values(self, field: ExportField, column: pd.Series[Any]) -> pa.Array:
        """Return the values of a column; texts are cut between characters, and counted."""
        if field.type == "float":
            finite = column.where(np.isfinite(column.to_numpy(float)))
            return pa.array(finite, pa.float64(), from_pandas=True).cast(self.kind(field))
        if field.type == "int":
            return super().values(field, column)
        return pa.array([self._fitting(field.shp, text) for text in column], pa.string())

    def _fitting(self, name: str, text: str | None) -> str | None:
        # A character takes at most four bytes.
        if text is None or len(text) * 4 <= TEXT_BYTES or len(raw := text.encode(ENCODING)) <= TEXT_BYTES:
            return text
        self.cut[name] = self.cut.get(name, 0) + 1
        return raw[:TEXT_BYTES].decode(ENCODING, errors="ignore")


def write_shapefiles(rows: ShapeRows, draft: Path, *, part_bytes: int = PART_BYTES) -> tuple[list[Path], list[str]]:
    """Write the rows as one Shapefile, or as several where one would grow beyond what readers take.

    Args:
        rows: what to write; read twice, first for the widths.
        draft: path of the .shp; parts are called `NAME_1.shp`, `NAME_2.shp` …
        part_bytes: size that neither .dbf nor .shp may reach.

    Returns:
        The .shp files, and what had to be cut or split.

    Raises:
        OSError: the disk filled up.
    """
    total = rows.measure()
    header = 33 + 32 * len(rows.table.fields)
    most = max(1, (part_bytes - header) // rows.record_bytes)
    whole = total <= most and 100 + rows.shape_bytes < part_bytes
    splitter = _Splitter(rows.batches(), most, part_bytes - 100)
    paths: list[Path] = []
    while splitter.more() or not paths:
        path = draft if whole else draft.with_name(f"{draft.stem}_{len(paths) + 1}.shp")
        with fixed_times():
            write_arrow(
                pa.RecordBatchReader.from_batches(rows.schema, splitter.part()),
                path,
                layer=path.stem,
                driver="ESRI Shapefile",
                geometry_name="geometry",
                geometry_type="MultiPolygon",
                crs=rows.crs,
                encoding=ENCODING,
            )
        _check_whole(path)
        paths.append(path)
    notes = [f"{name}: {count} texts cut to {TEXT_BYTES} bytes" for name, count in sorted(rows.cut.items())]
    if len(paths) > 1:
        notes.append(f"split into {len(paths)} Shapefiles, for one file holds at most {part_bytes / 2**30:.2g} GB")
    _dictionary(draft, rows)
    return paths, notes


class _Splitter:
    """Cuts a stream of batches into parts of bounded size."""

    def __init__(self, batches: Iterator[pa.RecordBatch], most_rows: int, most_bytes: int) -> None:
        self._batches, self._most_rows, self._most_bytes = batches, most_rows, most_bytes
        self._left: pa.RecordBatch | None = None

    def more(self) -> bool:
        """Whether rows are left."""
        while self._left is None or not self._left.num_rows:
            self._left = next(self._batches, None)
            if self._left is None:
                return False
        return True

    def part(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches of the next part."""
        rows, size = self._most_rows, self._most_bytes
        while rows and self.more() and (batch := self._left) is not None:
            sizes = np.cumsum(_shape_bytes(batch))
            fits = min(rows, int(np.searchsorted(sizes, size, side="right")))
            # One geometry larger than a whole part still has to go somewhere: into a part of its own.
            if not fits and size == self._most_bytes:
                fits = 1
            if not fits:
                return
            self._left = batch.slice(fits)
            rows, size = rows - fits, size - int(sizes[fits - 1])
            yield batch.slice(0, fits)


def _shape_bytes(batch: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the bytes of each geometry in a .shp: record header, box, counts, part starts, points."""
    shapes = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
    parts, owner = shapely.get_parts(shapes, return_index=True)
    rings = np.bincount(owner, 1 + shapely.get_num_interior_rings(parts), minlength=len(shapes))
    sizes: np.ndarray[Any, np.dtype[np.int64]] = (52 + 4 * rings + 16 * shapely.get_num_coordinates(shapes)).astype(
        np.int64
    )
    return sizes


def _check_whole(path: Path) -> None:
    """Refuse a truncated Shapefile: GDAL's driver does not notice when the disk fills up as it closes a file."""
    dbf = path.with_suffix(".dbf")
    with dbf.open("rb") as stream:
        _, rows, header, width = struct.unpack("<4sIHH", stream.read(12).ljust(12, b"\0"))
    with path.open("rb") as stream:
        words = int.from_bytes(stream.read(28)[24:], "big")
    if not (0 < header + rows * width <= dbf.stat().st_size and 0 < 2 * words <= path.stat().st_size):
        raise OSError("the disk filled up before the end of the file")


def _dictionary(draft: Path, rows: ShapeRows) -> None:
    """Write what the short names mean and what was left out, as CSV that Excel opens in Chinese."""
    text = io.StringIO()
    sheet = csv.writer(text, lineterminator="\r\n")
    sheet.writerow(["字段 field", "全名 name", "中文", "English", "截断条数 texts cut"])
    sheet.writerows(
        [field.shp, field.name, field.zh, field.en, rows.cut.get(field.shp, 0)] for field in rows.table.fields
    )
    statements = zip(rows.restriction.statements("zh"), rows.restriction.statements("en"), strict=True)
    sheet.writerows(["", "", zh, en, ""] for zh, en in statements)
    draft.with_name(f"{draft.stem}_fields.csv").write_text(text.getvalue(), encoding="utf-8-sig", newline="")
