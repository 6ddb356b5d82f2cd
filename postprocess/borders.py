"""Polygon rings as pieces of border: cut where borders meet, straightened one by one, and put together again.

A piece is the stretch of a border between two of its fixed points. Both polygons beside it see the same piece and get
the same result, whenever each of them is complete, so polygons never have to wait for each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tuban.postprocess.chords import KEPT
from tuban.postprocess.compiled import compiled

if TYPE_CHECKING:
    import numpy.typing as npt

BOUNDARY, JUNCTION = 1, 2  # codes of lattice vertices: on a boundary; where three or more boundaries meet


class Pieces(NamedTuple):
    """Pieces of the rings of a batch, in the order in which they follow each other around the rings.

    `points`: x and y in half pixels, `(n, 2)`, each piece in a direction that only depends on itself. `starts`:
    `(pieces + 1,)`. `reverse`: the ring runs the other way. `firm`: the piece begins, as the ring runs, where borders
    meet.
    `ring_starts`: first piece of each ring, `(rings + 1,)`. `whole`: rings that meet no other border and no tile line.
    """

    points: npt.NDArray[np.float64]
    starts: npt.NDArray[np.int64]
    reverse: npt.NDArray[np.bool_]
    firm: npt.NDArray[np.bool_]
    ring_starts: npt.NDArray[np.int64]
    whole: npt.NDArray[np.bool_]


def lattice_codes(values: Any, keep: Any) -> npt.NDArray[np.uint8]:
    """Return what each lattice vertex between pixels is: 0 inside of a polygon, `BOUNDARY` or `JUNCTION`.

    Args:
        values: classes, `(height + 1, width + 1)`: a rim of pixels more than the vertices asked for.
        keep: which pixels belong to polygons, same shape.

    Returns:
        uint8 `(height, width)`.
    """
    flat = keep[:, 1:] != keep[:, :-1]
    flat |= keep[:, 1:] & (values[:, 1:] != values[:, :-1])
    tall = keep[1:] != keep[:-1]
    tall |= keep[1:] & (values[1:] != values[:-1])
    degree = flat[1:].astype(np.uint8) + flat[:-1] + tall[:, 1:] + tall[:, :-1]
    codes: npt.NDArray[np.uint8] = np.minimum(degree, 3, dtype=np.uint8)
    codes[codes > 0] -= np.uint8(1)
    return codes


def with_crossings(row: Any, col: Any, ring_starts: Any, tile: int) -> tuple[Any, Any, Any]:
    """Give closed rings a vertex wherever they cross a tile line; all in pixels."""
    last = np.zeros(len(row), dtype=bool)
    last[ring_starts[1:] - 1] = True
    step = np.where(last, 0, np.roll(row, -1) - row), np.where(last, 0, np.roll(col, -1) - col)
    length = step[0] + step[1]  # one of them is 0
    begin = np.where(step[0] != 0, row, col)
    low, high = np.minimum(begin, begin + length), np.maximum(begin, begin + length)
    lines = np.maximum(-(-high // tile) - 1 - low // tile, 0)
    index = np.repeat(np.arange(len(row)), 1 + lines)
    nth = np.arange(len(index)) - np.repeat(np.r_[0, np.cumsum(1 + lines)[:-1]], 1 + lines)
    up = length[index] > 0
    line = np.where(up, low[index] // tile + nth, -(-high[index] // tile) - nth) * tile
    new = nth > 0
    rows = np.where(new & (step[0][index] != 0), line, row[index])
    cols = np.where(new & (step[1][index] != 0), line, col[index])
    sizes = np.add.reduceat(1 + lines, ring_starts[:-1])
    return rows, cols, np.r_[0, np.cumsum(sizes)]


@compiled
def _before(ay: float, ax: float, by: float, bx: float) -> bool:
    return ay < by or (ay == by and ax < bx)


@compiled
def _longest_run(row: Any, col: Any) -> tuple[int, int, int]:
    """Return the number of a ring's longest run, of equal ones the first in row-major order, and twice its middle."""
    longest, best, best_y, best_x = 0, 0, 0, 0
    for k in range(len(row) - 1):
        y, x = row[k] + row[k + 1], col[k] + col[k + 1]
        length = abs(row[k] - row[k + 1]) + abs(col[k] - col[k + 1])
        if length > longest or (length == longest and _before(y, x, best_y, best_x)):
            longest, best, best_y, best_x = length, k, y, x
    return best, best_y, best_x


