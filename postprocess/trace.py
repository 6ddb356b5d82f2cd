"""Traces a class raster strip by strip into rings, and lets go of each component as soon as it is complete.

Memory holds one strip and the boundaries of the components that still touch its last row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tuban.postprocess.cycles import rank_cycles
from tuban.postprocess.lattice import Nodes, Pending, find_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]


class Tally(Protocol):
    """Sums over the pixels of each component of a strip."""

    def __call__(self, labels: npt.NDArray[np.int32], count: int) -> IntArray:
        """Return `(count, features)` sums; `labels` is `(rows, width)`, -1 where no polygon is."""


@dataclass(frozen=True)
class Rings:
    """Complete components in lattice coordinates, ordered by their first vertex in row-major order.

    `row`, `col`: vertices, `(n,)`, rings closed. `ring_starts`: `(rings + 1,)`. `polygon_starts`: `(polygons + 1,)`
    into rings, each polygon's shell first. `values`: class of each polygon. `sums`: tallies, `(polygons, features)`.
    `junction`: where three or more boundaries meet, `(n,)`.
    """

    row: IntArray
    col: IntArray
    ring_starts: IntArray
    polygon_starts: IntArray
    values: npt.NDArray[Any]
    sums: IntArray
    junction: BoolArray


@dataclass
class _Open:
    """A component that touches the last row so far; columns of `parts`: number, row, col, following, junction."""

    parts: list[IntArray] = field(default_factory=list)
    late: list[IntArray] = field(default_factory=list)
    swaps: list[IntArray] = field(default_factory=list)
    sums: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def absorb(self, other: _Open) -> None:
        """Take over another component that turned out to be this one."""
        for mine, theirs in ((self.parts, other.parts), (self.late, other.late), (self.swaps, other.swaps)):
            if len(theirs) > len(mine):
                theirs.extend(mine)
                mine[:] = theirs
            else:
                mine.extend(theirs)
        self.sums = self.sums + other.sums


class Tracer:
    """Turns strips of a raster, top to bottom, into rings.

    Args:
        width: columns of the raster.
        noded: give each ring a vertex wherever a neighbour's boundary ends on it, so that neighbours share
            whole edges; without, rings have corners only.
    """

    def __init__(self, width: int, *, noded: bool = True) -> None:
        self.width, self.noded = width, noded
        self.pending = Pending(width)
        self._row = self._base = 0
        self._values: npt.NDArray[Any] | None = None
        self._keep = np.zeros(width, dtype=bool)
        self._features = 0
        self._open: list[_Open] = []
        self._open_of_pixel = np.full(width, -1, dtype=np.int64)

    @property
    def open_vertices(self) -> int:
        """Vertices held for components that are not complete."""
        return sum(len(part) for item in self._open for part in item.parts)

    def push(self, values: npt.NDArray[Any], keep: BoolArray, tally: Tally | None = None) -> Rings:
        """Add the next rows and return what they complete.

        Args:
            values: classes, `(rows, width)`.
            keep: which pixels belong to polygons, same shape.
            tally: sums to carry along for each polygon.
        """
        above = values[0] if self._values is None else self._values
        return self._advance(np.concatenate([above[None], values]), np.concatenate([self._keep[None], keep]), tally)

    def finish(self) -> Rings:
        """Close the raster below its last row and return the components that were open."""
        values = np.zeros(self.width, dtype=np.uint8) if self._values is None else self._values
        keep = np.concatenate([self._keep[None], np.zeros((1, self.width), dtype=bool)])
        return self._advance(np.stack([values, values]), keep, None, last=True)

    def _advance(self, values: npt.NDArray[Any], keep: BoolArray, tally: Tally | None, *, last: bool = False) -> Rings:
        """Trace an extended strip: its row 0 is the last row of the strip before, or a stand-in that is not kept."""
        edges = np.ones((len(values), self.width + 1), dtype=bool)
        np.not_equal(values[:, 1:], values[:, :-1], out=edges[:, 1:-1])
        differs = values[1:] != values[:-1]
        if self._values is None or last:
            differs[0] = True
        run, component = self._components(edges, differs, keep)
        if self._values is None:
            edges[0] = False  # outside of the raster there are no boundaries
        if last:
            edges[1] = False
        nodes = find_nodes(
            values, keep, edges, differs, row=self._row, base=self._base, pending=self.pending, noded=self.noded
        )
        count = int(component.max(initial=-1)) + 1
        if tally is not None:
            sums = tally(component[run[1:]], count)
        else:
            sums = np.zeros((count, self._features), dtype=np.int64)
        self._features = sums.shape[1]
        comp = component[run[nodes.owner_row, nodes.owner_col]].astype(np.int64)
        value = np.zeros(count, dtype=values.dtype)  # every component that completes has a node in this strip
        value[comp] = values[nodes.owner_row, nodes.owner_col]
        done = self._settle(nodes, comp, component[run[0]], component[run[-1]], sums)
        self._row += len(values) - 1
        self._base += len(nodes.row)
        self._values, self._keep = values[-1].copy(), keep[-1].copy()
        return _assemble(done, value)

    def _components(
        self, edges: BoolArray, differs: BoolArray, keep: BoolArray
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the run of each pixel and the 4-connected component of each run, -1 for what is not kept.

        Runs of the row before the strip that were one component stay one.
        """
        starts = edges[:, :-1]
        run = np.cumsum(starts, dtype=np.int32).reshape(starts.shape)
        run -= 1
        # Two runs of one class in adjacent rows overlap from where the later of both starts.
        touch = (starts[1:] | starts[:-1]) & ~differs & keep[1:]
        known = self._open_of_pixel
        pixels = np.flatnonzero(starts[0] & (known >= 0))
        pixels = pixels[np.argsort(known[pixels], kind="stable")]
        same = known[pixels[1:]] == known[pixels[:-1]]
        a = np.concatenate([run[:-1][touch], run[0, pixels[:-1][same]]])
        b = np.concatenate([run[1:][touch], run[0, pixels[1:][same]]])
        size = int(run[-1, -1]) + 1
        graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(size, size))
        count, component = connected_components(graph.tocsr(), directed=False)
        # Number only what becomes polygons; the rest is -1.
        kept = keep.ravel()[starts.ravel()]
        matters = np.zeros(count, dtype=bool)
        matters[component[kept]] = True
        number = np.cumsum(matters, dtype=np.int32) - np.int32(1)
        return run, np.where(kept, number[component], np.int32(-1))

    def _settle(self, nodes: Nodes, comp: IntArray, top: IntArray, bottom: IntArray, sums: IntArray) -> _Done:
        """Keep what belongs to components in the last row, and return the rest."""
        earlier: dict[int, _Open] = {}
        was = self._open_of_pixel
        for item, root in sorted(set(zip(was[was >= 0].tolist(), top[was >= 0].tolist(), strict=True))):
            if root in earlier:
                earlier[root].absorb(self._open[item])
            else:
                earlier[root] = self._open[item]
        roots = np.unique(bottom[bottom >= 0])
        is_open = np.zeros(len(sums), dtype=bool)
        is_open[roots] = True
        for root, item in earlier.items():
            item.sums = item.sums + sums[root]
            sums[root] = item.sums
        table = np.stack([nodes.number, nodes.row, nodes.col, nodes.following, nodes.junction], axis=1)
        late_comp, swap_comp = comp[nodes.late[:, 1] - nodes.base], comp[nodes.swaps[:, 0] - nodes.base]
        grown = {root: earlier.pop(root) if root in earlier else _Open(sums=sums[root]) for root in roots.tolist()}
        stays = is_open[comp], is_open[late_comp], is_open[swap_comp]
        for root, part in _split(table[stays[0]], comp[stays[0]]):
            grown[root].parts.append(part)
        for root, part in _split(nodes.late[stays[1]], late_comp[stays[1]]):
            grown[root].late.append(part)
        for root, part in _split(nodes.swaps[stays[2]], swap_comp[stays[2]]):
            grown[root].swaps.append(part)
        self._open = list(grown.values())
        number = np.full(len(sums) + 1, -1)  # the last entry serves -1
        number[roots] = np.arange(len(roots))
        self._open_of_pixel = number[bottom]
        old = [(root, part) for root, item in earlier.items() for part in item.parts]
        return _Done(
            np.concatenate([part for _, part in old] + [table[~stays[0]]]),
            np.concatenate([np.full(len(part), root) for root, part in old] + [comp[~stays[0]]]),
            np.concatenate([part for item in earlier.values() for part in item.late] + [nodes.late[~stays[1]]]),
            np.concatenate([part for item in earlier.values() for part in item.swaps] + [nodes.swaps[~stays[2]]]),
            sums,
        )


