"""A font that holds Chinese, cut down to the characters a PDF uses and embedded, so that it prints anywhere.

tuban carries no font: one of the machine's own is taken. reportlab embeds TrueType outlines only, while most free
Chinese fonts (Noto, Source Han) hold cubic ones, so the few glyphs that are used are converted.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fontTools import subset
from fontTools.pens.cu2quPen import Cu2QuPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont, TTLibError, newTable
from reportlab.pdfbase import pdfmetrics, ttfonts
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFError

from tuban.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NOT_EMBEDDED = "STSong-Light"
"""What a PDF names where no font was found: viewers bring a font of their own for it."""

_RESTRICTED = 0x0002  # OS/2 fsType: must not be embedded
_MOST_ERROR = 1.0  # of a converted outline, font units (a thousandth of the character's size)
_UNUSED = ("VORG", "DSIG", "GSUB", "GPOS", "GDEF", "BASE", "vhea", "vmtx", "kern", "STAT", "fvar", "gvar", "avar")
_MOST_NAMED = 8
_POSTSCRIPT_NAME = 6
_BEYOND = re.compile("<([0-9A-F]{5,6})>")


class _EmbeddedFont(ttfonts.TTFont):  # type: ignore[misc]  # reportlab has no type information
    """reportlab's font, whose characters beyond U+FFFF can also be searched and copied.

    reportlab (5.1) writes their code points into the PDF as they are, where the standard wants UTF-16.
    """

    def addObjects(self, doc: Any) -> None:  # noqa: N802 - reportlab's name
        """Add the font to a document."""
        plain = ttfonts.makeToUnicodeCMap
        ttfonts.makeToUnicodeCMap = lambda *given: _BEYOND.sub(_utf16, plain(*given))
        try:
            super().addObjects(doc)
        finally:
            ttfonts.makeToUnicodeCMap = plain


def _utf16(found: re.Match[str]) -> str:
    return f"<{chr(int(found[1], 16)).encode('utf-16-be').hex().upper()}>"


@dataclass(frozen=True, slots=True)
class Faces:
    """Names of the registered faces, and what should be said of them."""

    regular: str
    bold: str
    notes: tuple[str, ...]


def register(text: Iterable[str], *, font: str | None, candidates: Sequence[str], probe: str) -> Faces:
    """Register a face that holds the characters of `text` with reportlab.

    Args:
        text: everything that will be written.
        font: path of the font to use; None looks for one.
        candidates: file names to look for, the best first.
        probe: characters a font must hold to be taken.

    Raises:
        UsageError: `font` cannot be used.
    """
    used = {ord(character) for piece in text for character in piece} | set(range(32, 127))
    tried: list[str] = []
    for path in [Path(font)] if font is not None else _installed(candidates):
        try:
            data, lacking = _subset(path, used, probe)
            name = _registered(path, data)
        except (OSError, TTLibError, TTFError, ValueError) as error:
            tried.append(f"{path.name}: {' '.join(str(error).split())}")
            continue
        bold = _bold(path, used, probe) or name
        pdfmetrics.registerFontFamily(name, normal=name, bold=bold, italic=name, boldItalic=bold)
        return Faces(name, bold, (*_lacking(path, lacking),))
    if font is not None:
        raise UsageError(f"the font {font} cannot be used ({'; '.join(tried)}); give a .ttf, .otf or .ttc with Chinese")
    pdfmetrics.registerFont(UnicodeCIDFont(NOT_EMBEDDED))
    pdfmetrics.registerFontFamily(NOT_EMBEDDED, *[NOT_EMBEDDED] * 4)
    why = (
        "no Chinese font was found to embed, so the PDF needs a viewer that brings one, and rare characters may be"
        " blank; install fonts-noto-cjk, or set report.font to a font file"
    )
    return Faces(NOT_EMBEDDED, NOT_EMBEDDED, (why,))


def _bold(path: Path, used: set[int], probe: str) -> str | None:
    """Register the bold face beside a regular one, if there is one."""
    beside = path.with_name(path.name.replace("Regular", "Bold").replace("-VF", "-Bold"))
    if beside == path or not beside.exists():
        return None
    try:
        data, _ = _subset(beside, used, probe)
        return _registered(beside, data)
    except (OSError, TTLibError, TTFError, ValueError):
        return None  # headings are then as light as the text


def _registered(path: Path, data: bytes) -> str:
    """Register a cut font under the name that `_subset` gave it."""
    font = _EmbeddedFont(path.stem, io.BytesIO(data))
    font.fontName = font.face.name.decode("ascii")
    pdfmetrics.registerFont(font)
    return str(font.fontName)


def _lacking(path: Path, lacking: set[int]) -> Iterator[str]:
    if lacking:
        named = " ".join(f"U+{code:04X}" for code in sorted(lacking)[:_MOST_NAMED])
        more = f" and {len(lacking) - _MOST_NAMED} more" if len(lacking) > _MOST_NAMED else ""
        yield f"{path.name} lacks the characters {named}{more}; they show as boxes (set report.font to another font)"


def _installed(candidates: Sequence[str]) -> Iterator[Path]:
    """Yield the fonts of this machine that are among the candidates, in their order."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for root, _, names in sorted(os.walk(folder)):
            for name in names:
                found.setdefault(name.lower(), Path(root) / name)
    for name in candidates:
        if (path := found.get(name.lower())) is not None:
            yield path


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home)) / "Microsoft/Windows/Fonts"
        return [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts", local]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    shared = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts")]
    return [*shared, home / ".local/share/fonts", home / ".fonts"]


