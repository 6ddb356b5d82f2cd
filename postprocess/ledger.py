"""The XLSX ledger (台账): streamed row by row, safe against formula injection, the same bytes on every run."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import xlsxwriter
from xlsxwriter.exceptions import XlsxWriterException

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tuban.postprocess.fields import ExportField
    from tuban.postprocess.rows import Rows

SHEET_ROWS = 1_048_575
"""Rows of one Excel sheet below its heading; more go to further sheets."""

_CELL_CHARACTERS = 32_767
_FIXED = dt.datetime(2000, 1, 1)  # noqa: DTZ001 - XLSX holds naive times
_RISKY = ("=", "+", "-", "@", "\t", "\r", "\n")
# What XML 1.0 cannot hold; xlsxwriter would write escapes that people see.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LONG = frozenset({"reason", "basis"})
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


def write_ledger(path: Path, rows: Rows, *, sheet_rows: int = SHEET_ROWS) -> list[str]:
    """Write findings as an Excel workbook.

    Text that a spreadsheet would run as a formula (a leading `= + - @`, tab or line break) gets an apostrophe in front;
    numbers stay numbers. The heading row is frozen and has filters; fields with choices offer them; a second sheet
    explains the columns and says what was left out.

    Args:
        path: the file to write; the caller gives it its final name.
        rows: what to write, with the table and the language.
        sheet_rows: rows a sheet may hold.

    Returns:
        What had to be changed in the values.

    Raises:
        OSError: the disk filled up.
    """
    options = {
        # Rows go to a file beside the workbook as they come, instead of staying in memory.
        "constant_memory": True,
        "tmpdir": str(path.parent),
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
    }
    book = xlsxwriter.Workbook(str(path), options)
    book.set_properties({"author": "tuban", "created": _FIXED})
    with contextlib.ExitStack() as opened:
        opened.callback(abandon, book)
        ledger = _Ledger(book, rows, sheet_rows)
        for frame in rows.table_frames():
            for values in frame.itertuples(index=False, name=None):
                ledger.append(values)
        ledger.finish()
        try:
            book.close()
        except XlsxWriterException as error:
            raise OSError(str(error)) from error
        opened.pop_all()
    cleaned = ledger.cleaned
    return [f"{cleaned} texts held control characters or were too long for a cell and were cut"] if cleaned else []


def abandon(book: Any) -> None:
    """Close what xlsxwriter leaves open when a workbook is given up; the caller removes the files."""
    for sheet in book.worksheets():
        for stream in (sheet.row_data_fh, sheet.fh):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):  # closing writes the rest, and fails again
                    stream.close()


def safe_text(text: str) -> str:
    """Return text that no spreadsheet runs as a formula.

    Example:
        >>> safe_text("=1+1"), safe_text("农田"), safe_text("  @x")
        ("'=1+1", '农田', "'  @x")
    """
    # Some spreadsheets skip leading blanks before they look for a formula.
    return f"'{text}" if text.startswith(_RISKY) or text.lstrip().startswith(_RISKY) else text


class _Ledger:
    """The sheets of a workbook, filled row by row."""

    def __init__(self, book: Any, rows: Rows, sheet_rows: int) -> None:
        self.book, self.rows, self.fields, self.sheet_rows = book, rows, rows.table.fields, sheet_rows
        self.at = 0 if rows.lang == "zh" else 1
        self.cleaned = 0
        self.total = 0
        self.line = sheet_rows
        self.sheets: list[Any] = []
        self.heading = book.add_format(
            {"bold": True, "font_color": "#FFFFFF", "bg_color": "#8B1A1A", "align": "center", "valign": "vcenter"}
            | {"text_wrap": True, "bottom": 1, "bottom_color": "#5A6675"}
        )
        self.styles = [self._style(field) for field in self.fields]

    def append(self, values: Sequence[Any]) -> None:
        """Write one row, on a new sheet where the last is full."""
        if self.line == self.sheet_rows:
            self._open()
        self.line += 1
        self.total += 1
        sheet = self.sheets[-1]
        for column, (value, style) in enumerate(zip(values, self.styles, strict=True)):
            if isinstance(value, str):
                kept = _CONTROL.sub("", value)[: _CELL_CHARACTERS - 1]
                self.cleaned += kept != value
                sheet.write_string(self.line, column, safe_text(kept), style)
            elif value is not None and value == value and abs(value) != float("inf"):  # noqa: PLR0124 - NaN
                sheet.write_number(self.line, column, value, style)

    def finish(self) -> None:
        """Close the sheets and write the one that explains the columns."""
        if not self.sheets:
            self._open()
        self._close()
        self._about()

    def _style(self, field: ExportField) -> Any:
        if field.source in _LONG:
            return self.book.add_format({"text_wrap": True, "valign": "top"})
        if field.type == "str":
            return None
        decimals = field.decimals if field.type == "float" else 0
        whole = "0" if field.source in {"lon", "lat"} or field.type == "int" else "#,##0"
        return self.book.add_format({"num_format": whole + ("." + "0" * decimals if decimals else "")})

    def _open(self) -> None:
        if self.sheets:
            self._close()
        number = len(self.sheets) + 1
        sheet = self.book.add_worksheet(_WORDS["ledger"][self.at] + (f" {number}" if number > 1 else ""))
        sheet.freeze_panes(1, 0)
        sheet.repeat_rows(0)
        sheet.set_landscape()
        sheet.fit_to_pages(1, 0)
        for column, field in enumerate(self.fields):
            heading = getattr(field, self.rows.lang)
            # A Chinese character is about two digits wide.
            wide = sum(2 if ord(character) > 0x2E80 else 1 for character in heading)
            sheet.set_column(column, column, max(60 if field.source in _LONG else 12, wide + 4))
            sheet.write_string(0, column, heading, self.heading)
        self.sheets.append(sheet)
        self.line = 0

    def _close(self) -> None:
        """Give the last sheet its filter and its choices, whose extent is known only now."""
        sheet = self.sheets[-1]
        sheet.autofilter(0, 0, max(self.line, 1), len(self.fields) - 1)
        for column, field in enumerate(self.fields):
            if field.choices:
                offered = {"validate": "list", "source": list(field.choices), "error_type": "warning"}
                sheet.data_validation(1, column, max(self.line, 1), column, offered)

    def _about(self) -> None:
        sheet = self.book.add_worksheet(_WORDS["about"][self.at])
        sheet.set_column("A:A", 36)
        sheet.set_column("B:B", 24)
        sheet.set_column("C:C", 36)
        table = self.rows.table
        lines: list[tuple[Any, ...]] = [
            (table.title[self.rows.lang],),
            (_WORDS["suspected"][self.at],),
            *((text,) for text in self.rows.restriction.statements(self.rows.lang)),
            (_WORDS["rows"][self.at], self.total),
            (),
            tuple(_WORDS[key][self.at] for key in ("heading", "name", "source")),
        ]
        heading = len(lines) - 1
        for field in self.fields:
            source = _WORDS["blank"][self.at] if field.conversion == "blank" else field.source or "lon, lat"
            lines.append((field.zh if self.at == 0 else field.en, field.name, source))
        for line, cells in enumerate(lines):
            for column, cell in enumerate(cells):
                write = sheet.write_number if isinstance(cell, int) else sheet.write_string
                write(line, column, cell, self.heading if line == heading else None)
