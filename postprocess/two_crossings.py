"""The common area of two polygons whose outlines cross twice: most pairs of an overlay, for a quarter of GEOS's time.

Where two simple outlines cross exactly twice, their common area is bounded by one stretch of each. Both stretches are
found for all pairs of an array at once. Whether edges cross is decided only where the sign of each orientation is
certain in floating point, and crossings near a vertex are left alone; every other pair (touching, shared edges, holes,
more crossings) is left to GEOS.

References:
    Shewchuk (1997), Adaptive precision floating-point arithmetic and fast robust geometric predicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_POLYGON = 3
_MAX_VERTICES = 256  # the tests grow with the product of both counts; GEOS sorts
# Shewchuk's bound on the rounding of an orientation is 3.3e-16 of the sum of its products. This one is stricter: where
# three points are that nearly on a line, the place of the crossing along the edge would be poor as well.
_CERTAIN = 1e-11
_APART = 1e-6  # as a share of the edge: how far a crossing must lie from its ends, and two crossings from one another


@dataclass(frozen=True, slots=True)
class _Rings:
    """The outlines of `n` polygons. Vertices of ring `i` start at `start[i]`, `size[i]` of them, then the first again.

    x and y stand apart: numpy is several times as fast on them as along the short axis of `(m, 2)`.
    """

    x: Array
    y: Array
    start: Array
    size: Array

    @classmethod
    def of(cls, polygons: Array) -> _Rings:
        """Return the outlines, turned counterclockwise."""
        points = shapely.get_coordinates(polygons)
        size = shapely.get_num_coordinates(polygons).astype(np.intp)
        start = np.cumsum(size) - size
        x, y = np.ascontiguousarray(points.T)
        ring = np.repeat(np.arange(len(start)), size)
        # Twice the signed area, measured from each ring's first vertex so that far-off origins cost no digits.
        east, north = x - x[start][ring], y - y[start][ring]
        terms = np.zeros(len(x))
        terms[:-1] = east[:-1] * north[1:] - east[1:] * north[:-1]
        terms[start + size - 1] = 0.0
        clockwise = np.add.reduceat(terms, start) < 0
        if clockwise.any():
            index = np.arange(len(x))
            index = np.where(clockwise[ring], (2 * start + size - 1)[ring] - index, index)
            x, y = x[index], y[index]
        return cls(x, y, start, size - 1)

    def edges_near(self, box: Array) -> tuple[Array, Array]:
        """Return the edges (index of their first vertex) whose box meets that of their ring, and the ring of each."""
        ring = np.repeat(np.arange(len(self.start)), self.size + 1)
        west, south, east, north = (side[ring] for side in box.T)
        # -1, 0, 1: before, within, beyond. An edge whose ends are both before or both beyond does not meet the box.
        column = (self.x > east).astype(np.int8) - (self.x < west)
        row = (self.y > north).astype(np.int8) - (self.y < south)
        near = np.empty(len(ring), dtype=bool)
        near[:-1] = (column[:-1] * column[1:] <= 0) & (row[:-1] * row[1:] <= 0)
        near[self.start + self.size] = False  # the closing vertex begins no edge
        edge = np.flatnonzero(near)
        return edge, ring[edge]


def intersect(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Return the common area of pairs of polygons whose outlines certainly cross exactly twice.

    A stretch of an outline ends in a rounded point, some 1e-8 m off its edge: the result is valid where the inputs come
    no nearer to themselves than that.

    Args:
        a: valid polygons, `(n,)`.
        b: valid polygons, `(n,)`.

    Returns:
        `(n,)` polygons; bool `(n,)`, True where they are the answer; and bool `(n,)`, True where the outlines certainly
        do not cross, so that one lies within the other or apart from it. All other pairs need GEOS.

    Example:
        >>> one, other = shapely.box(0, 0, 2, 2), shapely.box(1, 1, 3, 3)
        >>> common, done, _ = intersect(np.array([one]), np.array([other]))
        >>> bool(done[0]), common[0].area
        (True, 1.0)
    """
    result, done = np.full(len(a), None, dtype=object), np.zeros(len(a), dtype=bool)
    free = np.zeros(len(a), dtype=bool)
    pairs = np.flatnonzero(_plain(a) & _plain(b))
    if not pairs.size:
        return result, done, free
    outer, other = _Rings.of(a[pairs]), _Rings.of(b[pairs])
    box = np.hstack([np.maximum(*(shapely.bounds(x[pairs])[:, :2] for x in (a, b))),
                     np.minimum(*(shapely.bounds(x[pairs])[:, 2:] for x in (a, b)))])  # fmt: skip
    first, second, owner, doubtful = _crossings(outer, other, box)
    count = np.bincount(owner, minlength=len(pairs))
    free[pairs[(count == 0) & ~doubtful]] = True
    two = (count == 2) & ~doubtful
    chosen = two[owner]
    order = np.argsort(owner[chosen], kind="stable")
    first, second = first[chosen][order].reshape(-1, 2), second[chosen][order].reshape(-1, 2)
    polygons, fine = _stitched(outer, other, first, second, np.flatnonzero(two))
    result[pairs[two]] = polygons
    done[pairs[two]] = fine
    return result, done, free


