"""QGIS styles embedded in a GeoPackage, in the table `layer_styles` that QGIS looks for when a layer is added."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from tuban.data.classes import classes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SEVERITY_COLORS = {"S4": "#7f0000", "S3": "#c81e1e", "S2": "#ef6c4d", "S1": "#f5a98a"}
"""Red tones, darker for graver; the report draws with the same ones."""

SETTLED_COLORS = {
    "inconclusive": "#b26a00",
    "undetermined": "#6b7280",
    "permitted": "#2f6f9f",
    "compliant": "#2f855a",
}
"""A finding that is not suspected is coloured by its status, so that red always means suspected."""

SEVERITY_NAMES = {
    "S4": ("特别严重", "critical"),
    "S3": ("严重", "high"),
    "S2": ("一般", "medium"),
    "S1": ("关注", "watch"),
}
STATUS_NAMES = {
    "suspected": ("疑似", "suspected"),
    "inconclusive": ("存疑", "in doubt"),
    "undetermined": ("无法判定", "undetermined"),
    "permitted": ("已批准", "permitted"),
    "compliant": ("符合规划", "compliant"),
}

CAUSES = {
    "cloud": ("云", "cloud", "#8a94a6"),
    "cirrus": ("卷云", "cirrus", "#a9b4c6"),
    "shadow": ("云影", "cloud shadow", "#4b5563"),
    "haze": ("霾", "haze", "#b8a78f"),
    "snow": ("雪", "snow", "#7fb3d5"),
    "defective": ("像元损坏", "defective pixels", "#9b59b6"),
    "unknown": ("原因不明", "hidden, cause unknown", "#6b7280"),
    "no_data": ("无影像", "no image at one date or both", "#111827"),
    "unreadable": ("文件损坏", "image could not be read", "#b91c1c"),
}
"""Why land was not judged: name in Chinese and English, and colour. The first seven as in configs/cloud_masks.yaml."""

# As QGIS itself creates it (QgsOgrProviderUtils::saveStyle): other columns or types make QGIS ignore the table.
_CREATE = """CREATE TABLE IF NOT EXISTS layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256),
    styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30),
    ui TEXT(30), update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"""
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


@dataclass(frozen=True, slots=True)
class Category:
    """One legend entry: the value of the style's expression, its label, its fill (`#rrggbb`), pattern and outline."""

    value: str
    label: str
    color: str
    fill_alpha: int = 110
    outline: str = "solid"
    pattern: str = "solid"


def findings_qml(
    lang: str = "zh", *, columns: Mapping[str, str] | None = None, words: Mapping[str, str] | None = None
) -> str:
    """Return the QML of `findings`: red tones by severity where suspected, else one colour a status; rule labels.

    Args:
        lang: language of the legend.
        columns: names of `status`, `severity`, `rule_id` and `area_mu` in the layer, where they differ.
        words: what the layer holds instead of the codes of statuses and severities.
    """
    at = _index(lang)
    columns, words = columns or {}, words or {}
    status, severity, rule, area = (columns.get(key, key) for key in ("status", "severity", "rule_id", "area_mu"))
    suspected = STATUS_NAMES["suspected"][at]
    entries = [
        Category(words.get(code, code), f"{suspected} · {code} {SEVERITY_NAMES[code][at]}", color, 130)
        for code, color in SEVERITY_COLORS.items()
    ]
    entries += [
        Category(words.get(code, code), STATUS_NAMES[code][at], color, 60, "dash" if code != "compliant" else "solid")
        for code, color in SETTLED_COLORS.items()
    ]
    unit = "亩" if at == 0 else "mu"
    label = f"\"{rule}\" || ' · ' || format_number(\"{area}\", 1) || ' {unit}'"
    expression = f'if("{status}" = \'{words.get("suspected", "suspected")}\', "{severity}", "{status}")'
    return _qml(expression, entries, label)


def changes_qml(lang: str = "zh") -> str:
    """Return the QML of `changes`: the unified classes' own colours by `to_class`; labelled from -> to."""
    at = _index(lang)
    entries = [
        Category(entry.name, entry.zh if at == 0 else entry.name.replace("_", " "), entry.color, 90)
        for value, entry in classes().items()
        if value
    ]
    return _qml('"to_class"', entries, '"from_class" || \' → \' || "to_class"')


def plan_qa_qml(lang: str = "zh") -> str:
    """Return the QML of `plan_qa`: one dashed violet outline, labelled with the check's name."""
    title = "规划数据问题" if _index(lang) == 0 else "plan data problem"
    return _qml("''", [Category("", title, "#6a1b9a", 40, "dash")], '"check"')


def unseen_qml(lang: str = "zh") -> str:
    """Return the QML of `unseen`: hatched by cause, for the land beneath is not to be hidden a second time."""
    at = _index(lang)
    entries = [
        Category(cause, words[at], words[2], 160, "dot", pattern="b_diagonal") for cause, words in CAUSES.items()
    ]
    return _qml('"cause"', entries, '"cause"')