def _subset(path: Path, used: set[int], probe: str) -> tuple[bytes, set[int]]:
    """Return a TrueType font of the used characters, and those the font lacks.

    Raises:
        ValueError: the font lacks the probe's characters, or forbids to be embedded.
    """
    # fontTools would leave a file that is no font open.
    with path.open("rb") as file, TTFont(file, fontNumber=_face(path), lazy=True, recalcTimestamp=False) as font:
        known = set(font.getBestCmap() or ())
        if not {ord(character) for character in probe} <= known:
            raise ValueError(f"it holds no Chinese (such as {probe})")
        if font["OS/2"].fsType & _RESTRICTED:
            raise ValueError("its licence forbids embedding")
        options = subset.Options(hinting=False, layout_features=[], notdef_outline=True, drop_tables=[*_UNUSED])
        options.recalc_timestamp = False
        cutter = subset.Subsetter(options)
        cutter.populate(unicodes=used & known)
        cutter.subset(font)
        if "CFF " in font:
            _to_truetype(font)
        elif "glyf" not in font:
            raise ValueError("its outlines are neither TrueType nor CFF")
        # reportlab keeps the first font it meets under a PostScript name; a cut of other characters needs its own.
        unique = hashlib.sha256(repr(sorted(used & known)).encode()).hexdigest()[:8]
        for record in font["name"].names:
            if record.nameID == _POSTSCRIPT_NAME:
                record.string = f"{path.stem.replace(' ', '')}-{unique}"
        stream = io.BytesIO()
        font.save(stream)
    return stream.getvalue(), {code for code in used - known if code > ord(" ")}


def _face(path: Path) -> int:
    """Return which face of a collection holds simplified Chinese; the first where none says so."""
    if path.suffix.lower() != ".ttc":
        return 0
    with path.open("rb") as file, TTCollection(file, lazy=True) as collection:
        faces = [str(face["name"].getDebugName(1)) for face in collection.fonts]
    return next((at for at, name in enumerate(faces) if name.endswith((" SC", " CN"))), 0)


def _to_truetype(font: Any) -> None:
    """Replace cubic outlines by quadratic ones, in place."""
    order, glyphs = font.getGlyphOrder(), font.getGlyphSet()
    drawn = {}
    for name in order:
        pen = TTGlyphPen(glyphs)
        glyphs[name].draw(Cu2QuPen(pen, _MOST_ERROR, reverse_direction=True))
        drawn[name] = pen.glyph()
    font["loca"] = newTable("loca")
    table = font["glyf"] = newTable("glyf")
    table.glyphOrder, table.glyphs = order, drawn
    for name, glyph in drawn.items():
        glyph.recalcBounds(table)
        font["hmtx"][name] = (font["hmtx"][name][0], getattr(glyph, "xMin", 0))
    most = font["maxp"]
    most.tableVersion = 0x00010000
    for name in ("maxZones", "maxTwilightPoints", "maxStorage", "maxFunctionDefs", "maxInstructionDefs"):
        setattr(most, name, 1 if name == "maxZones" else 0)
    for name in ("maxStackElements", "maxSizeOfInstructions", "maxComponentElements"):
        setattr(most, name, 0)
    font["post"].formatType = 3.0
    del font["CFF "]
    font.sfntVersion = "\000\001\000\000"
