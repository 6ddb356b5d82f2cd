"""Merges polygons below their class's minimum mapping unit into a neighbour, on the raster and in a stream.

The smallest goes first. It takes the class of the neighbour with the longest shared border (neighbours of one class
count together, for they become one polygon with it; of equal borders the lower class value wins), and so on until
none is left that is too small and has a neighbour. A polygon may go as soon as no smaller one touches it: two such
never touch each other, and neither changes what the other does. So the order in which they are found, and with it the
height of strips, has no influence on the result.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window
from skimage.measure import label

from tuban.errors import OutputError, SceneError
from tuban.postprocess.class_raster import PixelAreas
from tuban.postprocess.polygonize import read_classes, strips

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    FloatArray = npt.NDArray[np.float64]

    from tuban.postprocess.class_raster import Grid
    from tuban.postprocess.vectorize_settings import VectorizeSettings


class Move(NamedTuple):
    """What was merged from one class value into another: number of polygons and their area in square metres."""

    value: int
    into: int
    polygons: int
    area_m2: float


def merge_small(raster: str | Path, out: Path, grid: Grid, crs: str, settings: VectorizeSettings) -> list[Move]:
    """Write a class raster anew with polygons below their minimum mapping unit merged into neighbours.

    Args:
        raster: class raster.
        out: GeoTIFF to write, on the same grid; what forms no polygons is masked.
        grid: of the raster.
        crs: of the raster.
        settings: minimum mapping units, classes left out, and pixels read at once.

    Returns:
        what moved, ordered by class. Pixels have their ellipsoidal areas; lengths of borders are those in the middle
        of the raster.

    Raises:
        SceneError: the raster cannot be read.
        OutputError: `out` cannot be written.
    """
    tall, wide = (round(length * 1e6) for length in grid.pixel_m)
    areas = PixelAreas(grid, crs)
    merger = Merger(grid.shape[1], lambda value: settings.unit_of(value) * 1e6, (tall, wide))
    try:
        source = rasterio.open(raster)
    except RasterioError as error:
        raise SceneError(f"cannot read {raster}: {error}; check that the file is a complete raster") from error
    with source, rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        profile = {
            "driver": "GTiff", "height": source.height, "width": source.width, "count": 1, "dtype": source.dtypes[0],
            "crs": source.crs, "transform": source.transform, "tiled": True, "blockxsize": 256, "blockysize": 256,
            "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer",
        }  # fmt: skip
        try:
            with rasterio.open(out, "w", **profile) as sink:
                row = 0
                for window in strips(source, settings.strip_pixels):
                    top, rows = int(window.row_off), int(window.height)
                    try:
                        values, keep = read_classes(source, 1, window, settings.mask_values)
                    except RasterioError as error:
                        raise SceneError(
                            f"cannot read {raster}: {error}; check that the file is a complete raster"
                        ) from error
                    last = top + rows == source.height
                    values, keep = merger.push(values, keep, areas.read(top, rows), last=last)
                    if len(values):
                        place = Window(0, row, source.width, len(values))
                        sink.write(values.astype(source.dtypes[0]), 1, window=place)
                        sink.write_mask(keep, window=place)
                        row += len(values)
        except (RasterioError, OSError) as error:
            raise OutputError(f"cannot write {out}: {error}; check the folder and the free space") from error
    return [
        Move(*pair, polygons, round(merger.area[pair] / 1e6, 2)) for pair, polygons in sorted(merger.polygons.items())
    ]


class Merger:
    """Takes a class raster in strips, top to bottom, and gives it back with small polygons merged.

    What does not belong to polygons neither absorbs nor is absorbed. Memory holds the rows from the first polygon on
    whose fate is open.

    Args:
        width: columns of the raster.
        unit: minimum mapping unit of a class value, in the measure of the weights.
        edge: lengths of a pixel's vertical and horizontal edge, whole numbers.

    Attributes:
        polygons: merged polygons by class before and after.
        area: their area, likewise, in the measure of the weights.
    """

    def __init__(self, width: int, unit: Callable[[int], float], edge: tuple[int, int]) -> None:
        self.unit, self.edge = unit, edge
        self.polygons: Counter[tuple[int, int]] = Counter()
        self.area: defaultdict[tuple[int, int], float] = defaultdict(float)
        self._values: npt.NDArray[Any] = np.zeros((0, width), dtype=np.int64)
        self._keep = np.zeros((0, width), dtype=bool)
        self._weight = np.zeros((0, width))
        self._context = 0  # 1 once the first row held is one that was given back: all in it is settled

    def push(
        self, values: npt.NDArray[Any], keep: BoolArray, weight: FloatArray, *, last: bool = False
    ) -> tuple[npt.NDArray[Any], BoolArray]:
        """Add the next rows and return those that are settled, in order: classes and what belongs to polygons.

        Args:
            values: classes, `(rows, width)`.
            keep: which pixels belong to polygons, same shape.
            weight: area of each pixel, same shape, whole numbers so that sums are exact.
            last: no rows follow.
        """
        values = np.concatenate([self._values.astype(values.dtype), values])
        keep = np.concatenate([self._keep, keep])
        weight = np.concatenate([self._weight, weight])
        patches = _Patches(values, keep, weight, self.unit, self.edge, context=bool(self._context), last=last)
        patches.merge(self.polygons, self.area)
        values = np.where(keep, patches.classes()[patches.labels], values)
        settled = patches.settled_rows()
        done = values[self._context : settled], keep[self._context : settled]
        start = max(settled - 1, 0)
        self._values, self._keep, self._weight = values[start:].copy(), keep[start:].copy(), weight[start:].copy()
        self._context = int(settled > 0)
        return done


class _Patches:
    """Polygons of the rows held. Only of small ones it is known which others they touch."""

    def __init__(
        self,
        values: npt.NDArray[Any],
        keep: BoolArray,
        weight: FloatArray,
        unit: Callable[[int], float],
        edge: tuple[int, int],
        *,
        context: bool,
        last: bool,
    ) -> None:
        known, index = np.unique(values[keep], return_inverse=True)
        numbered = np.zeros(values.shape, dtype=np.int32)
        numbered[keep] = index + 1
        self.labels: npt.NDArray[Any] = label(numbered, background=0, connectivity=1)  # type: ignore[no-untyped-call]
        self.rows, self.width = values.shape
        count = int(self.labels.max(initial=0)) + 1
        flat = self.labels.ravel()
        first = np.zeros(count, dtype=np.int64)
        first[flat[::-1]] = np.arange(len(flat) - 1, -1, -1)
        of_class = np.zeros(count, dtype=values.dtype)
        of_class[self.labels[keep]] = values[keep]
        self.unit = {int(value): unit(int(value)) for value in known}
        area = np.bincount(flat, weights=weight.ravel(), minlength=count)
        if context:
            area[np.unique(self.labels[0])] = np.inf
        waits = np.zeros(count, dtype=bool)
        if not last:
            waits[np.unique(self.labels[-1])] = True
        limit = np.zeros(count)
        for value, least in self.unit.items():
            limit[of_class == value] = least
        small = area < limit
        small[0] = False
        self.touching = _borders(self.labels, small, edge)
        self.kind: list[int] = of_class.tolist()
        self.area: list[float] = area.tolist()
        self.first: list[int] = first.tolist()
        self.open: list[bool] = waits.tolist()
        self.root = list(range(count))
        self.small = {int(number) for number in np.flatnonzero(small)}

    def find(self, number: int) -> int:
        """Return what a patch is part of by now."""
        root = self.root
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    def merge(self, polygons: Counter[tuple[int, int]], areas: defaultdict[tuple[int, int], float]) -> None:
        """Merge every small patch whose turn is certain, and count what moved."""
        queue = [(self.area[n], self.first[n], n) for n in self.small if not self.open[n]]
        heapq.heapify(queue)
        behind: dict[int, list[int]] = defaultdict(list)  # patches that wait for a smaller neighbour
        while queue:
            area, first, patch = heapq.heappop(queue)
            if self.root[patch] != patch or patch not in self.small or area != self.area[patch]:
                continue  # it was absorbed or has grown meanwhile
            around: Counter[int] = Counter()
            for other, length in self.touching[patch].items():
                around[self.find(other)] += length
            around.pop(patch, None)
            self.touching[patch] = around
            if not around:
                continue
            ahead = [n for n in around if n in self.small and (self.area[n], self.first[n]) < (area, first)]
            if ahead:
                behind[ahead[0]].append(patch)
                continue
            lengths: Counter[int] = Counter()
            for other, length in around.items():
                lengths[self.kind[other]] += length
            into = min(lengths, key=lambda value: (-lengths[value], value))
            polygons[self.kind[patch], into] += 1
            areas[self.kind[patch], into] += area
            self.kind[patch] = into
            joined = [n for n in around if self.kind[n] == into]
            for number in (patch, *joined):
                for waiting in behind.pop(number, ()):
                    heapq.heappush(queue, (self.area[waiting], self.first[waiting], waiting))
            whole = self._unite(patch, joined)
            if whole in self.small and not self.open[whole]:
                heapq.heappush(queue, (self.area[whole], self.first[whole], whole))

    def _unite(self, patch: int, joined: list[int]) -> int:
        """Make one patch of several, and return it."""
        members = [patch, *joined]
        area = sum(self.area[n] for n in members)
        is_small = self.small.issuperset(joined) and area < self.unit[self.kind[patch]]
        known = [self.touching.pop(n) for n in members if n in self.touching]
        whole = joined[0]
        for number in members:
            self.root[number] = whole
            self.small.discard(number)
        self.area[whole], self.kind[whole] = area, self.kind[patch]
        self.first[whole] = min(self.first[n] for n in members)
        self.open[whole] = any(self.open[n] for n in members)
        if is_small:
            self.small.add(whole)
            around = max(known, key=len)  # the others are added to the largest, which is cheapest
            for other in known:
                if other is not around:
                    around.update(other)
            self.touching[whole] = around
        return whole

    def classes(self) -> npt.NDArray[Any]:
        """Return the class of each label."""
        return np.array([self.kind[self.find(number)] for number in range(len(self.root))])

    def settled_rows(self) -> int:
        """Return how many rows hold no patch that may still change."""
        unsettled = [self.first[n] for n in self.small if self.open[n] or self._has_neighbours(n)]
        return int(min(unsettled, default=self.rows * self.width) // self.width)

    def _has_neighbours(self, patch: int) -> bool:
        return any(self.find(other) != patch for other in self.touching.get(patch, ()))


def _borders(labels: npt.NDArray[Any], small: BoolArray, edge: tuple[int, int]) -> dict[int, Counter[int]]:
    """Return for each small patch how long its border with each other patch is."""
    a, b, lengths = [], [], []
    for one, two, length in ((labels[:, :-1], labels[:, 1:], edge[0]), (labels[:-1], labels[1:], edge[1])):
        meet = (one != two) & (one > 0) & (two > 0) & (small[one] | small[two])
        for x, y in ((one[meet], two[meet]), (two[meet], one[meet])):
            a.append(x[small[x]])
            b.append(y[small[x]])
            lengths.append(np.full(len(a[-1]), length, dtype=np.int64))
    pairs = np.concatenate(a).astype(np.int64) * len(small) + np.concatenate(b)
    known, index = np.unique(pairs, return_inverse=True)
    total = np.bincount(index, weights=np.concatenate(lengths), minlength=len(known)).astype(np.int64)
    touching: dict[int, Counter[int]] = {int(n): Counter() for n in np.flatnonzero(small)}
    for pair, length in zip(known.tolist(), total.tolist(), strict=True):
        touching[pair // len(small)][pair % len(small)] = length
    return touching
