"""Traces a class raster strip by strip into rings, and lets go of each component as soon as it is complete.

Memory holds one strip and the boundaries of the components that still touch its last row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tuban.errors import SceneError
from tuban.postprocess import lattice

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Int32Array = npt.NDArray[np.int32]
    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class Tally(Protocol):
    """Sums over the pixels of each component of a strip."""

    def __call__(self, labels: npt.NDArray[np.int32], count: int) -> IntArray:
        """Return `(count, features)` sums; `labels` is `(rows, width)`, -1 where no polygon is."""


@dataclass(frozen=True)
class Rings:
    """Complete components, ordered by their first vertex in row-major order, at which each ring starts.

    `xy`: vertices, `(n, 2)`, rings closed. `ring_starts`: `(rings + 1,)`. `polygon_starts`: `(polygons + 1,)` into
    rings, each polygon's shell first. `values`: class of each polygon. `sums`: tallies, `(polygons, features)`.
    """

    xy: npt.NDArray[np.float64]
    ring_starts: IntArray
    polygon_starts: IntArray
    values: IntArray
    sums: IntArray


class Tracer:
    """Turns strips of a raster, top to bottom, into rings.

    Args:
        width: columns of the raster.
        noded: give each ring a vertex wherever a neighbour's boundary ends on it, so that neighbours share
            whole edges; without, rings have corners only.
        transform: the six coefficients of an affine transform from lattice columns and rows to x and y.
    """

    def __init__(self, width: int, *, noded: bool = True, transform: Sequence[float] = _IDENTITY) -> None:
        self.width, self.noded = width, noded
        self._transform = np.array(transform[:6], dtype=np.float64)
        self._row = 0
        self._pool = np.empty((0, lattice.POOL_COLUMNS), dtype=np.int32)
        self._state = np.array([-1, 0, 0])
        self._up = np.full(width + 1, -1, dtype=np.int32)
        self._classes = np.full((1, width + 2), lattice.NOTHING)
        self._component = np.full((1, width + 2), -1, dtype=np.int32)
        # Open components, their classes, and what was counted of them so far.
        self._open = np.empty((0, lattice.COMPONENT_COLUMNS), dtype=np.int32)
        self._values = np.empty(0, dtype=np.int64)
        self._sums = np.zeros((0, 0), dtype=np.int64)

    @property
    def open_vertices(self) -> int:
        """Vertices held for components that are not complete."""
        return int(self._state[lattice.LIVE])

    def push(self, values: npt.NDArray[Any], keep: BoolArray, tally: Tally | None = None) -> Rings:
        """Add the next rows and return what they complete.

        Args:
            values: classes, `(rows, width)`, of an integer type.
            keep: which pixels belong to polygons, same shape.
            tally: sums to carry along for each polygon.
        """
        rows = len(values)
        self._make_room(rows)
        inside = self._classes[1 : rows + 1, 1:-1]
        inside[:] = lattice.NOTHING
        np.copyto(inside, values, where=keep, casting="same_kind")
        classes, component = self._classes[: rows + 1], self._component[: rows + 1]
        known = len(self._open)
        components = np.empty((known + values.size, lattice.COMPONENT_COLUMNS), dtype=np.int32)
        components[:known] = self._open
        count = lattice.scan(classes, component, self._row, self._pool, self._state, self._up, components, known)
        self._row += rows
        return self._settle(components[:count], component, tally)

    def finish(self) -> Rings:
        """Close the raster below its last row and return the components that were open."""
        return self.push(np.zeros((1, self.width), dtype=np.uint8), np.zeros((1, self.width), dtype=bool))

    def _make_room(self, rows: int) -> None:
        """Let the buffers hold this many rows, and the pool as many vertices as they can have."""
        if len(self._classes) < rows + 1:
            self._classes, old = np.full((rows + 1, self.width + 2), lattice.NOTHING), self._classes
            self._classes[0] = old[0]
            self._component, last = np.full((rows + 1, self.width + 2), -1, dtype=np.int32), self._component
            self._component[0] = last[0]
        top = int(self._state[lattice.TOP])
        need = self.open_vertices + rows * (self.width + 1)
        if len(self._pool) < need:
            if need > np.iinfo(np.int32).max:
                raise SceneError(
                    f"the outlines of unfinished polygons have {self.open_vertices} vertices, at most {2**31} can be "
                    "held; leave out the class that spans the raster with mask_values"
                )
            pool = np.empty((max(need, len(self._pool) * 3 // 2), lattice.POOL_COLUMNS), dtype=np.int32)
            pool[:top] = self._pool[:top]
            self._pool = pool

    def _settle(self, components: Int32Array, component: Int32Array, tally: Tally | None) -> Rings:
        """Keep what belongs to components in the last row, and return the rest."""
        known, root = len(self._open), components[:, lattice.PARENT]
        roots = np.flatnonzero(root == np.arange(len(root)))
        place = np.full(len(root) + 1, -1, dtype=np.int32)  # the last entry serves -1
        place[roots] = np.arange(len(roots))
        place[:-1] = place[root]
        sums = np.zeros((len(roots), self._sums.shape[1]), dtype=np.int64)
        if tally is not None:
            sums = tally(place[component[1:, 1:-1]], len(roots))
        if known:
            np.add.at(sums, place[:known], self._sums)
        # A component's shell begins at its first pixel; of one that was open that is not in this strip.
        began = components[roots[roots >= known], lattice.SHELL]
        row, col = self._pool[began, lattice.ROW] - (self._row - len(component) + 1), self._pool[began, lattice.COL]
        values = np.concatenate([self._values[roots[roots < known]], self._classes[row + 1, col + 1]])
        last = place[component[-1]]
        is_open = np.zeros(len(roots), dtype=bool)
        is_open[last[last >= 0]] = True
        rings = self._draw(components, roots[~is_open], values[~is_open], sums[~is_open])
        number = np.full(len(roots) + 1, -1, dtype=np.int32)
        number[:-1][is_open] = np.arange(is_open.sum())
        self._component[0], self._classes[0] = number[last], self._classes[len(component) - 1]
        self._open, self._values, self._sums = components[roots[is_open]], values[is_open], sums[is_open]
        self._open[:, lattice.PARENT] = np.arange(len(self._open))
        return rings

    def _draw(self, components: Int32Array, done: IntArray, values: IntArray, sums: IntArray) -> Rings:
        """Draw the rings of complete components and let go of their vertices."""
        rings = np.empty((len(done) + int(components[done, lattice.COUNT].sum()), lattice.RING_COLUMNS), dtype=np.int64)
        path = np.empty(4 * self.open_vertices, dtype=np.int32)  # a vertex is in at most four rings
        rings = rings[: lattice.follow(self._pool, self._state, components, done, self.noded, rings, path)]
        first = self._pool[path[rings[:, lattice.FIRST]]]
        rings = rings[np.lexsort((first[:, lattice.COL], first[:, lattice.ROW], rings[:, lattice.PLACE]))]
        ring_starts = np.r_[0, np.cumsum(rings[:, lattice.END] - rings[:, lattice.BEGIN] + 1)]
        xy = np.empty((ring_starts[-1], 2))
        lattice.draw(self._pool, rings, path, self._transform, xy)
        polygon_starts = np.searchsorted(rings[:, lattice.PLACE], np.arange(len(done) + 1))
        return Rings(xy, ring_starts, polygon_starts, values, sums)
