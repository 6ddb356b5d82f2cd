"""All problems of a plan as a layer and as a table, written as they are found."""

from __future__ import annotations

import contextlib
import csv
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import xlsxwriter
from xlsxwriter.exceptions import XlsxWriterException

from tuban.errors import OutputError, UsageError
from tuban.postprocess.layers import LayerWriter
from tuban.postprocess.ledger import abandon, safe_text
from tuban.postprocess.plan_qa import COLUMNS, QA_CRS, PlanQA, PlanQASettings, empty_problems, iter_problems
from tuban.postprocess.streams import output_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tuban.data.plan import Plan

TABLES = (".csv", ".xlsx")
_HEADINGS = {
    "en": (*COLUMNS, "lon", "lat"),
    "zh": ("检查项", "级别", "图层", "角色", "要素", "面积(平方米)", "说明", "经度", "纬度"),
}
_WIDTHS = (14, 6, 34, 28, 20, 14, 80, 12, 12)
_SHEET_ROWS = 1_048_575  # XLSX has a row more, which is the heading


def write_plan_qa(
    plan: Plan, *, layer: str | Path | None = None, table: str | Path | None = None,
    settings: PlanQASettings | None = None, lang: str = "zh",
) -> PlanQA:  # fmt: skip
    """Check a plan and write every problem, however many, in one pass and bounded memory.

    Args:
        plan: the layers.
        layer: GeoPackage to write; its layer `plan_qa` shows each problem where it lies.
        table: `.csv` (UTF-8 with a mark that Excel knows) or `.xlsx` to write: the same rows, with longitude and
            latitude of a point of each.
        settings: what is looked for.
        lang: language of styles and headings, `zh` or `en`.

    Returns:
        What `validate_plan` returns: the first problems, and the summary with what was written.

    Raises:
        UsageError: `table` is neither CSV nor XLSX; more rows than a sheet holds.
        OutputError: a file cannot be written; nothing is left under its name.
        VectorError: a layer became unreadable.
    """
    if table is not None and Path(table).suffix.lower() not in TABLES:
        raise UsageError(f"{table}: the table of problems is .csv or .xlsx; give one of these suffixes")
    settings = settings or PlanQASettings()
    summary: dict[str, Any] = {}
    frames: list[gpd.GeoDataFrame] = []
    shown = rows = 0
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(LayerWriter(layer, crs=QA_CRS, lang=lang)) if layer is not None else None
        write = stack.enter_context(_table(Path(table), lang)) if table is not None else None
        for frame in iter_problems(plan, summary, settings=settings):
            if shown < settings.shown:
                frames.append(frame.iloc[: settings.shown - shown])
                shown += len(frames[-1])
            if writer is not None:
                writer.append("plan_qa", frame)
            if write is not None:
                rows += len(frame)
                if Path(table or "").suffix.lower() == ".xlsx" and rows > _SHEET_ROWS:
                    raise UsageError(f"{table}: a sheet holds {_SHEET_ROWS} problems and there are more; give a .csv")
                for row in _rows(frame):
                    write(row)
    problems = gpd.pd.concat(frames, ignore_index=True) if frames else empty_problems()
    written = [str(path) for path in (layer, table) if path is not None]
    return PlanQA(problems, {**summary, "shown": shown, "written": written})


def _rows(frame: gpd.GeoDataFrame) -> Iterator[list[Any]]:
    points = [None if shape is None or shape.is_empty else shape.representative_point() for shape in frame.geometry]
    for values, point in zip(frame[list(COLUMNS)].itertuples(index=False), points, strict=True):
        place = ["", ""] if point is None else [round(point.x, 7), round(point.y, 7)]
        yield [safe_text(value) if isinstance(value, str) else value for value in (*values, *place)]


@contextlib.contextmanager
def _table(path: Path, lang: str) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Give a function that writes a row; the file gets its name when all are written."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".tuban-", dir=path.parent)
    with folder as name:
        part = Path(name) / path.name
        opened = _csv if path.suffix.lower() == ".csv" else _xlsx
        with opened(part, path) as write:
            write(_HEADINGS.get(lang, _HEADINGS["en"]))
            yield write
        with output_errors(path):
            part.replace(path)


@contextlib.contextmanager
def _csv(part: Path, path: Path) -> Iterator[Callable[[Sequence[Any]], None]]:
    with output_errors(path), part.open("w", encoding="utf-8-sig", newline="") as sink:
        yield csv.writer(sink).writerow


@contextlib.contextmanager
def _xlsx(part: Path, path: Path) -> Iterator[Callable[[Sequence[Any]], None]]:
    text = {"strings_to_formulas": False, "strings_to_urls": False}  # a name that begins with = is a name
    options = {"constant_memory": True, "tmpdir": str(part.parent), **text}
    book = xlsxwriter.Workbook(str(part), options)
    sheet = book.add_worksheet("plan_qa")
    sheet.freeze_panes(1, 0)
    for column, width in enumerate(_WIDTHS):
        sheet.set_column(column, column, width)
    count = 0

    def write(row: Sequence[Any]) -> None:
        nonlocal count
        sheet.write_row(count, 0, row)
        count += 1

    with contextlib.ExitStack() as opened:
        opened.callback(abandon, book)
        yield write
        sheet.autofilter(0, 0, max(count - 1, 0), len(_WIDTHS) - 1)
        try:
            book.close()
        except (OSError, XlsxWriterException) as error:
            said = " ".join(str(error).split())
            raise OutputError(
                f"cannot write {path}: {said}; free some space, or choose a folder you may write to"
            ) from error
        opened.pop_all()
