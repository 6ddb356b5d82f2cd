"""The dossier as PDF: what `report.html` shows, one page a finding, with numbered pages and a list of findings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reportlab.lib.colors import HexColor, white
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import PageBreak, SimpleDocTemplate, Spacer, Table, TableStyle

from tuban.postprocess.fields import words_of
from tuban.postprocess.legend import fonts, role_name
from tuban.postprocess.pdf_blocks import MARGIN, PADDING, RED, SOFT, WIDE, Blocks, mu_text
from tuban.postprocess.pdf_figures import Figure, Map
from tuban.postprocess.pdf_fonts import register
from tuban.postprocess.wording import metres_text, number_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_PROBE = {"zh": "图斑疑似耕地", "en": "图斑"}
_SHORT = 40  # characters of a value that shares a row
_AREAS = ("farmland", "permitted", "conform", "nonconform")


def write(draft: Path, context: Mapping[str, Any], *, lang: str, font: str | None) -> list[str]:
    """Lay the content of a report out as PDF.

    Args:
        draft: the file to write; the caller gives it its final name.
        context: `Content.context` of `tuban.postprocess.report`.
        lang: `zh` or `en`.
        font: path of the font to embed; None looks for one.

    Returns:
        What should be said of the font.

    Raises:
        UsageError: `font` cannot be used.
        OSError: the disk filled up.
    """
    texts = (*_texts(context), *_texts(words_of("class", lang)), "■—–→·²±")
    faces = register(texts, font=font, candidates=fonts(), probe=_PROBE[lang])
    sheet = _Sheet(context, lang, faces)
    with draft.open("wb") as stream:
        document = SimpleDocTemplate(
            stream,
            pagesize=A4,
            leftMargin=MARGIN,
            rightMargin=MARGIN,
            topMargin=MARGIN,
            bottomMargin=MARGIN + 4 * mm,
            title=context["heading"],
            author="tuban",
            lang="zh-CN" if lang == "zh" else "en",
            invariant=1,  # no clock, no random id: the same content gives the same bytes
        )
        document.build(list(sheet.story()), canvasmaker=sheet.canvas)
    return list(faces.notes)


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a nested value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


class _Sheet(Blocks):
    """Turns the content into what reportlab lays out."""

    def story(self) -> Iterator[Any]:
        """Yield the pages from cover to provenance."""
        yield from self._cover()
        yield from self._list()
        for card in self.context["cards"]:
            yield PageBreak()
            yield from self._finding(card)
        yield PageBreak()
        yield from self._provenance()

    @property
    def canvas(self) -> type[Canvas]:
        """The canvas that writes the running foot, which needs the number of pages."""
        footer = f"tuban · {self.context['heading']}"
        face, words = self.faces.regular, self.t["page"]

        class Numbered(Canvas):  # type: ignore[misc]  # reportlab has no type information
            """Keeps the pages' state until their number is known."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self._kept: list[dict[str, Any]] = []

            def showPage(self) -> None:  # noqa: N802 - reportlab's name
                """Keep a page."""
                self._kept.append(dict(self.__dict__))
                self._startPage()

            def save(self) -> None:
                """Write all pages with their foot."""
                for number, state in enumerate(self._kept, start=1):
                    self.__dict__.update(state)
                    self.setFont(face, 7.5)
                    self.setFillColor(SOFT)
                    self.drawString(MARGIN, 9 * mm, footer)
                    self.drawRightString(A4[0] - MARGIN, 9 * mm, words.format(page=number, pages=len(self._kept)))
                    super().showPage()
                super().save()

        return Numbered

    def _cover(self) -> Iterator[Any]:
        context, t = self.context, self.t
        yield self.text(context["heading"], 19, bold=True, after=4)
        yield self.boxed(self.text(t["disclaimer"], 9.5), HexColor("#fdf3f2"), RED)
        yield Spacer(0, 4)
        yield self.pairs(self._facts())
        said = [f"{t['left_out']}: {text}" for text in context.get("left_out") or ()]
        said += [
            f"{t['stages'].get(note['stage'], note['stage'])}: {note['text']}" if note["stage"] else note["text"]
            for note in context["notes"]
        ]
        yield self.heading(t["notes"])
        for text in said or [t["notes_none"]]:
            yield self.text(f"· {text}", 9)
        if context["untranslated"]:
            yield self.text(t["notes_untranslated"], 8, soft=True)
        yield self.heading(t["summary"])
        yield from self._summary()
        overview = context["overview"]
        if overview:
            yield self.heading(t["overview"])
            marks = [(card["number"], card["place"], card["color"]) for card in context["cards"] if card["place"]]
            yield Map(overview, marks, (WIDE, 190 * mm), self.faces.regular)
            yield self.legend(context["legend"] + self._zone_legend())

    def _facts(self) -> Iterator[tuple[str, str]]:
        context, t = self.context, self.t
        for key in ("before", "after"):
            scene = context["scenes"][key]
            parts = [scene.get("date") or t["unknown"], scene.get("name"), scene.get("sensor")]
            if scene.get("gsd_m"):
                parts.append(f"{number_text(float(scene['gsd_m']))} m")
            yield t[key], " · ".join(str(part) for part in parts if part)
        model, pack = context["run"]["model"] or {}, context["run"]["rule_pack"] or {}
        yield t["model"], f"{model['name']} {model['version']}" if model else t["none_used"]
        yield t["rule_pack"], f"{pack['id']} {pack['version']}" if pack else t["none_used"]

    def _summary(self) -> Iterator[Any]:
        context, t = self.context, self.t
        if context["judged"]:
            said = [f"{context['status_names'].get(status, status)} {count}" for status, count in context["totals"]]
            yield self.text(" · ".join(said) or t["summary_none"], 10, bold=bool(said))
            heads: tuple[str, ...] = tuple(t[key] for key in ("rule", "severity", "status", "findings"))
            heads += (f"{t['patch_area']} {t['mu']}", f"{t['zone_area']} {t['mu']}")
            rows = [
                (f"{row['rule_id']} {row['title']}", row["severity"], context["status_names"].get(row["status"], "—"),
                 str(row["count"]), mu_text(row["area_m2"]), mu_text(row["overlap_m2"]))
                for row in context["summary"]
            ]  # fmt: skip
            if rows:
                yield self.table(heads, rows, (64, 16, 22, 18, 31, 31), right=3)
                yield self.text(t["summary_overlap_note"], 8, soft=True)
        else:
            yield self.boxed(self.text(t["no_plan"], 9.5), HexColor("#fff8e6"), HexColor("#d9a400"))
        moves = [
            (f"{self.class_name(row['from_class'])} → {self.class_name(row['to_class'])}", str(row["count"]),
             number_text(row["area_m2"], 0), mu_text(row["area_m2"]))
            for row in context["change_rows"]
        ]  # fmt: skip
        if moves:
            heads = (t["change"], t["changes_total"], "m²", t["mu"])
            yield self.table(heads, moves, (92, 30, 30, 30), right=1)

    def _list(self) -> Iterator[Any]:
        """Yield the list of findings, which goes over as many pages as it needs."""
        context, t = self.context, self.t
        listed = context["listed"]
        if not listed or not context["judged"]:
            yield self.text(context["shown_text"], 9, soft=True)
            return
        total = sum(count for _, count in context["totals"])
        yield PageBreak()
        yield self.heading(t["list"])
        key = "cards_all" if len(listed) == total else "list_some"
        yield self.text(t[key].format(shown=len(listed), total=total), 9, soft=True)
        yield self.text(t["pages_own"].format(shown=len(context["cards"])), 9, soft=True)
        heads = ("", t["ids"], t["rule"], t["severity"], t["status"], t["zone"], t["change"],
                 f"{t['patch_area']} {t['mu']}", f"{t['zone_area']} {t['mu']}")  # fmt: skip
        rows = [
            (str(number), str(row.get("finding_id") or "—"), str(row["rule_id"]), str(row["severity"]),
             context["status_names"].get(row["status"], str(row["status"])),
             role_name(str(row.get("zone_role") or "—"), self.lang),
             f"{self.class_name(row.get('from_class'))} → {self.class_name(row.get('to_class'))}",
             mu_text(row.get("area_m2")), mu_text(row.get("overlap_m2")))
            for number, row in enumerate(listed, start=1)
        ]  # fmt: skip
        yield self.table(heads, rows, (9, 31, 12, 12, 16, 32, 34, 18, 18), right=7)

    def _finding(self, card: Mapping[str, Any]) -> Iterator[Any]:
        context, t, row = self.context, self.t, card["row"]
        title = f"{card['number']}  {self.class_name(row['from_class'])} → {self.class_name(row['to_class'])}"
        if context["judged"]:
            status = context["status_names"].get(row["status"], row["status"])
            severity = f"{row['severity']} {context['severity_names'].get(row['severity'], '')}"
            title = f"{card['number']}  {status} · {severity} · {row['rule_id']} {card['title']}"
        bar = Table([[self.text(title, 12, bold=True, color=white)]], colWidths=[WIDE])
        bar.setStyle(TableStyle([("BACKGROUND", (0, 0), (-1, -1), HexColor(card["color"])), *PADDING]))
        yield bar
        yield Spacer(0, 6)
        yield from self._figures(card)
        yield self.pairs(self._numbers(card), columns=2)
        if row["touches_edge"]:
            yield self.text(t["edge"], 9, color=RED)
        for key in ("reason", "basis"):
            if row[key]:
                yield self.text(f"{t[key]}：{row[key]}" if self.lang == "zh" else f"{t[key]}: {row[key]}", 9, before=3)
        if card["trace"]:
            yield self.heading(t["trace"], size=9)
            yield self.pairs(_joined(card["trace"]), size=7.5)
        if card["rests_on"]:
            yield self.heading(t["rests_on"], size=9)
            yield self.hashes(card["rests_on"])

    def _figures(self, card: Mapping[str, Any]) -> Iterator[Any]:
        t = self.t
        chip, overlay = card["chip"], card["overlay"]
        wide = (WIDE - 12) / 3
        shared: dict[str, Any] = {
            "face": self.faces.regular,
            "words": (metres_text, t["north"]),
            "zone_colors": self.context["zone_colors"],
        }
        cells: list[list[Any]] = []
        if chip is not None:
            for side in ("before", "after"):
                figure = Figure(chip, side, card["color"], wide, **shared)
                cells.append([figure, self.text(f"{t[side]} {card[side]}", 8)])
            legend = [(role_name(role, self.lang), self.context["zone_colors"][role]) for role, _ in chip.zones]
            bands = f"{t['false_colour']}: {' '.join(chip.bands)}" + (f" · {t['partial']}" if chip.partial else "")
            cells[0] += [self.text(bands, 7, soft=True)]
            cells[1] += [self.legend(legend)] if legend else []
        if overlay is not None:
            legend = [(t["overlay_caption"], card["color"])]
            legend += [(role_name(layer.role, self.lang), layer.color) for layer in overlay.layers]
            below = [self.text(t["overlay"], 8), self.legend(legend)]
            below += [] if overlay.layers else [self.text(t["overlay_none"], 7, soft=True)]
            below += (
                [self.text(t["overlay_hidden"].format(hidden=overlay.hidden), 7, soft=True)] if overlay.hidden else []
            )
            cells.append([Figure(overlay, "", card["color"], wide, **shared), *below])
        if cells:
            row = Table([cells], colWidths=[wide + 6] * len(cells), hAlign="LEFT")
            row.setStyle(TableStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0),
                                     ("RIGHTPADDING", (0, 0), (-1, -1), 6)]))  # fmt: skip
            yield row
        if chip is None:
            why = "no_pixels_here" if self.context["has_pair"] else "no_pictures"
            yield self.text(t[why] if card["lonlat"] else t["no_places"], 8.5, soft=True, after=3)

    def _numbers(self, card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        t, row = self.t, card["row"]
        yield t["change"], f"{self.class_name(row['from_class'])} → {self.class_name(row['to_class'])}"
        yield t["area"], self.area(row["area_m2"])
        if self.context["judged"]:
            yield t["zone"], role_name(str(row["zone_role"] or "—"), self.lang)
            yield t["overlap"], self.area(row["overlap_m2"])
            if row["overlap_min_m2"] is not None:
                least, most = (number_text(row[f"overlap_{end}_m2"], 0) for end in ("min", "max"))
                yield t["overlap_range"], f"{least} – {most} m²"
            for key in _AREAS:
                if row[f"{key}_m2"] is not None:
                    yield t[key], self.area(row[f"{key}_m2"])
        yield t["confidence"], "—" if row["confidence"] is None else f"{number_text(row['confidence'] * 100, 0)} %"
        if card["lonlat"]:
            yield t["position"], "{:.6f}, {:.6f}".format(*card["lonlat"])
        yield t["date"], " → ".join(str(card[side]) for side in ("before", "after") if card[side]) or t["unknown"]
        yield t["ids"], " / ".join(str(row[key]) for key in ("finding_id", "change_id") if row[key])

    def _provenance(self) -> Iterator[Any]:
        context, t = self.context, self.t
        yield self.heading(t["provenance"])
        yield self.text(t["run_json"], 8.5, soft=True)
        run = context["run"]
        rows = [
            (str(entry["role"]), str(entry["name"]), str(entry.get("sha256") or entry.get("etag") or "—"))
            for entry in run["inputs"] or ()
        ]
        if rows:
            yield self.hashes(rows)
        versions = " · ".join(f"{name} {version}" for name, version in (run["versions"] or {}).items())
        yield self.text(f"{t['versions']}: {versions}", 7.5, soft=True, before=4)
        if run["content_sha256"]:
            yield self.text(f"run.json content_sha256: {run['content_sha256']}", 7.5, soft=True)

    def _zone_legend(self) -> list[tuple[str, str]]:
        colors = self.context["zone_colors"]
        return [(role_name(role, self.lang), colors[role]) for role in self.context["zone_roles"]]


def _joined(trace: Iterable[tuple[str, list[str]]]) -> Iterator[tuple[str, str]]:
    """Yield the long values of a trace in a row each, and the short ones together in one."""
    short = []
    for label, lines in trace:
        if len(lines) == 1 and len(lines[0]) <= _SHORT:
            short.append(f"{label} {lines[0]}")
        else:
            yield label, "\n".join(lines)
    if short:
        yield "", " · ".join(short)
