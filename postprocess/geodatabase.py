"""File GDB with coded domains: codes stay codes, and every ArcGIS and QGIS shows them in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyogrio
from pyogrio.raw import write_arrow

from tuban.postprocess.fields import domain_of, words_of
from tuban.postprocess.gdal_domains import create_domains
from tuban.postprocess.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tuban.postprocess.fields import ExportField

_LAYER = "findings"
_DICTIONARY = "dictionary"


class DomainRows(Rows):
    """Rows whose coded columns name their domain."""

    codes = True

    def domain(self, field: ExportField) -> str | None:
        """Return the name of a column's domain, or None."""
        if field.choices:
            return f"tuban_{field.name}"
        coded = domain_of(field)
        return f"tuban_{coded}" if coded else None

    def domains(self) -> dict[str, dict[str, str]]:
        """Return meaning by code, by name of the domain."""
        found: dict[str, dict[str, str]] = {}
        for field in self.table.fields:
            if (name := self.domain(field)) is not None:
                coded = domain_of(field)
                found[name] = words_of(coded, self.lang) if coded else {choice: choice for choice in field.choices}
        return found

    def remarks(self, field: ExportField) -> dict[str, str]:
        """Return alias and domain of a column."""
        name = self.domain(field)
        return super().remarks(field) | ({"GDAL:OGR:domain_name": name} if name else {})


def write_geodatabase(rows: DomainRows, draft: Path) -> list[str]:
    """Write the rows as layer `findings` of a File GDB, with coded domains and a table `dictionary` of them.

    Returns:
        What could not be done.

    Raises:
        OSError: the disk filled up.
    """
    why = create_domains(draft, rows.domains())
    write_arrow(
        rows.reader(),
        draft,
        layer=_LAYER,
        driver="OpenFileGDB",
        geometry_name="geometry" if rows.geometry else None,
        geometry_type="MultiPolygon" if rows.geometry else None,
        crs=rows.crs if rows.geometry else None,
    )
    lines = _dictionary(rows, draft)
    _check_whole(draft, {_LAYER: rows.count, _DICTIONARY: lines})
    return [f"no coded domains: {why}; their meanings are in the table {_DICTIONARY}"] if why else []


def _check_whole(draft: Path, counts: Mapping[str, int]) -> None:
    """Refuse a truncated File GDB: GDAL's driver does not notice when the disk fills up as it closes a file."""
    # Every table says at byte 24 how long its file is.
    for path in draft.glob("*.gdbtable"):
        with path.open("rb") as stream:
            said = int.from_bytes(stream.read(32)[24:], "little")
        if said != path.stat().st_size:
            raise OSError("the disk filled up before the end of the file")
    if any(
        pyogrio.read_info(draft, layer=layer, force_feature_count=True)["features"] != count
        for layer, count in counts.items()
    ):
        raise OSError("the disk filled up before the end of the file")


def _dictionary(rows: DomainRows, draft: Path) -> int:
    """Write fields, codes and what was left out as a table, for readers that know no domains; return its rows."""
    lines: list[tuple[str, str, str, str]] = []
    for field in rows.table.fields:
        lines.append((field.name, "", field.zh, field.en))
        coded = domain_of(field)
        if coded:
            english = words_of(coded, "en")
            lines += [(field.name, code, word, english[code]) for code, word in words_of(coded, "zh").items()]
        lines += [(field.name, choice, choice, choice) for choice in field.choices]
    said = zip(rows.restriction.statements("zh"), rows.restriction.statements("en"), strict=True)
    lines += [("", "", zh, en) for zh, en in said]
    columns = [pa.array(column, pa.string()) for column in zip(*lines, strict=True)]
    table = pa.table(columns, names=["field", "code", "zh", "en"])
    write_arrow(table, draft, layer=_DICTIONARY, driver="OpenFileGDB", geometry_type=None)
    return len(lines)
