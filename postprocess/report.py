"""The report, HTML or PDF: one file an inspector can open, mail and print; nothing in it is loaded from elsewhere."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jinja2
from pydantic import BaseModel, ConfigDict, Field

from tuban.data.classes import classes
from tuban.errors import UsageError
from tuban.postprocess.chips import ChipSettings
from tuban.postprocess.legend import is_zone, role_name
from tuban.postprocess.manifest import write_text
from tuban.postprocess.overview import Overview
from tuban.postprocess.page import CHANGE_COLOR, LANGUAGES, Page, row_color
from tuban.postprocess.streams import iter_layer, pyogrio_crs
from tuban.postprocess.tally import Tally
from tuban.postprocess.wording import metres_text, number_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import geopandas as gpd

    from tuban.postprocess.sources import PixelSource, ZoneSource

logger = logging.getLogger(__name__)


class ReportSettings(BaseModel):
    """What the report shows.

    Attributes:
        max_cards: findings (or changes, without a plan) that get a card; the report says how many do not.
        overview_px: longest side of the overview picture.
        max_listed: findings in the list of the PDF; it says how many there are in all.
        font: font file to embed in the PDF; None looks for one that holds Chinese (`configs/legend.yaml`).
        chips: how the before/after chips are cut.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_cards: int = Field(60, ge=0, le=2000)
    overview_px: int = Field(1400, ge=200, le=6000)
    max_listed: int = Field(500, ge=0, le=20_000)
    font: str | None = None
    chips: ChipSettings = ChipSettings()


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What was written: the file, the rows with a card, the rows there are in all, and what should be said of it."""

    path: Path
    cards: int
    total: int
    notes: tuple[str, ...] = ()


def write_report(
    out: str | Path,
    *,
    run: Mapping[str, Any],
    findings: str | Path | Iterable[gpd.GeoDataFrame] | None,
    changes: str | Path | Iterable[gpd.GeoDataFrame] | None = None,
    pair: PixelSource | None = None,
    zones: Sequence[ZoneSource] = (),
    lang: str = "zh",
    settings: ReportSettings | None = None,
    left_out: Callable[[], Sequence[str]] = tuple,
    fmt: Literal["html", "pdf"] = "html",
) -> ReportSummary:
    """Write `report.html`, or the report as PDF: cover, list of findings, one page a finding, provenance.

    Args:
        out: the file to write; a PDF is written directly, so give it a temporary name.
        run: `Manifest.content()` or a read `run.json`; only what stands in both is shown, so that the same inputs give
            the same bytes.
        findings: `findings.gpkg` or frames with `FINDING_COLUMNS`; None for a run without a plan.
        changes: `findings.gpkg` or frames with `CHANGE_COLUMNS`; they get the cards where there is no plan.
        pair: where pixels come from; None for a vector check, and the report says so.
        zones: plan layers; zones are outlined on the imagery, all layers stand on the overlay figures.
        lang: `zh` or `en`.
        settings: sizes and the number of cards.
        left_out: says, after the rows are read, what an export left out of them.
        fmt: one HTML file, or a PDF.

    Raises:
        UsageError: `lang` is not known, or `settings.font` cannot be used.
        VectorError: a layer cannot be read.
        OutputError: the HTML file cannot be written.
        OSError: the disk filled up while the PDF was written.
    """
    settings = settings or ReportSettings()
    content = gather(
        findings, changes, run=run, pair=pair, zones=zones, lang=lang, settings=settings,
        listed=settings.max_listed if fmt == "pdf" else 0,
    )  # fmt: skip
    content.context["left_out"] = list(left_out())
    notes: Sequence[str] = ()
    if fmt == "pdf":
        from tuban.postprocess import pdf

        notes = pdf.write(Path(out), content.context, lang=lang, font=settings.font)
    else:
        write_text(Path(out), _environment(lang).get_template("report.html.j2").render(content.context))
    logger.info("report: %d of %d rows have a card", content.cards, content.total)
    return ReportSummary(Path(out), content.cards, content.total, tuple(notes))


@dataclass(frozen=True, slots=True)
class Content:
    """What a report shows, before it is laid out: the template's variables, cards, and rows in all.

    Attributes:
        context: variables of `report.html.j2`, and `listed`: rows of the list, which holds more than have a card.
        cards: rows with a card.
        total: rows there are.
    """

    context: dict[str, Any]
    cards: int
    total: int


def gather(
    findings: str | Path | Iterable[gpd.GeoDataFrame] | None,
    changes: str | Path | Iterable[gpd.GeoDataFrame] | None,
    *,
    run: Mapping[str, Any],
    pair: PixelSource | None,
    zones: Sequence[ZoneSource],
    lang: str,
    settings: ReportSettings,
    listed: int = 0,
) -> Content:
    """Read the rows once and prepare what a report shows; parameters as of `write_report`.

    Args:
        findings: as of `write_report`.
        changes: as of `write_report`.
        run: as of `write_report`.
        pair: as of `write_report`.
        zones: as of `write_report`.
        lang: as of `write_report`.
        settings: as of `write_report`.
        listed: rows kept for a list, beyond those with a card.

    Raises:
        UsageError: `lang` is not known.
        VectorError: a layer cannot be read.
    """
    if lang not in LANGUAGES:
        raise UsageError(f"no report in language {lang!r}; use one of: {', '.join(LANGUAGES)}")
    judged = findings is not None
    outlined = [zone for zone in zones if is_zone(zone.role)]
    overview = Overview(pair, outlined, longest_px=settings.overview_px) if pair is not None else None
    keep = max(settings.max_cards, listed)
    tally = Tally(("rule_id", "severity", "status"), keep if judged else 0)
    moves = Tally(("from_class", "to_class"), 0 if judged else keep)
    crs: object = None
    for frame in _frames(findings, "findings"):
        crs = frame.crs
        rows = tally.add(frame)
        if overview is not None:
            _mark(overview, frame, pair, [row_color(row) for row in rows])
    for frame in _frames(changes, "changes"):
        crs = crs or frame.crs
        moves.add(frame)
        if overview is not None and not judged:
            _mark(overview, frame, pair, [CHANGE_COLOR] * len(frame))
    page = Page(run, pair, zones, overview, lang, settings.chips)
    top = (tally if judged else moves).top()
    cards = [page.card(at, row, shape, crs) for at, (row, shape) in enumerate(top[: settings.max_cards], start=1)]
    context = page.context(tally, moves, cards, judged=judged)
    context["listed"] = [row for row, _ in top[:listed]]
    return Content(context, len(cards), (tally if judged else moves).total)


def _frames(source: str | Path | Iterable[gpd.GeoDataFrame] | None, layer: str) -> Iterator[gpd.GeoDataFrame]:
    if source is None:
        return
    frames: Iterable[gpd.GeoDataFrame] = iter_layer(source, layer) if isinstance(source, str | Path) else source
    for frame in frames:
        if not frame.empty:
            yield frame


def _mark(overview: Overview, frame: gpd.GeoDataFrame, pair: PixelSource | None, colors: list[str]) -> None:
    """Draw rows that have places on the overview."""
    placed = frame.geometry.notna().to_numpy()
    if placed.any():
        shapes = frame.geometry[placed]
        crs = pyogrio_crs(pair.crs) if pair is not None else frame.crs
        on_grid = shapes if frame.crs == crs else shapes.to_crs(crs)
        overview.add(on_grid.to_numpy(), [color for color, known in zip(colors, placed, strict=True) if known])


def _environment(lang: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tuban.postprocess"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        # A key nobody set shows as nothing; values are checked where they are prepared.
        undefined=jinja2.ChainableUndefined,
    )
    names = {entry.name: entry.zh if lang == "zh" else entry.name.replace("_", " ") for entry in classes().values()}
    environment.filters["number"] = number_text
    environment.filters["metres"] = metres_text
    environment.filters["rolename"] = lambda role: role_name(role, lang)
    environment.filters["classname"] = lambda name: names.get(name, name or "—")
    return environment
