"""Where the boundaries of a class raster turn: the nodes of its pixel-edge graph and how they follow each other.

At a lattice vertex meet up to four boundary edges (N, E, S, W). Going clockwise from one edge to the next
sweeps a sector that one pixel owner fills; each sector is a node of the owner's ring. An edge has two
sides, and each side of a straight run of edges starts and ends at a node. On one side of one lattice line
such runs never overlap, so that the k-th start belongs to the k-th end: rings are linked without searching.

Rings run with their owner on the left as seen on a north-up map (shells counter-clockwise). Rows grow downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

# Edges clockwise; node k of a vertex is the sector that starts at edge k, owned by the pixel right after it.
_NORTH, _EAST, _SOUTH, _WEST = range(4)
_OWNER_ROW = np.array([0, 1, 1, 0])  # NE, SE, SW, NW; row 0 is the pixel row above the lattice row
_OWNER_COL = np.array([0, 0, -1, -1])  # relative to the lattice column
# Sides of edges: of E and W the owner above or below, of N and S the owner left or right.
_LEAVE = ("NR", "EB", "SL", "WA")
_ARRIVE = ("NL", "EA", "SR", "WB")
_FULL = 15


@lru_cache(maxsize=2)
def _tables(noded: bool) -> tuple[BoolArray, dict[str, npt.NDArray[np.int8]]]:
    """Return which nodes exist `(16, 4)` and the node at each edge side `(16,)`, -1 for none, by vertex code."""
    exists = np.zeros((16, 4), dtype=bool)
    at = {side: np.full(16, -1, dtype=np.int8) for side in (*_LEAVE, *_ARRIVE)}
    for code in range(16):
        edges = [k for k in range(4) if code >> k & 1]
        for i, first in enumerate(edges):
            then = edges[(i + 1) % len(edges)]
            straight = (then - first) % 4 == 2
            # A straight sector is a node only where another boundary ends on it (a junction).
            if len(edges) < 2 or (straight and (len(edges) == 2 or not noded)):
                continue
            exists[code, first] = True
            at[_LEAVE[first]][code] = first
            at[_ARRIVE[then]][code] = first
    return exists, at


@dataclass(frozen=True)
class Nodes:
    """Nodes of one strip in row-major order, numbered from `base` over the whole raster.

    `row`, `col`: lattice position in the raster. `following`: number of the next node of the ring, -1 where
    a later strip holds it. `late`: `(k, 2)` nodes of earlier strips and what follows them. `swaps`: `(k, 2)`
    nodes at one vertex whose owners touch diagonally; where both turn out to be one component, their
    `following` must be exchanged, so that a ring never touches itself. `owner_row`, `owner_col`: the owner
    pixel in the extended strip (its row 0 is the last row of the strip before). `junction`: three or more
    boundaries meet there.
    """

    base: int
    number: IntArray
    row: IntArray
    col: IntArray
    following: IntArray
    late: IntArray
    swaps: IntArray
    owner_row: IntArray
    owner_col: IntArray
    junction: BoolArray


class Pending:
    """Nodes at the upper end of vertical boundaries that leave the strip, by column, -1 for none."""

    def __init__(self, width: int) -> None:
        self.left = np.full(width + 1, -1, dtype=np.int64)
        self.right = np.full(width + 1, -1, dtype=np.int64)


def find_nodes(
    values: npt.NDArray[Any],
    keep: BoolArray,
    edges: BoolArray,
    differs: BoolArray,
    *,
    row: int,
    base: int,
    pending: Pending,
    noded: bool,
) -> Nodes:
    """Find and link the nodes on the lattice rows above each row of a strip.

    Args:
        values: classes of the extended strip, `(rows + 1, width)`; row 0 is the last row of the strip before.
        keep: which pixels belong to polygons, same shape.
        edges: vertical boundaries left of each column, `(rows + 1, width + 1)`.
        differs: horizontal boundaries above each row, `(rows, width)`.
        row: raster row of the strip's first lattice row.
        base: number of the first node.
        pending: open vertical boundaries, read and replaced.
        noded: also make nodes where a boundary ends on the straight side of another.
    """
    width = differs.shape[1]
    code = edges[:-1].astype(np.uint8)
    code |= edges[1:].view(np.uint8) << np.uint8(2)
    code[:, :width] |= differs.view(np.uint8) << np.uint8(1)
    code[:, 1:] |= differs.view(np.uint8) << np.uint8(3)
    active = np.flatnonzero(_TURNS[code])
    codes = code.ravel()[active]
    lat_row, col = np.divmod(active, width + 1)
    exists, at = _tables(noded)
    own_row = lat_row[:, None] + _OWNER_ROW
    own_col = col[:, None] + _OWNER_COL
    inside = (own_col >= 0) & (own_col < width)
    flat = own_row * width + np.clip(own_col, 0, width - 1)
    used = exists[codes] & inside & keep.ravel()[flat]
    number = np.cumsum(used.ravel(), dtype=np.int64).reshape(used.shape) + (base - 1)
    number[~used] = -1
    which = np.flatnonzero(used.ravel())
    vertex, slot = which >> 2, which & 3
    links = _Links(base, len(which), number, codes, col, at)
    links.horizontal()
    late = links.vertical(pending, *_open_sides(keep[-1], edges[-1]))
    crossing = np.flatnonzero(codes == _FULL)
    pixels = values.ravel()[flat[crossing]]
    swaps = [
        number[crossing[(pixels[:, a] == pixels[:, b]) & (number[crossing, a] >= 0)]][:, (a, b)]
        for a, b in ((0, 2), (1, 3))
    ]
    return Nodes(
        base,
        np.arange(base, base + len(which)),
        lat_row[vertex] + row,
        col[vertex],
        links.following,
        late,
        np.concatenate(swaps),
        own_row[vertex, slot],
        own_col[vertex, slot],
        _DEGREE[codes[vertex]] > 2,
    )


_DEGREE = np.array([code.bit_count() for code in range(16)], dtype=np.int8)
# Vertices where a boundary turns or ends on another: an N or S edge meets an E or W edge.
_TURNS = np.array([bool(code & 0b0101) and bool(code & 0b1010) for code in range(16)])


def _open_sides(keep: BoolArray, edges: BoolArray) -> tuple[IntArray, IntArray]:
    """Return the columns whose vertical boundary leaves the strip with an owner on the left, and on the right."""
    left = np.flatnonzero(edges[1:] & keep) + 1
    right = np.flatnonzero(edges[:-1] & keep)
    return left, right


class _Links:
    """Joins the nodes of a strip along lattice rows and columns."""

    def __init__(
        self,
        base: int,
        count: int,
        number: IntArray,
        codes: npt.NDArray[np.uint8],
        col: IntArray,
        at: dict[str, npt.NDArray[np.int8]],
    ) -> None:
        self.base, self.number, self.codes, self.col, self.at = base, number, codes, col, at
        self.following = np.full(count, -1, dtype=np.int64)

    def _on(self, side: str) -> tuple[IntArray, IntArray]:
        """Return numbers and columns, in row-major order, of the nodes at one side of an edge."""
        slot = self.at[side][self.codes]
        vertex = np.flatnonzero(slot >= 0)
        number = self.number[vertex, slot[vertex]]
        there = number >= 0
        return number[there], self.col[vertex[there]]

    def horizontal(self) -> None:
        """Link along lattice rows: eastwards below an owner, westwards above one."""
        self.following[self._on("EA")[0] - self.base] = self._on("WA")[0]
        self.following[self._on("WB")[0] - self.base] = self._on("EB")[0]

    def vertical(self, pending: Pending, open_left: IntArray, open_right: IntArray) -> IntArray:
        """Link along lattice columns: northwards right of an owner, southwards left of one; return late links."""
        top, bottom = self._pairs("SL", "NL", pending.left, open_left)
        here = bottom >= 0
        self.following[bottom[here] - self.base] = top[here]
        top, bottom = self._pairs("SR", "NR", pending.right, open_right)
        here = bottom >= 0
        top, bottom = top[here], bottom[here]
        now = top >= self.base
        self.following[top[now] - self.base] = bottom[now]
        return np.stack([top[~now], bottom[~now]], axis=1)

    def _pairs(self, above: str, below: str, waiting: IntArray, leaving: IntArray) -> tuple[IntArray, IntArray]:
        """Return upper and lower nodes of vertical boundaries, lower -1 where they leave; updates `waiting`."""
        top, top_col = self._on(above)
        bottom, bottom_col = self._on(below)
        came = np.flatnonzero(waiting >= 0)
        top, top_col = np.r_[waiting[came], top], np.r_[came, top_col]
        bottom, bottom_col = np.r_[bottom, np.full(len(leaving), -1)], np.r_[bottom_col, leaving]
        kind = np.uint16 if len(waiting) < 65536 else np.uint32  # 16 bits are sorted by radix
        top = top[np.argsort(top_col.astype(kind), kind="stable")]
        order = np.argsort(bottom_col.astype(kind), kind="stable")
        bottom, bottom_col = bottom[order], bottom_col[order]
        gone = bottom < 0
        waiting[:] = -1
        waiting[bottom_col[gone]] = top[gone]
        return top, bottom
