"""Hits, misses and false alarms drawn over the later image, small enough to stand in a report."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 640
NOTHING, HIT, MISS, FALSE, UNKNOWN = range(5)
COLOURS = {HIT: (0, 158, 115), MISS: (0, 114, 178), FALSE: (213, 94, 0)}
"""Of Okabe & Ito's palette, which colour-blind readers can tell apart."""


def step_for(height: int, width: int) -> int:
    """Return how many pixels of a place make one of its map."""
    return max(-(-max(height, width) // SIDE), 1)


class ErrorMap:
    """Codes of a place, reduced as its strips arrive: in each block errors go before hits, so none is lost."""

    def __init__(self, step: int) -> None:
        """Start a map of one pixel for `step` x `step`; strips must be multiples of `step` rows, but for the last."""
        self.step = step
        self._rows: list[NDArray[np.uint8]] = []

    def add(self, called: NDArray[np.bool_], label: NDArray[np.uint8]) -> None:
        """Take the next strip `(h, w)`: what was called changed, and labels 0, 1 or 255."""
        codes = np.select(
            [label > 1, called & (label == 1), called, label == 1], [NOTHING, HIT, FALSE, MISS], NOTHING
        ).astype(np.uint8)
        height, width = codes.shape
        pad = ((0, -height % self.step), (0, -width % self.step))
        blocks = np.pad(codes, pad).reshape(-(-height // self.step), self.step, -(-width // self.step), self.step)
        self._rows.append(blocks.max(axis=(1, 3)))

    def png(self, picture: NDArray[np.uint8]) -> bytes:
        """Return the map over an RGB picture `(h, w, 3)` of the same step, as PNG."""
        codes = np.concatenate(self._rows)
        height, width = (min(a, b) for a, b in zip(codes.shape, picture.shape[:2], strict=True))
        codes, shown = codes[:height, :width], picture[:height, :width].astype(float)
        grey = shown.mean(axis=2, keepdims=True).repeat(3, axis=2)
        shown = 0.5 * shown + 0.3 * grey + 40
        # The picture is reduced to 120 colours first, so that the errors, few as they may be, keep theirs.
        image = Image.fromarray(np.clip(shown, 0, 255).astype(np.uint8)).quantize(120)
        indices, palette = np.array(image), (image.getpalette() or [])[: 3 * 120]
        palette += [0] * (3 * 120 - len(palette))
        for number, (code, colour) in enumerate(COLOURS.items()):
            indices[codes == code] = 120 + number
            palette += colour
        image = Image.fromarray(indices)
        image.putpalette(palette)
        stream = io.BytesIO()
        image.save(stream, "PNG", optimize=True)
        return stream.getvalue()


def data_uri(png: bytes) -> str:
    """Return a PNG as a `data:` address, so that a page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