def _plain(polygons: Array) -> Array:
    """Say which are single polygons with few vertices and no hole."""
    plain: Array = (
        (shapely.get_type_id(polygons) == _POLYGON)
        & (shapely.get_num_interior_rings(polygons) == 0)
        & (shapely.get_num_coordinates(polygons) > 3)
        & (shapely.get_num_coordinates(polygons) <= _MAX_VERTICES)
    )
    return plain


def _crossings(a: _Rings, b: _Rings, box: Array) -> tuple[Array, Array, Array, Array]:
    """Return edge of `a`, edge of `b` and pair of every proper crossing, and which pairs are doubtful, `(pairs,)`."""
    n = len(a.start)
    edge_a, ring_a = a.edges_near(box)
    edge_b, ring_b = b.edges_near(box)
    # Every near edge of `a` with every near edge of `b` of the same pair.
    of_b = np.bincount(ring_b, minlength=n)
    start_b = np.cumsum(of_b) - of_b
    times = of_b[ring_a]
    left = np.repeat(edge_a, times)
    pair = np.repeat(ring_a, times)
    within = np.arange(len(left)) - np.repeat(np.cumsum(times) - times, times)
    right = edge_b[start_b[pair] + within] if len(left) else left
    meet = np.flatnonzero(_overlap(a.x, b.x, left, right) & _overlap(a.y, b.y, left, right))
    left, right, pair = left[meet], right[meet], pair[meet]
    p, q = ((a.x[at], a.y[at]) for at in (left, left + 1))
    r, s = ((b.x[at], b.y[at]) for at in (right, right + 1))
    over_a = _side(p, q, r) * _side(p, q, s)
    over_b = _side(r, s, p) * _side(r, s, q)
    crosses = (over_a < 0) & (over_b < 0)
    # Certainly apart: both ends of one edge lie on one side of the other, whatever the rest says.
    doubtful = np.bincount(pair[~crosses & (over_a <= 0) & (over_b <= 0)], minlength=n) > 0
    return left[crosses], right[crosses], pair[crosses], doubtful


def _overlap(a: Array, b: Array, left: Array, right: Array) -> Array:
    """Say whether edges of `a` and of `b` overlap along one axis."""
    p, q, r, s = a[left], a[left + 1], b[right], b[right + 1]
    overlap: Array = (np.minimum(p, q) <= np.maximum(r, s)) & (np.minimum(r, s) <= np.maximum(p, q))
    return overlap


