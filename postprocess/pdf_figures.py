"""Chips and overlay figures on a PDF page, drawn from the same paths as those of `report.html`."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from reportlab.lib.colors import Color, HexColor, black, white
from reportlab.lib.utils import ImageReader
from reportlab.platypus import Flowable

from tuban.postprocess.view import WIDTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from tuban.postprocess.chips import Chip
    from tuban.postprocess.figure import Overlay

_EVEN_ODD = 0
_FILLED, _OUTLINED = 0, 2  # text render modes of PDF
_LABEL = 6.5  # points
_PAPER = HexColor("#fbfaf6")


class Figure(Flowable):  # type: ignore[misc]  # reportlab has no type information
    """A drawing in units of `tuban.postprocess.view`, scaled to a width on paper.

    Args:
        content: a chip or an overlay figure.
        side: `before` or `after` of a chip.
        color: of the finding's outline.
        width: points on paper.
        face: font of labels.
        words: the scale bar's length in words from metres, and the word for north.
        zone_colors: by role, for a chip.
    """

    def __init__(
        self,
        content: Chip | Overlay,
        side: str,
        color: str,
        width: float,
        *,
        face: str,
        words: tuple[Callable[[float], str], str],
        zone_colors: dict[str, str],
    ) -> None:
        super().__init__()
        self.content, self.side, self.color, self.face = content, side, HexColor(color), face
        self.metres, self.north = words
        self.zone_colors = zone_colors
        self.width, self.height = width, width * content.height / WIDTH

    def draw(self) -> None:
        """Draw it with the origin at the lower left."""
        canvas = self.canv
        canvas.saveState()
        frame = canvas.beginPath()
        frame.rect(0, 0, self.width, self.height)
        canvas.clipPath(frame, stroke=0)
        if self.side:
            self._chip(self.content)
        else:
            self._overlay(self.content)
        self._bar()
        self._arrow()
        canvas.restoreState()

    def _chip(self, chip: Any) -> None:
        self.canv.drawImage(_image(getattr(chip, self.side)), 0, 0, self.width, self.height)
        for role, path in chip.zones:
            self._stroke(path, HexColor(self.zone_colors.get(role, "#444444")), 1, dash=(4, 2))
        self._stroke(chip.outline, white, 2.2)
        self._stroke(chip.outline, self.color, 1.1)

    def _overlay(self, figure: Any) -> None:
        canvas = self.canv
        canvas.setFillColor(_PAPER)
        canvas.rect(0, 0, self.width, self.height, stroke=0, fill=1)
        for layer in figure.layers:
            color = HexColor(layer.color)
            if layer.filled:
                self._fill(layer.path, color, 0.3)
            self._stroke(layer.path, color, 0.8 if layer.filled else 0.4)
        canvas.setFillColor(HexColor("#4b5563"))
        canvas.setFont(self.face, 5)
        for x, y, code in figure.labels:
            canvas.drawCentredString(*self._at(x, y), code)
        self._fill(figure.outline, self.color, 0.18)
        self._stroke(figure.outline, self.color, 1.1)
        canvas.setStrokeColor(HexColor("#dde3ea"))
        canvas.setLineWidth(0.8)
        canvas.rect(0, 0, self.width, self.height, stroke=1, fill=0)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        scale = self.width / WIDTH
        return x * scale, self.height - y * scale

    def _path(self, text: str) -> Any:
        """Return an SVG path as `tuban.postprocess.view.svg_path` writes it: `Mx,y x,y …Z` for each ring."""
        path = self.canv.beginPath()
        for ring in text.split("Z"):
            points = [tuple(map(float, pair.split(","))) for pair in ring.removeprefix("M").split()]
            for number, (x, y) in enumerate(points):
                (path.lineTo if number else path.moveTo)(*self._at(x, y))
            if points:
                path.close()
        return path

    def _stroke(self, text: str, color: Color, width: float, dash: tuple[float, ...] = ()) -> None:
        self.canv.setStrokeColor(color)
        self.canv.setLineWidth(width)
        self.canv.setLineJoin(1)
        self.canv.setDash(list(dash))
        self.canv.drawPath(self._path(text), stroke=1, fill=0)
        self.canv.setDash([])

    def _fill(self, text: str, color: Color, alpha: float) -> None:
        self.canv.setFillColor(color, alpha=alpha)
        self.canv.drawPath(self._path(text), stroke=0, fill=1, fillMode=_EVEN_ODD)
        self.canv.setFillAlpha(1)

    def _bar(self) -> None:
        canvas = self.canv
        left, low = self._at(30, self.content.height - 34)
        right, high = self._at(30 + self.content.scale_units, self.content.height - 50)
        for color, width in ((white, 2.4), (black, 1)):
            canvas.setStrokeColor(color)
            canvas.setLineWidth(width)
            canvas.lines([(left, high, left, low), (left, low, right, low), (right, low, right, high)])
        self._label((left + right) / 2, high + 1, self.metres(self.content.scale_m))

    def _arrow(self) -> None:
        canvas = self.canv
        x, y = self._at(940, 78)
        canvas.saveState()
        canvas.translate(x, y)
        canvas.saveState()
        canvas.rotate(-self.content.north_deg)
        scale = self.width / WIDTH
        arrow = canvas.beginPath()
        for number, (dx, dy) in enumerate(((0, 48), (20, -14), (0, -2), (-20, -14))):
            (arrow.lineTo if number else arrow.moveTo)(dx * scale, dy * scale)
        arrow.close()
        canvas.setFillColor(black)
        canvas.setStrokeColor(white)
        canvas.setLineWidth(0.6)
        canvas.drawPath(arrow, stroke=1, fill=1)
        canvas.restoreState()
        self._label(0, -64 * scale - 2, self.north)
        canvas.restoreState()

    def _label(self, x: float, y: float, text: str) -> None:
        """Write text with a halo."""
        canvas = self.canv
        left = x - canvas.stringWidth(text, self.face, _LABEL) / 2
        canvas.setStrokeColor(white)
        canvas.setLineWidth(1.6)
        canvas.setFont(self.face, _LABEL)
        canvas.setFillColor(white)
        canvas.drawString(left, y, text, mode=_OUTLINED)
        canvas.setFillColor(black)
        canvas.drawString(left, y, text, mode=_FILLED)


class Map(Flowable):  # type: ignore[misc]  # reportlab has no type information
    """The overview picture with the numbers of the findings' pages on it.

    Args:
        overview: `uri`, `width` and `height` of the picture, pixels.
        marks: number, place on the picture (x, y in pixels) and colour.
        room: most width and height on paper, points.
        face: font of the numbers.
    """

    def __init__(
        self,
        overview: dict[str, Any],
        marks: list[tuple[int, tuple[float, float], str]],
        room: tuple[float, float],
        face: str,
    ) -> None:
        super().__init__()
        self.overview, self.marks, self.face = overview, marks, face
        self.scale = min(room[0] / overview["width"], room[1] / overview["height"])
        self.width, self.height = overview["width"] * self.scale, overview["height"] * self.scale

    def draw(self) -> None:
        """Draw it with the origin at the lower left."""
        canvas = self.canv
        canvas.drawImage(_image(self.overview["uri"]), 0, 0, self.width, self.height)
        canvas.setFont(self.face, _LABEL)
        canvas.setStrokeColor(white)
        canvas.setLineWidth(0.6)
        for number, (x, y), color in self.marks:
            across, up = x * self.scale, self.height - y * self.scale
            canvas.setFillColor(HexColor(color))
            canvas.circle(across, up, 5, stroke=1, fill=1)
            canvas.setFillColor(white)
            canvas.drawCentredString(across, up - 2.3, str(number))


def _image(uri: str) -> ImageReader:
    """Return the picture of a data URI."""
    return ImageReader(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
