"""What `report.html` shows, prepared for its template: cards, sums, notes, words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyproj
import shapely
import yaml

from tuban.postprocess.chips import chip_view, make_chip
from tuban.postprocess.fields import half
from tuban.postprocess.figure import make_overlay
from tuban.postprocess.legend import is_zone, role_colors
from tuban.postprocess.overview import apart
from tuban.postprocess.phrases import translated
from tuban.postprocess.sources import role_of
from tuban.postprocess.styles import SETTLED_COLORS, SEVERITY_COLORS, SEVERITY_NAMES, STATUS_NAMES
from tuban.postprocess.unfold import unfold
from tuban.postprocess.view import PlainGrid, View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tuban.postprocess.chips import ChipSettings
    from tuban.postprocess.figure import Overlay
    from tuban.postprocess.overview import Overview
    from tuban.postprocess.sources import PixelSource, ZoneSource
    from tuban.postprocess.tally import Tally

LANGUAGES = ("zh", "en")
CHANGE_COLOR = "#c2410c"
_CHANGE_ROWS = 12
_PLAIN_CELLS = 400


def row_color(row: Mapping[str, Any]) -> str:
    """Return the colour of a finding: by severity where suspected, else by status."""
    if row.get("status") == "suspected":
        return SEVERITY_COLORS.get(str(row.get("severity")), "#c81e1e")
    return SETTLED_COLORS.get(str(row.get("status")), "#555555")


@dataclass(frozen=True, slots=True)
class Page:
    """Prepares what the template shows."""

    run: Mapping[str, Any]
    pair: PixelSource | None
    zones: Sequence[ZoneSource]
    overview: Overview | None
    lang: str
    chips: ChipSettings

    def card(self, number: int, row: dict[str, Any], shape: shapely.Geometry | None, crs: object) -> dict[str, Any]:
        """Return one card: the row, its pictures, its place on the overview and what it rests on.

        Args:
            number: of the card, from 1.
            row: the finding or change; None where a value is unknown.
            shape: its outline; None where places are left out, and then there are no pictures.
            crs: of the outline.
        """
        chip = overlay = place = None
        lon, lat = row.get("lon"), row.get("lat")
        if shape is not None:
            overlay = self._overlay(shape, crs)
            if self.pair is not None:
                on_grid = _moved(shape, crs, self.pair.crs)
                drawn = [zone for zone in self.zones if is_zone(zone.role)]
                chip = make_chip(self.pair, on_grid, drawn, settings=self.chips)
                place = self.overview.place(on_grid) if self.overview and self.overview.available else None
            if lon is None or lat is None:
                centre = _moved(shape, crs, "EPSG:4326").representative_point()
                lon, lat = centre.x, centre.y
        text = _text(self.lang)
        titles = (self.run.get("rule_pack") or {}).get("titles") or {}
        scenes = _scenes(self.run)
        dates = {name: row.get(f"date_{name}") or (scenes.get(name) or {}).get("date") for name in ("before", "after")}
        reason = row.get("reason")
        return {
            "number": number,
            # Absent columns read as unknown, not as an error of the template.
            "row": {"rule_id": "", "status": "", "severity": ""}
            | dict.fromkeys(_OPTIONAL)
            | row
            | {"reason": half(reason, self.lang) if isinstance(reason, str) else reason},
            "chip": chip,
            "overlay": overlay,
            "place": place,
            "lonlat": None if lon is None or lat is None else (lon, lat),
            "color": row_color(row) if "status" in row else CHANGE_COLOR,
            "title": _worded(titles.get(row.get("rule_id"), ""), self.lang),
            "trace": unfold(row.get("trace"), text["trace_keys"], yes=text["yes"], no=text["no"]),
            "rests_on": _rests_on(self.run, text),
            **{name: date or "" for name, date in dates.items()},
        }

    def _overlay(self, shape: shapely.Geometry, crs: object) -> Overlay | None:
        """Draw the finding over the plan, on the pair's grid or, without imagery, on a plain one."""
        if not self.zones:
            return None
        if self.pair is not None:
            on_grid = _moved(shape, crs, self.pair.crs)
            return make_overlay(chip_view(self.pair, on_grid, self.chips), on_grid, self.zones)
        grid = PlainGrid.around(shape, crs, cells=_PLAIN_CELLS)
        most = round(_PLAIN_CELLS * self.chips.context) + 1
        view = View.around(grid, shape, context=self.chips.context, min_px=_PLAIN_CELLS, max_px=most)
        return make_overlay(view, shape, self.zones)

    def _apart(self, cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
        marked = [card for card in cards if card["place"] is not None]
        if self.overview is not None and marked:
            for card, place in zip(marked, apart([card["place"] for card in marked], self.overview.width), strict=True):
                card["place"] = place
        return cards

    def context(self, tally: Tally, moves: Tally, cards: list[dict[str, Any]], *, judged: bool) -> dict[str, Any]:
        """Return the variables of the template."""
        text = _text(self.lang)
        at = LANGUAGES.index(self.lang)
        notes = _notes(self.run, self.lang)
        total = (tally if judged else moves).total
        hidden = total - len(cards)
        shown = text["cards_some" if hidden else "cards_all"].format(shown=len(cards), hidden=hidden, total=total)
        titles = (self.run.get("rule_pack") or {}).get("titles") or {}
        summary = [
            {"rule_id": rule, "severity": severity, "status": status, "title": _worded(titles.get(rule, ""), self.lang)}
            | {"count": found.count, "area_m2": found.area_m2, "overlap_m2": found.overlap_m2}
            for (rule, severity, status), found in sorted(tally.groups.items(), key=lambda item: _rank(*item[0]))
        ]
        statuses = {name: value[at] for name, value in STATUS_NAMES.items()}
        legend = [
            (f"{statuses['suspected']} {code} {SEVERITY_NAMES[code][at]}", color)
            for code, color in SEVERITY_COLORS.items()
        ]
        legend += [(statuses[name], color) for name, color in SETTLED_COLORS.items()]
        return {
            "lang": self.lang,
            "t": text,
            "run": _Lenient(self.run),
            "heading": text["title" if judged else "title_changes"],
            "judged": judged,
            "has_pair": self.pair is not None,
            "scenes": _scenes(self.run),
            "notes": notes,
            "untranslated": any(not note["translated"] for note in notes),
            "summary": summary,
            "totals": _totals(tally),
            "change_rows": _change_rows(moves),
            "change_total": {
                "count": moves.total,
                "area_m2": sum(found.area_m2 for found in moves.groups.values()),
            },
            "bands": _bands(self.run),
            "cards": self._apart(cards),
            "shown_text": shown,
            "overview": self.overview
            and self.overview.available
            and {"uri": self.overview.uri(), "width": self.overview.width, "height": self.overview.height},
            "legend": legend if judged else [],
            "zone_roles": sorted({zone.role for zone in self.zones if is_zone(zone.role)}),
            "zone_colors": role_colors({role_of(zone) for zone in self.zones} | {zone.role for zone in self.zones}),
            "severity_colors": SEVERITY_COLORS,
            "settled_colors": SETTLED_COLORS,
            "severity_names": {name: value[at] for name, value in SEVERITY_NAMES.items()},
            "status_names": statuses,
            "actions": text["actions"],
        }


_OPTIONAL = (
    *("finding_id", "change_id", "zone_role", "from_class", "to_class", "area_m2", "overlap_m2", "overlap_min_m2"),
    *("overlap_max_m2", "farmland_m2", "permitted_m2", "conform_m2", "nonconform_m2", "confidence", "reason", "basis"),
    *("trace", "touches_edge"),
)


class _Lenient(dict[str, Any]):
    """A run record whose absent sections read as None in the template."""

    def __missing__(self, key: str) -> None:
        return None


def _moved(shape: shapely.Geometry, crs: object, target: object) -> shapely.Geometry:
    source, wanted = pyproj.CRS.from_user_input(crs), pyproj.CRS.from_user_input(target)
    if source == wanted:
        return shape
    transformer = pyproj.Transformer.from_crs(source, wanted, always_xy=True)
    return shapely.transform(shape, transformer.transform, interleaved=False)


def _rank(rule: str, severity: str, status: str) -> tuple[int, int, str]:
    """Order the sums: by status as in the legend, then the most severe first."""
    places = [list(names).index(key) if key in names else len(names) for names, key in
              ((STATUS_NAMES, status), (SEVERITY_NAMES, severity))]  # fmt: skip
    return places[0], places[1], rule


def _totals(tally: Tally) -> list[tuple[str, int]]:
    """Count findings by status; no areas, for one change under several rules would be added up."""
    sums: dict[str, int] = {}
    for (_, _, status), found in tally.groups.items():
        sums[status] = sums.get(status, 0) + found.count
    return [(name, sums[name]) for name in (*STATUS_NAMES, *sorted(set(sums) - set(STATUS_NAMES))) if name in sums]


def _rests_on(run: Mapping[str, Any], text: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what a finding rests on: what it is, its name and its hash; scenes, model, rules, plan."""
    rows = []
    for entry in run.get("inputs") or ():
        role = str(entry.get("role"))
        label = text.get(role) if role in {"before", "after"} else None
        if label is None and role.startswith("plan"):
            label = text["plan"]
        if label is not None:
            rows.append((label, str(entry.get("name")), str(entry.get("sha256") or entry.get("etag") or "")))
    model, pack = run.get("model") or {}, run.get("rule_pack") or {}
    if model:
        rows.append(
            (text["model"], f"{model.get('name')} {model.get('version')}", str(model.get("weights_sha256", "")))
        )
    if pack:
        rows.append((text["rule_pack"], f"{pack.get('id')} {pack.get('version')}", str(pack.get("sha256", ""))))
    # Layers of one plan file share its hash.
    return list(dict.fromkeys(rows))


def _change_rows(moves: Tally) -> list[dict[str, Any]]:
    ranked = sorted(moves.groups.items(), key=lambda item: (-item[1].area_m2, item[0]))[:_CHANGE_ROWS]
    return [
        {"from_class": first, "to_class": last, "count": found.count, "area_m2": found.area_m2}
        for (first, last), found in ranked
    ]


def _bands(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the radiometric fit band by band, whether it is recorded as lists or as one entry a band."""
    fit = (run.get("pair") or {}).get("radiometry") or {}
    bands = fit.get("bands")
    if isinstance(bands, dict):
        return [{"name": name, **entry} for name, entry in bands.items() if isinstance(entry, dict)]
    gains, offsets, correlations = (fit.get(key) for key in ("gain", "offset", "correlation"))
    if not (isinstance(gains, list) and isinstance(offsets, list) and isinstance(correlations, list)):
        return []
    names = bands if isinstance(bands, list) else [str(at + 1) for at in range(len(gains))]
    return [
        {"name": name, "gain": gain, "offset": offset, "correlation": correlation}
        for name, gain, offset, correlation in zip(names, gains, offsets, correlations, strict=False)
    ]


def _notes(run: Mapping[str, Any], lang: str) -> list[dict[str, Any]]:
    """Return what was guessed, skipped or degraded, once each: the run's notes, then the pair's own."""
    pair = run.get("pair") or {}
    notes = [note if isinstance(note, dict) else {"text": note} for note in run.get("notes") or ()]
    measured = ("registration", "radiometry")
    notes += [{"stage": stage, "text": (pair.get(stage) or {}).get("reason") or ""} for stage in measured]
    notes += [{"stage": "pair", "text": text} for text in pair.get("notes") or ()]
    once = {str(note["text"]): str(note.get("stage", "")) for note in reversed(notes) if note["text"]}
    found = []
    for text, stage in reversed(once.items()):
        words, known = translated(text, lang)
        found.append({"stage": stage, "text": words, "translated": known})
    return found


def _scenes(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return both scenes' facts: the section `scenes` over what the pair recorded."""
    pair, scenes = run.get("pair") or {}, run.get("scenes") or {}
    found = {}
    for key in ("before", "after"):
        facts = {**(pair.get(key) or {}), **(scenes.get(key) or {})}
        # The whole path of a scene is nobody else's business.
        facts.setdefault("name", Path(str(facts.get("path", ""))).name)
        found[key] = facts
    return found


def _worded(value: object, lang: str) -> str:
    return str(value.get(lang, "")) if isinstance(value, dict) else str(value)


@cache
def _text(lang: str) -> dict[str, Any]:
    source = files("tuban.postprocess").joinpath("templates/text.yaml").read_text(encoding="utf-8")
    at = LANGUAGES.index(lang)
    return {
        key: {name: words[at] for name, words in value.items()} if isinstance(value, dict) else value[at]
        for key, value in yaml.safe_load(source).items()
    }
