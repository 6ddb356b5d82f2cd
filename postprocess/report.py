"""`report.html`: one file an inspector can open, mail and print; nothing in it is loaded from elsewhere."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from pydantic import BaseModel, ConfigDict, Field

from tuban.data.classes import classes
from tuban.errors import UsageError
from tuban.postprocess.chips import ChipSettings
from tuban.postprocess.layers import iter_layer, pyogrio_crs
from tuban.postprocess.manifest import write_text
from tuban.postprocess.overview import ZONE_COLORS, Overview
from tuban.postprocess.page import CHANGE_COLOR, LANGUAGES, Page, row_color
from tuban.postprocess.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import geopandas as gpd

    from tuban.postprocess.sources import PixelSource, ZoneSource

logger = logging.getLogger(__name__)


class ReportSettings(BaseModel):
    """What the report shows.

    Attributes:
        max_cards: findings (or changes, without a plan) that get a card; the report says how many do not.
        overview_px: longest side of the overview picture.
        chips: how the before/after chips are cut.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_cards: int = Field(60, ge=0, le=2000)
    overview_px: int = Field(1400, ge=200, le=6000)
    chips: ChipSettings = ChipSettings()


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What was written: the file, the rows with a card, and the rows there are in all."""

    path: Path
    cards: int
    total: int


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
) -> ReportSummary:
    """Write `report.html`.

    Args:
        out: the file to write.
        run: `Manifest.content()` or a read `run.json`; only what stands in both is shown, so that the same inputs give
            the same bytes.
        findings: `findings.gpkg` or frames with `FINDING_COLUMNS`; None for a run without a plan.
        changes: `findings.gpkg` or frames with `CHANGE_COLUMNS`; they get the cards where there is no plan.
        pair: where pixels come from; None for a vector check, and the report says so.
        zones: plan layers to outline; only zones (`ZONE_COLORS`) are drawn.
        lang: `zh` or `en`.
        settings: sizes and the number of cards.

    Raises:
        UsageError: `lang` is not known.
        VectorError: a layer cannot be read.
        OutputError: the file cannot be written.
    """
    if lang not in LANGUAGES:
        raise UsageError(f"no report in language {lang!r}; use one of: {', '.join(LANGUAGES)}")
    settings = settings or ReportSettings()
    judged = findings is not None
    zones = [zone for zone in zones if zone.role in ZONE_COLORS]
    overview = Overview(pair, zones, longest_px=settings.overview_px) if pair is not None else None
    tally = Tally(("rule_id", "severity", "status"), settings.max_cards if judged else 0)
    moves = Tally(("from_class", "to_class"), 0 if judged else settings.max_cards)
    crs: object = None
    for frame in _frames(findings, "findings"):
        crs = frame.crs
        rows = tally.add(frame)
        if overview is not None:
            overview.add(_on_grid(frame, pair), [row_color(row) for row in rows])
    for frame in _frames(changes, "changes"):
        crs = crs or frame.crs
        moves.add(frame)
        if overview is not None and not judged:
            overview.add(_on_grid(frame, pair), [CHANGE_COLOR] * len(frame))
    shown = tally if judged else moves
    page = Page(run, pair, zones, overview, lang, settings.chips)
    cards = [page.card(at, row, shape, crs) for at, (row, shape) in enumerate(shown.top(), start=1)]
    html = _environment(lang).get_template("report.html.j2").render(page.context(tally, moves, cards, judged=judged))
    write_text(Path(out), html)
    logger.info("report: %d of %d rows have a card", len(cards), shown.total)
    return ReportSummary(Path(out), len(cards), shown.total)


def _frames(source: str | Path | Iterable[gpd.GeoDataFrame] | None, layer: str) -> Iterator[gpd.GeoDataFrame]:
    if source is None:
        return
    frames: Iterable[gpd.GeoDataFrame] = iter_layer(source, layer) if isinstance(source, str | Path) else source
    for frame in frames:
        if not frame.empty:
            yield frame


def _on_grid(frame: gpd.GeoDataFrame, pair: PixelSource | None) -> Any:
    crs = pyogrio_crs(pair.crs) if pair is not None else frame.crs
    return (frame if frame.crs == crs else frame.to_crs(crs)).geometry.to_numpy()


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
    environment.filters["number"] = _number
    environment.filters["metres"] = _metres
    environment.filters["classname"] = lambda name: names.get(name, name or "—")
    return environment


def _number(value: object, decimals: int = 2) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "—"
    return f"{value:,.{decimals}f}"


def _metres(value: float) -> str:
    return f"{value / 1000:g} km" if value >= 1000 else f"{value:g} m"
