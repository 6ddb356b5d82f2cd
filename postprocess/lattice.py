"""The boundaries of a class raster as a planar graph: its vertices, found row by row, and its rings.

A vertex stands wherever boundaries between pixels turn or meet. Up to four boundary edges leave it, and each links it
to the next vertex that way. Going clockwise from one edge to the next sweeps a sector, which one pixel owns; the ring
around that owner arrives at the vertex along the first edge and leaves along the second. Rings run with their owner on
the left as seen on a north-up map (shells counter-clockwise). Lattice rows grow downwards.

The loops are compiled, so they take arrays and fill arrays; `trace.py` calls them. All stand in one file: kept machine
code is renewed only where its own file changes.

Vertices are rows of one `int32` table, the pool; the row of a vertex that is no longer needed is used again. Columns:

- `ROW`, `COL`: lattice position.
- `LINKS` + edge: the vertex at the other end of that edge; edges are 0 north, 1 east, 2 south, 3 west. `LINKS` of a
  free row is the next free row.
- `CHAIN`: next vertex where a hole of the same component may start, -1 for none.
- `BITS`: from the lowest, four bits for the edges that exist; four for the sectors whose ring is not followed yet; four
  for the sectors that `_mark_touches` passed; two for opposite sectors (0 with 2, 1 with 3) of equal class; two for
  those that turned out to be of one component.

Components are rows of another `int32` table, in the order of their first pixels. Columns: `PARENT` (union-find, always
the smaller number), `SHELL` (first vertex of its shell), `HEAD`, `TAIL` and `COUNT` of its chain, `TOUCHES` (whether it
may touch itself diagonally).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tuban.postprocess.compiled import compiled

if TYPE_CHECKING:
    import numpy.typing as npt

    Int32Array = npt.NDArray[np.int32]
    IntArray = npt.NDArray[np.int64]
    FloatArray = npt.NDArray[np.float64]

NOTHING = np.iinfo(np.int64).min  # the class of what belongs to no polygon

ROW, COL, LINKS, CHAIN, BITS = 0, 1, 2, 6, 7
POOL_COLUMNS = 8
PARENT, SHELL, HEAD, TAIL, COUNT, TOUCHES = range(6)
COMPONENT_COLUMNS = 6
PLACE, BEGIN, FIRST, END = range(4)
RING_COLUMNS = 4
# Entries of the pool's state: first free row (-1: none), rows ever used, rows in use.
FREE, TOP, LIVE = range(3)

_OPEN, _SEEN, _EQUAL, _ONE = 4, 8, 12, 14  # first bit of each group
_ES, _FULL = 0b0110, 0b1111
_SHELL_ARRIVES, _HOLE_ARRIVES = 1, 2  # edge along which a ring arrives at its first vertex in row-major order
# The next edge clockwise, by existing edges and edge.
_CLOCKWISE = np.array(
    [
        next((k for k in ((edge + turn) % 4 for turn in range(1, 5)) if code >> k & 1), 0)
        for code in range(16)
        for edge in range(4)
    ],
    dtype=np.int32,
)


@compiled
def _root(components: Int32Array, number: int) -> int:
    """Return the component that `number` has become part of, and shorten the way there."""
    while components[number, PARENT] != number:
        components[number, PARENT] = components[components[number, PARENT], PARENT]
        number = components[number, PARENT]
    return number


@compiled
def _join(components: Int32Array, pool: Int32Array, one: int, other: int) -> int:
    """Make two components one: the one that began first, with both chains."""
    one, other = _root(components, one), _root(components, other)
    if one == other:
        return one
    first, second = min(one, other), max(one, other)
    components[second, PARENT] = first
    if components[second, HEAD] >= 0:
        pool[components[second, TAIL], CHAIN] = components[first, HEAD]
        components[first, HEAD] = components[second, HEAD]
        if components[first, TAIL] < 0:
            components[first, TAIL] = components[second, TAIL]
    components[first, COUNT] += components[second, COUNT]
    components[first, TOUCHES] |= components[second, TOUCHES]
    return first


@compiled
def _chain(components: Int32Array, pool: Int32Array, number: int, vertex: int) -> None:
    """Note a vertex where a hole of a component may start."""
    number = _root(components, number)
    pool[vertex, CHAIN] = components[number, HEAD]
    components[number, HEAD] = vertex
    if components[number, TAIL] < 0:
        components[number, TAIL] = vertex
    components[number, COUNT] += 1


@compiled
def _add(
    pool: Int32Array, state: IntArray, row: int, col: int, code: int, owned: int, up: Int32Array, west: int
) -> int:  # fmt: skip
    """Add a vertex, link it to the one above and the one to the west, and return it."""
    if state[FREE] >= 0:
        vertex = int(state[FREE])
        state[FREE] = pool[vertex, LINKS]
    else:
        vertex = int(state[TOP])
        state[TOP] += 1
    state[LIVE] += 1
    pool[vertex, ROW], pool[vertex, COL], pool[vertex, CHAIN] = row, col, -1
    pool[vertex, BITS] = code | owned << _OPEN
    if code & 1:
        pool[vertex, LINKS], pool[up[col], LINKS + 2] = up[col], vertex
    if code & 8:
        pool[vertex, LINKS + 3], pool[west, LINKS + 1] = west, vertex
    if code & 4:
        up[col] = vertex
    return vertex


@compiled
def _begin(components: Int32Array, number: int, vertex: int) -> None:
    """Write the row of a component that begins at a vertex."""
    components[number, PARENT], components[number, SHELL] = number, vertex
    components[number, HEAD], components[number, TAIL] = -1, -1
    components[number, COUNT], components[number, TOUCHES] = 0, 0


@compiled
def _note_holes(
    pool: Int32Array, components: Int32Array, vertex: int, code: int, ne: int, se: int, sw: int, nw: int,
    above: int, before: int,
) -> None:  # fmt: skip
    """Note holes that may start at a new vertex, and where a component may touch itself.

    `code` has the edges of the vertex; `ne` to `nw` are the classes around it; `above` and `before` are the components
    of the pixels north-east and north-west.
    """
    if code == _ES:
        if nw != NOTHING:
            _chain(components, pool, before, vertex)
    elif code == _FULL:
        if ne == sw and ne != NOTHING:
            pool[vertex, BITS] |= 1 << _EQUAL
            components[_root(components, above), TOUCHES] = 1
            _chain(components, pool, above, vertex)
        if nw == se and nw != NOTHING:
            pool[vertex, BITS] |= 2 << _EQUAL
            components[_root(components, before), TOUCHES] = 1


@compiled
def scan(
    classes: IntArray, component: Int32Array, row: int, pool: Int32Array, state: IntArray, up: Int32Array,
    components: Int32Array, known: int,
) -> int:  # fmt: skip
    """Find the vertices on the lattice row above each pixel row, link them, and label the pixels.

    Args:
        classes: `(rows + 1, width + 2)`, `NOTHING` in the first and last column; row 0 is the last row of the strip
            before.
        component: same shape; -1 in the first column, and row 0 as the strip before left it. Filled with the number of
            a component that the pixel's is part of, -1 for none.
        row: lattice row above `classes[1]`.
        pool: vertices, with room for `rows * (width + 1)` more.
        state: `FREE`, `TOP` and `LIVE`.
        up: vertex at the upper end of the boundary in each lattice column, `(width + 1,)`.
        components: filled from `known` on; in the end the parent of each is the component that it is part of.
        known: number of components that the strip before left open.

    Returns:
        The number of components.
    """
    count = known
    for i in range(1, classes.shape[0]):
        west = -1
        nw, sw = classes[i - 1, 0], classes[i, 0]
        for c in range(1, classes.shape[1]):
            ne, se = classes[i - 1, c], classes[i, c]
            label = component[i, c - 1]
            if ne != nw or se != sw or sw != nw:  # else the inside of a polygon, as most of a raster
                above = component[i - 1, c]
                vertex = -1
                code = (nw != ne) | (ne != se) << 1 | (sw != se) << 2 | (nw != sw) << 3
                if code & 0b0101 and code & 0b1010:
                    kept = (ne != NOTHING) | (se != NOTHING) << 1 | (sw != NOTHING) << 2 | (nw != NOTHING) << 3
                    vertex = west = _add(pool, state, row + i - 1, c - 1, code, code & kept, up, west)
                    _note_holes(pool, components, vertex, code, ne, se, sw, nw, above, component[i - 1, c - 1])
                if se == NOTHING:
                    label = -1
                elif se == sw:
                    if se == ne and nw != se:
                        label = _join(components, pool, label, above)
                elif se == ne:
                    label = above
                else:
                    label = count
                    _begin(components, count, vertex)
                    count += 1
            component[i, c] = label
            nw, sw = ne, se
    for number in range(count):  # a parent has a smaller number, so one pass leads every member to the root
        components[number, PARENT] = components[components[number, PARENT], PARENT]
    return count


@compiled
def _mark_touches(pool: Int32Array, start: int, arrives: int) -> None:
    """Follow a boundary that stays with its pixels wherever they touch diagonally, and note where it touches itself.

    Two opposite pixels of equal class are of one component exactly if this boundary passes both: where it does, what
    lies between two passes is a ring of its own.
    """
    vertex, edge = start, arrives
    while not pool[vertex, BITS] >> _SEEN + edge & 1:
        bits = pool[vertex, BITS] | 1 << _SEEN + edge
        pair = edge & 1
        across = edge ^ 2
        # A ring that is followed already belongs to another component.
        if bits >> _EQUAL + pair & 1 and bits >> _SEEN + across & 1 and bits >> _OPEN + across & 1:
            bits |= 1 << _ONE + pair
        pool[vertex, BITS] = bits
        leaves = _CLOCKWISE[(bits & _FULL) * 4 + edge]
        vertex, edge = pool[vertex, LINKS + leaves], leaves ^ 2


@compiled
def _walk(
    pool: Int32Array, state: IntArray, start: int, arrives: int, noded: bool, path: Int32Array, at: int
) -> tuple[int, int]:
    """Write the vertices of a ring to `path` from `at` on; return the place of its first one, and the end."""
    first, top, left = at, pool[start, ROW], pool[start, COL]
    vertex, edge = start, arrives
    bits = pool[vertex, BITS]
    while bits >> _OPEN + edge & 1:
        bits &= ~(1 << _OPEN + edge)
        pool[vertex, BITS] = bits
        leaves = _CLOCKWISE[(bits & _FULL) * 4 + edge]
        if bits >> _ONE + (edge & 1) & 1:
            leaves ^= 2
        if noded or leaves != edge ^ 2:
            row, col = pool[vertex, ROW], pool[vertex, COL]
            if row < top or (row == top and col < left):
                first, top, left = at, row, col
            path[at] = vertex
            at += 1
        following = pool[vertex, LINKS + leaves]
        if not bits >> _OPEN & _FULL:
            pool[vertex, LINKS] = state[FREE]
            state[FREE] = vertex
            state[LIVE] -= 1
        vertex, edge = following, leaves ^ 2
        bits = pool[vertex, BITS]
    return first, at


@compiled
def follow(
    pool: Int32Array, state: IntArray, components: Int32Array, done: IntArray, noded: bool, rings: IntArray,
    path: Int32Array,
) -> int:  # fmt: skip
    """Follow the rings of complete components, and free their vertices, which stay readable until the next scan.

    Args:
        pool: vertices.
        state: `FREE`, `TOP` and `LIVE`.
        components: as `scan` left them.
        done: numbers of the complete components.
        noded: keep every vertex; otherwise only corners of the ring.
        rings: filled, `(at least 1 + COUNT of each, 4)`: `PLACE` in `done`, and in `path` the `BEGIN` of the ring, its
            `FIRST` vertex in row-major order, and the `END`.
        path: filled with the vertices of one ring after the other.

    Returns:
        The number of rings.
    """
    count, at = 0, 0
    for place in range(len(done)):
        shell, head = components[done[place], SHELL], components[done[place], HEAD]
        if components[done[place], TOUCHES]:
            _mark_touches(pool, shell, _SHELL_ARRIVES)
            start = head
            while start >= 0:
                if pool[start, BITS] & _FULL == _ES:
                    _mark_touches(pool, start, _HOLE_ARRIVES)
                start = pool[start, CHAIN]
        start, arrives = shell, _SHELL_ARRIVES
        while start >= 0:
            bits = pool[start, BITS]
            # At a crossing a hole starts only where the component touches itself.
            if bits >> _OPEN + arrives & 1 and (bits & _FULL == _ES or bits >> _ONE & 1 or start == shell):
                rings[count, PLACE], rings[count, BEGIN] = place, at
                rings[count, FIRST], at = _walk(pool, state, start, arrives, noded, path, at)
                rings[count, END] = at
                count += 1
            start = head if arrives == _SHELL_ARRIVES else pool[start, CHAIN]
            arrives = _HOLE_ARRIVES
    return count


@compiled
def draw(pool: Int32Array, rings: IntArray, path: Int32Array, transform: FloatArray, xy: FloatArray) -> None:
    """Write the coordinates of rings, closed, one ring after the other.

    Args:
        pool: vertices, none of them added since `follow`.
        rings: as `follow` filled them, in the order to write.
        path: of `follow`.
        transform: six coefficients from lattice columns and rows to x and y.
        xy: filled, `(vertices + rings, 2)`.
    """
    a, b, c, d, e, f = transform
    at = 0
    for i in range(len(rings)):
        begin, place, end = rings[i, BEGIN], rings[i, FIRST], rings[i, END]
        for _ in range(begin, end + 1):
            vertex = path[place]
            col, row = pool[vertex, COL], pool[vertex, ROW]
            xy[at, 0], xy[at, 1] = c + col * a + row * b, f + col * d + row * e
            at += 1
            place += 1
            if place == end:
                place = begin