@compiled
def _turned(piece: Any) -> bool:
    """Give a piece the direction that only depends on itself, and return whether that is the other one."""
    last = len(piece) - 1
    closed = piece[0, 0] == piece[last, 0] and piece[0, 1] == piece[last, 1]
    i, j = (last - 1, 1) if closed else (last, 0)
    if not _before(piece[i, 1], piece[i, 0], piece[j, 1], piece[j, 0]):
        return False
    for k in range(len(piece) // 2):
        for axis in range(2):
            piece[k, axis], piece[last - k, axis] = piece[last - k, axis], piece[k, axis]
    return True


@compiled
def _cut(row: Any, col: Any, ring_starts: Any, pin: Any, firm: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Cut rings at their pins; see `Pieces`."""
    rings = len(ring_starts) - 1
    points = np.empty((2 * len(row) + 2 * rings, 2))
    starts = np.zeros(len(row) + rings + 1, dtype=np.int64)
    reverse = np.zeros(len(row) + rings, dtype=np.bool_)
    begins_firm = np.zeros(len(row) + rings, dtype=np.bool_)
    of_ring = np.zeros(rings + 1, dtype=np.int64)
    size, count = 0, 0
    for ring in range(rings):
        a, n = ring_starts[ring], ring_starts[ring + 1] - ring_starts[ring] - 1
        pins = np.flatnonzero(pin[a : a + n])
        if len(pins) == 0:  # begin in the middle of the longest run
            first, y, x = _longest_run(row[a : a + n + 1], col[a : a + n + 1])
            begin = size
            points[begin, 0], points[begin, 1] = x, y
            for k in range(n):
                at = a + (first + 1 + k) % n
                points[begin + 1 + k, 0], points[begin + 1 + k, 1] = 2 * col[at], 2 * row[at]
            size = begin + n + 2
            points[size - 1, 0], points[size - 1, 1] = x, y
            reverse[count] = _turned(points[begin:size])
            count += 1
            starts[count] = size
        for k in range(len(pins)):
            begin = size
            begins_firm[count] = firm[a + pins[k]]
            end = pins[k + 1] if k + 1 < len(pins) else pins[0] + n
            for at in range(pins[k], end + 1):
                points[size, 0], points[size, 1] = 2 * col[a + at % n], 2 * row[a + at % n]
                size += 1
            reverse[count] = _turned(points[begin:size])
            count += 1
            starts[count] = size
        of_ring[ring + 1] = count
    return points[:size].copy(), starts[: count + 1].copy(), reverse[:count].copy(), begins_firm[:count].copy(), of_ring


def cut(row: Any, col: Any, ring_starts: Any, pin: Any, firm: Any) -> Pieces:
    """Cut closed rings of lattice vertices into pieces.

    Args:
        row: lattice rows, `(n,)`, each ring's first vertex again at its end.
        col: lattice columns, likewise.
        ring_starts: `(rings + 1,)`.
        pin: vertices that stay where they are, `(n,)`.
        firm: pins where borders meet, which stay even where they lie on a straight line.
    """
    points, starts, reverse, begins_firm, of_ring = _cut(row, col, ring_starts, pin, firm)
    whole = np.zeros(len(reverse), dtype=bool)
    whole[of_ring[:-1]] = np.add.reduceat(pin, ring_starts[:-1]) == 0
    return Pieces(points, starts, reverse, begins_firm, of_ring, whole)


@compiled
def join(made: Any, begins: Any, sizes: Any, reverse: Any, firm: Any, of_ring: Any, ring_starts: Any, xy: Any) -> int:
    """Write the vertices of whole rings, closed, and return how many; fills `ring_starts` and `xy`.

    `made` holds the vertices of all pieces, each from its place in `begins` on; the rest is as in `Pieces`.
    """
    size = 0
    for ring in range(len(of_ring) - 1):
        begin = size
        first, last = of_ring[ring], of_ring[ring + 1]
        for piece in range(first, last):
            a, n = begins[piece], sizes[piece]
            for k in range(n - 1):
                at = a + n - 1 - k if reverse[piece] else a + k
                xy[size, 0], xy[size, 1] = made[at, 0], made[at, 1]
                size += 1
        # A pin on a straight line that no other border touches has done its work.
        kept = begin
        at = begin
        total = size - begin
        first_x, first_y, held_x, held_y = xy[begin, 0], xy[begin, 1], xy[size - 1, 0], xy[size - 1, 1]
        for piece in range(first, last):
            for k in range(sizes[piece] - 1):
                x, y, after_x, after_y = xy[at, 0], xy[at, 1], first_x, first_y
                if at + 1 < begin + total:
                    after_x, after_y = xy[at + 1, 0], xy[at + 1, 1]
                flat = (held_x == x and x == after_x) or (held_y == y and y == after_y)
                held_x, held_y = x, y
                if not (k == 0 and flat and not firm[piece]):
                    xy[kept, 0], xy[kept, 1] = x, y
                    kept += 1
                at += 1
        xy[kept, 0], xy[kept, 1] = xy[begin, 0], xy[begin, 1]
        size = kept + 1
        ring_starts[ring + 1] = size
    return size


def kept_of(states: Any, pieces: Pieces, polygon_starts: Any) -> npt.NDArray[np.bool_]:
    """Return which polygons have a piece that keeps its pixel edges, `(polygons,)`."""
    before = np.r_[0, np.cumsum(states == KEPT)]
    edge = before[pieces.ring_starts[polygon_starts]]
    found: npt.NDArray[np.bool_] = edge[1:] > edge[:-1]
    return found
