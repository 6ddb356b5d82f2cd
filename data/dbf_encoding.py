"""The text encoding of a Shapefile's attributes, from its `.cpg`, its header, or the bytes themselves."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuban.errors import VectorError

if TYPE_CHECKING:
    from pathlib import Path

_LDID_ENCODINGS = {0x4D: "gb18030", 0x4F: "cp950", 0x03: "cp1252", 0x57: "cp1252", 0x13: "cp932"}
_SAMPLE_BYTES = 1 << 20
# GB18030 contains GBK and GB2312, so whatever claims to be one of those decodes with it.
_CHINESE = {"gbk", "gb2312", "gb18030", "cp936"}


@dataclass(frozen=True, slots=True)
class Encoding:
    """An encoding, where it came from (`option`, `cpg`, `header`, `bytes`), and a note where something was guessed."""

    name: str
    source: str
    note: str | None = None


def _codec(name: str) -> str | None:
    """Return Python's name for what a `.cpg` calls an encoding, or None."""
    text = name.strip().lower().removeprefix("ansi").strip(" -_")
    text = {"65001": "utf-8", "88591": "latin-1", "oem": ""}.get(text, f"cp{text}" if text.isdigit() else text)
    try:
        found = codecs.lookup(text).name
    except LookupError:
        return None
    return "gb18030" if found in _CHINESE else found


def _sidecar(shapefile: Path, suffix: str) -> Path | None:
    wanted = shapefile.stem.lower() + suffix
    return next((entry for entry in shapefile.parent.iterdir() if entry.name.lower() == wanted), None)


def _text_fields(header: bytes) -> list[tuple[int, int]]:
    """Return (offset, width) within a record of each character field."""
    fields: list[tuple[int, int]] = []
    offset = 1  # the first byte of a record is its deletion flag
    for start in range(32, len(header) - 31, 32):
        if header[start] == 0x0D:
            break
        width = header[start + 16]
        if chr(header[start + 11]) == "C":
            fields.append((offset, width))
        offset += width
    return fields


def _samples(dbf: Path) -> tuple[int, list[bytes]]:
    """Return the header's language byte and the non-ASCII texts (field names too) at the start of the file."""
    with dbf.open("rb") as stream:
        data = stream.read(_SAMPLE_BYTES)
    if len(data) < 33:
        raise VectorError(f"{dbf}: the attribute table is truncated ({len(data)} bytes); copy the Shapefile again")
    header_size, record_size = int.from_bytes(data[8:10], "little"), int.from_bytes(data[10:12], "little")
    texts = [data[start : start + 11].rstrip(b"\0") for start in range(32, header_size - 31, 32) if data[start] != 0x0D]
    fields = _text_fields(data[:header_size])
    for row in range(header_size, len(data) - record_size + 1, max(record_size, 1)):
        texts += [data[row + offset : row + offset + width].rstrip(b" \0") for offset, width in fields]
    return data[29], [text for text in texts if not text.isascii()]


def _decodes(texts: list[bytes], encoding: str) -> bool:
    """Say whether every text decodes, a character cut at the field's end forgiven (writers truncate by bytes)."""
    for text in texts:
        decoder = codecs.getincrementaldecoder(encoding)("strict")
        try:
            decoder.decode(text, final=False)
        except UnicodeDecodeError:
            return False
    return True


def detect(shapefile: Path, override: str | None = None) -> Encoding:
    """Return the encoding of a Shapefile's attributes.

    The order is: the caller's option, the `.cpg` (if the bytes agree with it), the header's language byte, the bytes
    (UTF-8 where they are valid UTF-8, else GB18030).

    Args:
        shapefile: path of the `.shp`.
        override: what the caller asked for; wins over everything.

    Raises:
        VectorError: `override` names no encoding, or the attribute table is truncated.
    """
    if override:
        codec = _codec(override)
        if codec is None:
            raise VectorError(f"unknown encoding {override!r} for {shapefile}; use utf-8, gbk or gb18030")
        return Encoding(codec, "option")
    dbf, cpg = _sidecar(shapefile, ".dbf"), _sidecar(shapefile, ".cpg")
    if dbf is None:
        return Encoding("utf-8", "bytes", f"{shapefile.name}: no .dbf, so it has no attributes")
    language, texts = _samples(dbf)
    declared = _codec(cpg.read_text(encoding="ascii", errors="replace")) if cpg else None
    if declared and _decodes(texts, declared):
        return Encoding(declared, "cpg")
    return _from_bytes(shapefile, cpg, language, texts)


def _from_bytes(shapefile: Path, cpg: Path | None, language: int, texts: list[bytes]) -> Encoding:
    found = "utf-8" if _decodes(texts, "utf-8") else "gb18030"
    if cpg is not None:
        said = cpg.read_text(encoding="ascii", errors="replace").strip()
        return Encoding(found, "bytes", f"{shapefile.name}: .cpg says {said!r} but the attributes read as {found}")
    header = _LDID_ENCODINGS.get(language)
    if header and found != "utf-8" and _decodes(texts, header):
        return Encoding(header, "header", f"{shapefile.name}: no .cpg; the header's language byte says {header}")
    if not texts:
        return Encoding("utf-8", "bytes")
    return Encoding(found, "bytes", f"{shapefile.name}: no .cpg; the attributes read as {found}")