_STYLES = {
    "findings": ("tuban 疑似图斑", "tuban findings", findings_qml),
    "changes": ("tuban 变化图斑", "tuban changes", changes_qml),
    "plan_qa": ("tuban 规划质检", "tuban plan QA", plan_qa_qml),
    "unseen": ("tuban 未判读区", "tuban not judged", unseen_qml),
}


def layer_styles(layers: Iterable[str], lang: str) -> dict[str, str]:
    """Return the QML of some layers of `findings.gpkg`, in order."""
    return {layer: _STYLES[layer][2](lang) for layer in layers}


def embed_styles(path: Path, *, lang: str, time: str, qml: Mapping[str, str]) -> None:
    """Put a default style for each layer into the `layer_styles` table of a GeoPackage.

    Args:
        path: a GeoPackage with the layers of `qml`.
        lang: language of the style names, `zh` or `en`.
        time: what `update_time` and `last_change` say (ISO 8601).
        qml: style by layer, in order.

    Raises:
        OSError: the file cannot be written.
    """
    names = {layer: known[_index(lang)] for layer, known in _STYLES.items()}
    try:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute(_CREATE)
            database.execute(
                "INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier, description, last_change)"
                " VALUES ('layer_styles', 'attributes', 'layer_styles', '', ?)",
                (time,),
            )
            for at, (layer, text) in enumerate(qml.items()):
                # Layers were made in the order of their first rows; a reader that asks for no layer gets the first
                # row of this table, which should be the findings. Negative rows stand before all others.
                database.execute("UPDATE gpkg_contents SET rowid = ? WHERE table_name = ?", (at - len(qml), layer))
                (column,) = database.execute(
                    "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
                ).fetchone()
                database.execute(
                    "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column,"
                    " styleName, styleQML, styleSLD, useAsDefault, description, owner, ui, update_time)"
                    " VALUES ('', '', ?, ?, ?, ?, '', 1, ?, '', NULL, ?)",
                    (layer, column, names.get(layer, layer), text, names.get(layer, layer), time),
                )
    except sqlite3.Error as error:
        raise OSError(f"{path.name}: {error}") from error


def _index(lang: str) -> int:
    return 0 if lang == "zh" else 1


def _qml(expression: str, entries: list[Category], label: str) -> str:
    root = ET.Element("qgis", version="3.22.0", styleCategories="Symbology|Labeling", labelsEnabled="1")
    renderer = ET.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr=expression, forceraster="0", symbollevels="0",
        enableorderby="0",
    )  # fmt: skip
    categories = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    for number, entry in enumerate(entries):
        ET.SubElement(
            categories, "category", render="true", symbol=str(number), value=entry.value, label=entry.label,
            type="string",
        )  # fmt: skip
        _symbol(symbols, str(number), entry)
    _labels(root, label)
    ET.SubElement(root, "layerGeometryType").text = "2"
    return _DOCTYPE + ET.tostring(root, encoding="unicode")


def _symbol(parent: ET.Element, name: str, entry: Category) -> None:
    symbol = ET.SubElement(parent, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1", force_rhr="0")
    layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "pass": "0", "locked": "0", "enabled": "1"})
    values = {
        "color": _rgba(entry.color, entry.fill_alpha),
        "style": entry.pattern,
        "outline_color": _rgba(entry.color, 255),
        "outline_style": entry.outline,
        "outline_width": "0.6",
        "outline_width_unit": "MM",
        "joinstyle": "round",
    }
    options = ET.SubElement(layer, "Option", type="Map")
    for key, value in values.items():
        ET.SubElement(options, "Option", name=key, value=value, type="QString")
    # QGIS before 3.18 reads `prop`, later ones `Option`.
    for key, value in values.items():
        ET.SubElement(layer, "prop", k=key, v=value)


def _labels(root: ET.Element, expression: str) -> None:
    settings = ET.SubElement(ET.SubElement(root, "labeling", type="simple"), "settings", calloutType="simple")
    style = ET.SubElement(
        settings, "text-style", fieldName=expression, isExpression="1", fontFamily="Noto Sans CJK SC", fontSize="9",
        fontSizeUnit="Point", textColor="30,30,30,255", fontWeight="50", fontItalic="0", namedStyle="Regular",
    )  # fmt: skip
    ET.SubElement(
        style, "text-buffer", bufferDraw="1", bufferSize="0.9", bufferSizeUnits="MM", bufferColor="255,255,255,255",
        bufferOpacity="1",
    )  # fmt: skip
    ET.SubElement(settings, "placement", placement="1", priority="5")
    # Labels only below 1:50 000, where they can be read. QGIS writes the closest scale as `scaleMin`.
    ET.SubElement(settings, "rendering", scaleVisibility="1", scaleMin="1", scaleMax="50000", displayAll="0",
                  obstacle="1")  # fmt: skip


def _rgba(color: str, alpha: int) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"{red},{green},{blue},{alpha}"