class _Done(NamedTuple):
    """Nodes of complete components (columns as in `_Open.parts`), the component of each, late links, swaps, sums."""

    table: IntArray
    comp: IntArray
    late: IntArray
    swaps: IntArray
    sums: IntArray


def _split(rows: IntArray, owner: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Yield the rows of each owner, copied so that no part keeps the others in memory."""
    order = np.argsort(owner, kind="stable")
    rows, owner = rows[order], owner[order]
    cuts = np.flatnonzero(np.diff(owner)) + 1
    starts = [0, *cuts.tolist(), len(owner)]
    for a, b in pairwise(starts):
        if b > a:
            yield int(owner[a]), rows[a:b].copy()


def _places(number: IntArray, wanted: IntArray) -> IntArray:
    """Return where each of `wanted` stands in the ascending `number`; all of them do."""
    if len(number) and number[-1] - number[0] < 4 * len(number):  # mostly so: a table is faster than a search
        table = np.empty(number[-1] - number[0] + 1, dtype=np.int64)
        table[number - number[0]] = np.arange(len(number))
        found: IntArray = table[wanted - number[0]]
        return found
    places: IntArray = np.searchsorted(number, wanted)
    return places


def _assemble(done: _Done, value: npt.NDArray[Any]) -> Rings:
    """Order the nodes of complete components into rings, and rings into polygons."""
    table, comp = done.table, done.comp
    if (np.diff(table[:, 0]) < 0).any():
        order = np.argsort(table[:, 0], kind="stable")
        table, comp = table[order], comp[order]
    number = np.ascontiguousarray(table[:, 0])
    following = table[:, 3].copy()
    following[np.searchsorted(number, done.late[:, 0])] = done.late[:, 1]
    swaps = np.searchsorted(number, done.swaps)
    a, b = swaps[:, 0], np.minimum(swaps[:, 1], max(len(number) - 1, 0))
    here = (number[b] == done.swaps[:, 1]) & (comp[b] == comp[a])
    a, b = a[here], b[here]
    following[a], following[b] = following[b], following[a]
    cycle, position, length = rank_cycles(_places(number, following))
    starts = np.r_[0, np.cumsum(length)]
    members = np.empty(len(number), dtype=np.int64)
    members[starts[cycle] + position] = np.arange(len(number))
    # A ring starts at its first vertex in row-major order: the same one however the raster was cut.
    first = np.minimum.reduceat(members, starts[:-1]) if len(length) else members
    ring = np.repeat(np.arange(len(length)), length)
    turned = starts[ring] + (position[members] - position[first][ring]) % length[ring]
    members[turned] = members.copy()
    row, col = table[members, 1], table[members, 2]
    after = np.arange(1, len(members) + 1)
    after[starts[1:] - 1] = starts[:-1]
    twice = col * row[after] - col[after] * row
    is_hole = (np.add.reduceat(twice, starts[:-1]) if len(length) else twice) > 0
    ring_comp = comp[first]
    shell_first = np.empty(len(value), dtype=np.int64)
    shell_first[ring_comp[~is_hole]] = first[~is_hole]
    arranged = np.lexsort((first, shell_first[ring_comp]))
    ring_starts = np.r_[0, np.cumsum(length[arranged] + 1)]
    # Each ring's members and then its first one again.
    step = np.arange(ring_starts[-1]) - np.repeat(ring_starts[:-1], length[arranged] + 1)
    size = np.repeat(length[arranged], length[arranged] + 1)
    pick = members[np.repeat(starts[:-1][arranged], length[arranged] + 1) + step % size]
    shells = np.flatnonzero(~is_hole[arranged])
    owners = ring_comp[arranged][shells]
    return Rings(
        table[pick, 1], table[pick, 2], ring_starts, np.r_[shells, len(arranged)], value[owners], done.sums[owners],
        table[pick, 4].astype(bool),
    )  # fmt: skip
