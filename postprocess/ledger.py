"""The XLSX ledger (台账): streamed row by row, safe against formula injection, the same bytes on every run."""

from __future__ import annotations

import datetime as dt
import re
import zipfile
from typing import TYPE_CHECKING, Any

from openpyxl import Workbook
from openpyxl.cell import Cell, WriteOnlyCell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter

from tuban.postprocess.fields import convert

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import geopandas as gpd

    from tuban.postprocess.fields import ExportField, FieldTable, Lang

SHEET_ROWS = 1_048_575
"""Rows of one Excel sheet below its heading; more go to further sheets."""

_CELL_CHARACTERS = 32_767
_FIXED = dt.datetime(2000, 1, 1)  # noqa: DTZ001 - XLSX holds naive times
_RISKY = ("=", "+", "-", "@", "\t", "\r", "\n")
_WORDS = {
    "ledger": ("台账", "Ledger"),
    "about": ("说明", "About"),
    "rows": ("记录数", "Rows"),
    "suspected": (
        "本台账所列均为疑似图斑，须经人工核实；合法性判定由人员填写。",
        "Every row is suspected only and must be verified by people, who also fill in the judgement.",
    ),
    "heading": ("列", "Column"),
    "name": ("字段名", "Field"),
    "source": ("来源", "Source"),
    "blank": ("（人工填写）", "(for people to fill in)"),
}


def write_ledger(
    path: Path, frames: Iterable[gpd.GeoDataFrame], table: FieldTable, *, lang: Lang, sheet_rows: int = SHEET_ROWS
) -> tuple[int, list[str]]:
    """Write findings as an Excel workbook.

    Text that a spreadsheet would run as a formula (a leading `= + - @`, tab or line break) gets an apostrophe in front;
    numbers stay numbers. The heading row is frozen and has filters; a second sheet explains the columns.

    Args:
        path: the file to write; the caller gives it its final name.
        frames: rows with the contract's columns of `findings`.
        table: the columns.
        lang: language of headings and words.
        sheet_rows: rows a sheet may hold.

    Returns:
        The number of rows, and what had to be changed in the values.
    """
    at = 0 if lang == "zh" else 1
    book = Workbook(write_only=True)
    sheets: list[Any] = []
    rows = 0
    cleaned = 0
    for frame in frames:
        for values in convert(frame, table, lang=lang).itertuples(index=False, name=None):
            if rows == len(sheets) * sheet_rows:
                sheets.append(_sheet(book, table, lang, len(sheets) + 1))
            cells, changed = _cells(sheets[-1], values, table.fields)
            sheets[-1].append(cells)
            rows += 1
            cleaned += changed
    if not sheets:
        sheets.append(_sheet(book, table, lang, 1))
    last = get_column_letter(len(table.fields))
    for number, sheet in enumerate(sheets):
        height = min(sheet_rows, max(rows - number * sheet_rows, 0)) + 1
        sheet.auto_filter.ref = f"A1:{last}{height}"
    _about(book, table, at, rows)
    book.properties.created = _FIXED
    book.properties.creator = "tuban"
    book.save(path)
    _freeze_times(path)
    notes = [f"{cleaned} texts held control characters or were too long for a cell and were cut"] if cleaned else []
    return rows, notes


def safe_text(text: str) -> str:
    """Return text that no spreadsheet runs as a formula.

    Example:
        >>> safe_text("=1+1"), safe_text("农田"), safe_text("  @x")
        ("'=1+1", '农田', "'  @x")
    """
    # Some spreadsheets skip leading blanks before they look for a formula.
    return f"'{text}" if text.startswith(_RISKY) or text.lstrip().startswith(_RISKY) else text


def _sheet(book: Workbook, table: FieldTable, lang: Lang, number: int) -> Any:
    sheet = book.create_sheet(_WORDS["ledger"][lang != "zh"] + (f" {number}" if number > 1 else ""))
    sheet.freeze_panes = "A2"
    sheet.print_title_rows = "1:1"
    sheet.page_setup.orientation = "landscape"
    for column, field in enumerate(table.fields, start=1):
        heading = getattr(field, lang)
        # A Chinese character is about two digits wide.
        wide = sum(2 if ord(character) > 0x2E80 else 1 for character in heading)
        roomy = 60 if field.source in {"reason", "basis"} else 12
        sheet.column_dimensions[get_column_letter(column)].width = max(roomy, wide + 4)
    sheet.append([_heading(sheet, getattr(field, lang)) for field in table.fields])
    return sheet


def _heading(sheet: Any, text: str) -> Cell:
    cell = WriteOnlyCell(sheet, text)
    cell.font = Font(bold=True, color="FFFFFF")
    cell.fill = PatternFill("solid", fgColor="8B1A1A")
    cell.alignment = Alignment(horizontal="center", vertical="center", wrap_text=True)
    cell.border = Border(bottom=Side("thin", color="5A6675"))
    return cell


def _cells(sheet: Any, values: tuple[Any, ...], fields: tuple[ExportField, ...]) -> tuple[list[Cell], int]:
    cells = []
    changed = 0
    for value, field in zip(values, fields, strict=True):
        missing = value is None or value != value  # noqa: PLR0124 - NaN is unequal to itself
        if isinstance(value, str):
            kept = ILLEGAL_CHARACTERS_RE.sub("", value)[: _CELL_CHARACTERS - 1]
            changed += kept != value
            cell = WriteOnlyCell(sheet, safe_text(kept))
            # openpyxl reads a leading "=" as a formula; what is text stays text.
            cell.data_type = "s"
            if field.source in {"reason", "basis"}:
                cell.alignment = Alignment(wrap_text=True, vertical="top")
        else:
            cell = WriteOnlyCell(sheet, None if missing else float(value))
            cell.number_format = "#,##0" + ("." + "0" * field.decimals if field.decimals else "")
            if field.source in {"lon", "lat"}:
                cell.number_format = "0." + "0" * field.decimals
        cells.append(cell)
    return cells, changed


def _about(book: Workbook, table: FieldTable, at: int, rows: int) -> None:
    sheet: Any = book.create_sheet(_WORDS["about"][at])
    for column, width in zip("ABC", (36, 24, 36), strict=True):
        sheet.column_dimensions[column].width = width
    sheet.append([table.title["zh" if at == 0 else "en"]])
    sheet.append([_WORDS["suspected"][at]])
    sheet.append([_WORDS["rows"][at], rows])
    sheet.append([])
    sheet.append([_heading(sheet, _WORDS[key][at]) for key in ("heading", "name", "source")])
    for field in table.fields:
        source = _WORDS["blank"][at] if field.conversion == "blank" else field.source or "lon, lat"
        sheet.append([field.zh if at == 0 else field.en, field.name, source])


def _freeze_times(path: Path) -> None:
    """Rewrite the workbook with fixed times: openpyxl stamps both the archive's entries and `modified`."""
    fresh = path.with_name(path.name + ".fixed")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as new:
        for name in sorted(old.namelist()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            if name == "docProps/core.xml":
                stamp = _FIXED.isoformat() + "Z"
                text = old.read(name).decode()
                new.writestr(entry, re.sub(r"(<dcterms:modified[^>]*>)[^<]*", rf"\g<1>{stamp}", text))
                continue
            with old.open(name) as source, new.open(entry, "w", force_zip64=True) as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
    fresh.replace(path)
