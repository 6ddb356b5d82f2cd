"""What the PDF is built of: paragraphs, tables and legends in one look."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from reportlab.lib.colors import HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import LongTable, Paragraph, Table, TableStyle

from tuban.data.classes import classes
from tuban.postprocess.area import to_mu
from tuban.postprocess.wording import number_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tuban.postprocess.pdf_fonts import Faces

MARGIN = 14 * mm
WIDE = A4[0] - 2 * MARGIN - 12  # reportlab's frame keeps six points on either side
SOFT = HexColor("#5a6675")
RED = HexColor("#a31515")
_INK = HexColor("#1c2430")
_LINE = HexColor("#dde3ea")
_GROUND = HexColor("#f3f5f8")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
PADDING = [
    ("LEFTPADDING", (0, 0), (-1, -1), 8),
    ("TOPPADDING", (0, 0), (-1, -1), 4),
    ("BOTTOMPADDING", (0, 0), (-1, -1), 6),
]


@dataclass(slots=True)
class Blocks:
    """Makes the parts of a page in one language and one font.

    Attributes:
        context: `Content.context` of `tuban.postprocess.report`.
        lang: `zh` or `en`.
        faces: names of the fonts.
    """

    context: Mapping[str, Any]
    lang: str
    faces: Faces

    @property
    def t(self) -> Mapping[str, Any]:
        """The wording."""
        words: Mapping[str, Any] = self.context["t"]
        return words

    def hashes(self, rows: Iterable[tuple[str, str, str]]) -> Any:
        """Return rows of what something is, its name and its SHA-256."""
        cells = [
            [self.text(label, 7.5, soft=True), self.text(name, 7.5), self.text(digest or "—", 6.5)]
            for label, name, digest in rows
        ]
        # A SHA-256 fits one line.
        return _ruled(Table(cells, colWidths=[34 * mm, 52 * mm, WIDE - 86 * mm], hAlign="LEFT"))

    def pairs(self, rows: Iterable[tuple[str, str]], *, columns: int = 1, size: float = 9) -> Any:
        """Return label and value side by side, in one or two columns."""
        cells = [(self.text(label, size, soft=True), self.text(value, size)) for label, value in rows]
        cells += [("", "")] * (-len(cells) % columns)
        half = len(cells) // columns
        lines = [[cell for column in range(columns) for cell in cells[line + column * half]] for line in range(half)]
        label = 34 * mm
        return _ruled(Table(lines, colWidths=[label, WIDE / columns - label] * columns, hAlign="LEFT"))

    def table(
        self, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], widths: tuple[float, ...], *, right: int
    ) -> Any:
        """Return a table whose head stands on every page; columns from `right` on hold numbers."""
        cells = [[self.text(head, 8, soft=True, right=at >= right) for at, head in enumerate(heads)]]
        cells += [[self.text(text, 8, right=at >= right) for at, text in enumerate(row)] for row in rows]
        scale = WIDE / sum(widths)
        table = _ruled(LongTable(cells, colWidths=[width * scale for width in widths], repeatRows=1))
        table.setStyle(TableStyle([("BACKGROUND", (0, 0), (-1, 0), _GROUND)]))
        return table

    def legend(self, entries: Iterable[tuple[str, str]]) -> Any:
        """Return coloured marks with their labels, on as few lines as they need."""
        marks = [f'<font color="{color}">■</font> {escape(label)}' for label, color in entries]
        return Paragraph("　".join(marks), self.style(7.5))

    def heading(self, text: str, size: float = 12) -> Any:
        """Return a heading that stays with what follows."""
        return self.text(text, size, bold=True, before=7, after=3, keep=True)

    def text(
        self,
        text: str,
        size: float,
        *,
        bold: bool = False,
        soft: bool = False,
        right: bool = False,
        before: float = 0,
        after: float = 0,
        keep: bool = False,
        color: Any = None,
    ) -> Any:
        """Return a paragraph of plain text."""
        style = self.style(size, bold=bold, before=before, after=after, keep=keep)
        style.textColor = color or (SOFT if soft else HexColor("#1c2430"))
        style.alignment = TA_RIGHT if right else style.alignment
        return Paragraph(escape(_CONTROL.sub("", text)).replace("\n", "<br/>"), style)

    def style(self, size: float, *, bold: bool = False, before: float = 0, after: float = 0, keep: bool = False) -> Any:
        """Return the style of a paragraph, size and space in points."""
        return ParagraphStyle(
            "text",
            fontName=self.faces.bold if bold else self.faces.regular,
            fontSize=size,
            leading=size * 1.42,
            spaceBefore=before,
            spaceAfter=after,
            keepWithNext=keep,
            # Chinese breaks anywhere; English between words.
            wordWrap="CJK" if self.lang == "zh" else None,
            splitLongWords=1,
        )

    def boxed(self, paragraph: Any, ground: Any, edge: Any) -> Any:
        """Return a paragraph on a coloured ground with an edge on its left."""
        box = Table([[paragraph]], colWidths=[WIDE])
        box.setStyle(TableStyle([("BACKGROUND", (0, 0), (-1, -1), ground), ("LINEBEFORE", (0, 0), (0, -1), 3, edge),
                                 *PADDING]))  # fmt: skip
        return box

    def area(self, square_metres: float | None) -> str:
        """Return an area in m² and mu; a dash where it is unknown."""
        if square_metres is None:
            return "—"
        return f"{number_text(square_metres, 0)} m² ({mu_text(square_metres)} {self.t['mu']})"

    def class_name(self, name: object) -> str:
        """Return a unified class in words."""
        known = {entry.name: entry for entry in classes().values()}
        entry = known.get(str(name))
        if entry is None:
            return str(name or "—")
        return entry.zh if self.lang == "zh" else entry.name.replace("_", " ")


def _ruled(table: Any) -> Any:
    table.setStyle(
        TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LINEBELOW", (0, 0), (-1, -1), 0.4, _LINE),
                ("LEFTPADDING", (0, 0), (-1, -1), 3),
                ("RIGHTPADDING", (0, 0), (-1, -1), 3),
                ("TOPPADDING", (0, 0), (-1, -1), 1.5),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
            ]
        )
    )
    return table


def mu_text(square_metres: float | None) -> str:
    """Return an area in mu; a dash where it is unknown."""
    return "—" if square_metres is None else number_text(float(to_mu(square_metres)))
