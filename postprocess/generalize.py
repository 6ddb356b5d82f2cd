"""Generalises traced polygons in a stream: neighbours keep sharing their edges, and no polygon changes its area."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tuban.postprocess.borders import BOUNDARY, cut, join, kept_of, lattice_codes, with_crossings
from tuban.postprocess.chords import REDUCED, SIMPLIFIED, straighten_all
from tuban.postprocess.curves import SOFT, round_all
from tuban.postprocess.squares import squared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    from tuban.postprocess.borders import Pieces
    from tuban.postprocess.class_raster import Grid
    from tuban.postprocess.polygonize import PolygonBatch
    from tuban.postprocess.vectorize_settings import VectorizeSettings

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]
    # Classes, and what of them forms polygons, in rows a to b and columns c to d, all inside of the raster.
    Classes = Callable[[int, int, int, int], tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]

_TILE = 1024  # pixels; borders stay where they cross a tile line, so that a piece never needs more than one tile
_HELD = 32  # tiles of lattice codes kept at once, 1 MB each


@dataclass
class Drift:
    """What generalising did: planar areas by class before and after, in CRS units, and counts of polygons."""

    before: Counter[int] = field(default_factory=Counter)
    after: Counter[int] = field(default_factory=Counter)
    largest: float = 0.0
    polygons: int = 0
    stepped: int = 0

    def add(self, values: npt.NDArray[Any], before: FloatArray, after: FloatArray, stepped: int) -> None:
        """Add polygons of one batch."""
        known, index = np.unique(values, return_inverse=True)
        for total, area in ((self.before, before), (self.after, after)):
            for value, part in zip(known.tolist(), np.bincount(index, weights=area), strict=True):
                total[value] += part
        self.largest = max(self.largest, float((np.abs(after - before) / before).max(initial=0.0)))
        self.polygons += len(values)
        self.stepped += stepped


class Generalizer:
    """Simplifies the borders of polygons that were traced with shared vertices (`noded`).

    Args:
        grid: of the raster.
        classes: reads pixels of the raster as it was traced; asked for tiles, again and again.
        tolerance_m: how far a border may move, in metres.
        smooth: round corners where there is room, by half of the tolerance.
        squares: whether outlines of a class value get right angles; only outlines that touch one other polygon,
            where there is room, by the tolerance.
        measure: area of polygons, for `drift`; planar where None.
    """

    def __init__(
        self,
        grid: Grid,
        classes: Classes,
        tolerance_m: float,
        *,
        smooth: bool = False,
        squares: Callable[[int], bool] | None = None,
        measure: Callable[[npt.NDArray[np.object_]], FloatArray] | None = None,
    ) -> None:
        self.grid, self.classes, self.tolerance_m = grid, classes, tolerance_m
        self.smooth, self.squares, self.measure = smooth, squares, measure or shapely.area
        self.drift = Drift()
        self._codes = lru_cache(maxsize=_HELD)(self._read_codes)

    @classmethod
    def of(
        cls,
        settings: VectorizeSettings,
        grid: Grid,
        classes: Classes,
        measure: Callable[[npt.NDArray[np.object_]], FloatArray] | None = None,
    ) -> Generalizer:
        """Return what the settings ask for."""
        squares = settings.squares if settings.square_classes else None
        return cls(grid, classes, settings.simplify_m, smooth=settings.smooth, squares=squares, measure=measure)

    def run(self, batches: Iterable[PolygonBatch]) -> Iterator[PolygonBatch]:
        """Yield the batches simplified."""
        for batch in batches:
            yield self.simplified(batch)[0]

    def simplified(self, batch: PolygonBatch) -> tuple[PolygonBatch, npt.NDArray[np.bool_]]:
        """Return a batch with simplified geometry, and which of its polygons keep pixel edges somewhere, `(n,)`."""
        geometry, stepped = self._simplify(batch.geometry)
        self.drift.add(batch.value, self.measure(batch.geometry), self.measure(geometry), int(stepped.sum()))
        return batch._replace(geometry=geometry), stepped

    def _simplify(self, polygons: npt.NDArray[np.object_]) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.bool_]]:
        """Return simplified polygons, and which of them keep pixel edges somewhere."""
        kind, xy, (ring_starts, polygon_starts) = shapely.to_ragged_array(polygons)
        a, b, c, d, e, f = self.grid.transform
        x, y = xy[:, 0] - c, xy[:, 1] - f
        col = np.rint((e * x - b * y) / (a * e - b * d)).astype(np.int64)
        row = np.rint((a * y - d * x) / (a * e - b * d)).astype(np.int64)
        row, col, ring_starts = with_crossings(row, col, ring_starts, _TILE)
        firm = self._at(row, col) > BOUNDARY
        pieces = cut(row, col, ring_starts, firm | (row % _TILE == 0) | (col % _TILE == 0), firm)
        made, begins, sizes, states = self._shaped(pieces)
        lines = np.zeros_like(pieces.ring_starts)
        corners = np.empty((int(sizes.sum()) + len(lines), 2))
        size = join(made, begins, sizes, pieces.reverse, pieces.firm, pieces.ring_starts, lines, corners)
        corners = corners[:size] / 2
        simple = np.empty_like(corners)
        simple[:, 0] = c + corners[:, 0] * a + corners[:, 1] * b
        simple[:, 1] = f + corners[:, 0] * d + corners[:, 1] * e
        stepped = kept_of(states, pieces, polygon_starts)
        return shapely.from_ragged_array(kind, simple, (lines, polygon_starts)), stepped

    def _shaped(self, pieces: Pieces) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
        """Return the vertices of every piece, where each begins, how many they are, and how each came out."""
        points, starts = pieces.points, pieces.starts
        count = len(starts) - 1
        sizes, states = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        out, soft = np.empty((2 * len(points), 2)), np.empty((SOFT * len(points) if self.smooth else 0, 2))
        soft_sizes = np.zeros(count, dtype=np.int64)
        free = np.zeros(count if self.smooth or self.squares else 0, dtype=bool)
        corner = np.minimum.reduceat(points, starts[:-1]).astype(np.int64) // (2 * _TILE)
        tall, wide = self.grid.pixel_m
        metric = np.array([wide / 2, tall / 2])
        squares: dict[int, FloatArray] = {}
        # Simplifying moves others by the tolerance; rounding moves them and this one by half more, squaring by as much
        # again. A pixel edge lies up to half a pixel from its ends.
        room = (3 if self.squares else 2) * self.tolerance_m + max(self.grid.pixel_m) / 2
        for tile, members in _grouped(corner[:, 1], corner[:, 0]):
            top, left = (2.0 * _TILE * k for k in tile)
            code = self._codes(*tile)
            straighten_all(points, starts, members, metric, self.tolerance_m, code, left, top, out, sizes, states)
            if self.smooth or self.squares:
                shaped = members[(states[members] == SIMPLIFIED) | (states[members] == REDUCED)]
                round_all(
                    points, starts, shaped, metric, self.tolerance_m / 2, room, code, left, top, self.smooth,
                    out, sizes, soft, soft_sizes, free,
                )  # fmt: skip
            if self.squares:
                whole = members[free[members] & pieces.whole[members]]
                squares.update(self._squared(whole[self._manmade(points[starts[whole]], tile)], out, starts, sizes))
        begins = 2 * starts[:-1]
        made = [out]
        if self.smooth:
            rounded = np.flatnonzero(soft_sizes)
            rounded = rounded[_simple(soft, SOFT * starts[rounded], soft_sizes[rounded])]
            begins[rounded], sizes[rounded] = len(out) + SOFT * starts[rounded], soft_sizes[rounded]
            made.append(soft)
        if squares:
            chosen = np.array(list(squares))
            lengths = np.array([len(ring) for ring in squares.values()])
            begins[chosen] = sum(map(len, made)) + np.r_[0, np.cumsum(lengths)[:-1]]
            sizes[chosen] = lengths
            made.extend(squares.values())
        return np.concatenate(made), begins, sizes, states

    def _squared(
        self, members: IntArray, out: FloatArray, starts: IntArray, sizes: IntArray
    ) -> Iterator[tuple[int, FloatArray]]:
        """Yield those of the closed pieces that can have right angles, and their vertices."""
        tall, wide = self.grid.pixel_m
        metric = np.array([wide / 2, tall / 2])
        for piece in members.tolist():
            ring = out[2 * starts[piece] : 2 * starts[piece] + sizes[piece]]
            found = squared(ring * metric, self.tolerance_m)
            if found is not None:
                yield piece, found / metric

    def _manmade(self, start: FloatArray, tile: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return which borders in a tile have a class to be squared on either side of their first run."""
        if not len(start):
            return np.zeros(0, dtype=bool)
        height, width = self.grid.shape
        top, left = (max(k * _TILE - 1, 0) for k in tile)
        values, keep = self.classes(
            top, min(tile[0] * _TILE + _TILE + 1, height), left, min(tile[1] * _TILE + _TILE + 1, width)
        )
        asked = np.array([value for value in np.unique(values[keep]).tolist() if self.squares and self.squares(value)])
        x, y = start.T.astype(np.int64)
        # A start lies in the middle of a run: its neighbours half a pixel away lie in the pixels on both sides.
        found = np.zeros(len(start), dtype=bool)
        for dx, dy in ((0, -1), (-1, 0), (0, 0), (-1, -1)):
            row, col = (y + dy) // 2 - top, (x + dx) // 2 - left
            inside = (row >= 0) & (row < values.shape[0]) & (col >= 0) & (col < values.shape[1])
            row, col = np.where(inside, row, 0), np.where(inside, col, 0)
            found |= inside & keep[row, col] & np.isin(values[row, col], asked)
        return found

    def _at(self, row: npt.NDArray[np.int64], col: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the codes of lattice vertices."""
        found = np.empty(len(row), dtype=np.uint8)
        for tile, members in _grouped(row // _TILE, col // _TILE):
            found[members] = self._codes(*tile)[row[members] - tile[0] * _TILE, col[members] - tile[1] * _TILE]
        return found

    def _read_codes(self, tile_row: int, tile_col: int) -> npt.NDArray[np.uint8]:
        """Return the codes of the vertices of a tile, those on its four lines included."""
        height, width = self.grid.shape
        top, left = tile_row * _TILE - 1, tile_col * _TILE - 1  # a rim of pixels around the tile
        rows, cols = (max(top, 0), min(top + _TILE + 2, height)), (max(left, 0), min(left + _TILE + 2, width))
        values, keep = self.classes(*rows, *cols)
        rim = ((rows[0] - top, top + _TILE + 2 - rows[1]), (cols[0] - left, left + _TILE + 2 - cols[1]))
        return lattice_codes(np.pad(values, rim), np.pad(keep, rim))


def _grouped(
    row: npt.NDArray[np.int64], col: npt.NDArray[np.int64]
) -> Iterator[tuple[tuple[int, int], npt.NDArray[np.int64]]]:
    """Yield each pair of row and column once, with the places where it stands."""
    order = np.lexsort((col, row))
    cuts = np.flatnonzero((np.diff(row[order]) != 0) | (np.diff(col[order]) != 0)) + 1
    for members in np.split(order, cuts):
        yield (int(row[members[0]]), int(col[members[0]])), members


def _simple(points: FloatArray, begins: IntArray, sizes: IntArray) -> npt.NDArray[np.bool_]:
    """Return which of the lines, given by where they begin and how long they are, do not cross themselves."""
    if not len(begins):
        return np.zeros(0, dtype=bool)
    line = np.repeat(np.arange(len(begins)), sizes)
    at = np.arange(len(line)) + np.repeat(begins - np.r_[0, np.cumsum(sizes)[:-1]], sizes)
    simple: npt.NDArray[np.bool_] = shapely.is_simple(shapely.linestrings(points[at], indices=line))
    return simple