def _side(a: tuple[Array, Array], b: tuple[Array, Array], c: tuple[Array, Array]) -> Array:
    """Return 1 where `c` lies left of the line from `a` to `b`, -1 where right, 0 where rounding could tell either."""
    one = (a[0] - c[0]) * (b[1] - c[1])
    two = (a[1] - c[1]) * (b[0] - c[0])
    turn = one - two
    side: Array = np.sign(turn) * (np.abs(turn) > _CERTAIN * (np.abs(one) + np.abs(two)))
    return side


def _stitched(a: _Rings, b: _Rings, first: Array, second: Array, pair: Array) -> tuple[Array, Array]:
    """Return the polygons between two crossings, and which of them are certain.

    Args:
        a: outlines.
        b: outlines.
        first: edges of `a` that cross, `(m, 2)`.
        second: edges of `b` that they cross, `(m, 2)`.
        pair: the ring of each, `(m,)`.
    """
    x, y = a.x[first], a.y[first]
    ax, ay = a.x[first + 1] - x, a.y[first + 1] - y
    bx, by = b.x[second + 1] - b.x[second], b.y[second + 1] - b.y[second]
    gx, gy = b.x[second] - x, b.y[second] - y
    cross = ax * by - ay * bx
    t = (gx * by - gy * bx) / cross
    u = (gx * ay - gy * ax) / cross
    points = np.stack([x + t * ax, y + t * ay], axis=-1)
    # Counterclockwise `b` has its inside on the left, so `a` enters where it turns from right to left.
    enter = np.argmax(cross < 0, axis=1)
    fine = (cross < 0).sum(axis=1) == 1
    fine &= (np.minimum(np.minimum(t, 1 - t), np.minimum(u, 1 - u)) > _APART).all(axis=1)
    rows = np.arange(len(pair))
    leave = 1 - enter
    a_from, a_to, a_start, a_end = first[rows, enter], first[rows, leave], t[rows, enter], t[rows, leave]
    b_from, b_to, b_start, b_end = second[rows, leave], second[rows, enter], u[rows, leave], u[rows, enter]
    a_steps, a_sure = _steps(a, pair, a_from, a_to, a_start, a_end)
    b_steps, b_sure = _steps(b, pair, b_from, b_to, b_start, b_end)
    fine &= a_sure & b_sure & (a_steps + b_steps > 0)
    rows = np.flatnonzero(fine)
    polygons = np.full(len(pair), None, dtype=object)
    if not rows.size:
        return polygons, fine
    ka, kb = a_steps[rows], b_steps[rows]
    size = ka + kb + 3
    start = np.cumsum(size) - size
    ring = np.empty((int(size.sum()), 2))
    ring[start] = ring[start + size - 1] = points[rows, enter[rows]]
    ring[start + 1 + ka] = points[rows, leave[rows]]
    for source, begin, steps, at in ((a, a_from, ka, start + 1), (b, b_from, kb, start + 2 + ka)):
        step = np.arange(int(steps.sum())) - np.repeat(np.cumsum(steps) - steps, steps)
        owner = np.repeat(pair[rows], steps)
        origin = source.start[owner]
        index = origin + (np.repeat(begin[rows], steps) - origin + 1 + step) % source.size[owner]
        into = np.repeat(at, steps) + step
        ring[into, 0], ring[into, 1] = source.x[index], source.y[index]
    polygons[rows] = shapely.polygons(shapely.linearrings(ring, indices=np.repeat(np.arange(len(rows)), size)))
    return polygons, fine


def _steps(rings: _Rings, ring: Array, start: Array, end: Array, t_start: Array, t_end: Array) -> tuple[Array, Array]:
    """Return how many vertices lie between two crossings along a ring, and where their order is certain."""
    steps = (end - start) % rings.size[ring]
    same = start == end
    steps[same & (t_start > t_end)] = rings.size[ring][same & (t_start > t_end)]
    return steps, ~same | (np.abs(t_end - t_start) > _APART)
