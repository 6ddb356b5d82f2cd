"""Straightens one piece of boundary: few chords for many pixel edges, the same area on both sides.

A piece runs along pixel edges between two fixed points. Its result joins points *of the piece itself* by chords,
such that

- each chord stays within the tolerance of what it stands for,
- no lattice vertex of another boundary, or of another stretch of this one, lies between the two, and
- the areas gained and lost cancel out exactly.

The second condition makes pieces independent: if all boundaries keep it, none of the results can meet, though no
piece knows how the others turned out (`docs/vectorize.md` has the argument). So a border is the same whichever of its
two polygons asks, in whichever batch.

Lengths are in half pixels and x runs along columns, y along rows, so that vertices and the middles of pixel edges are
whole numbers and areas are exact.

Compiled code is kept until the text of its own module changes, so these functions call none of another module.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tuban.postprocess.compiled import compiled

# How a piece came out: nothing to simplify, simplified, with a smaller tolerance, or as it was, for want of a line that
# keeps the areas on both sides.
STRAIGHT, SIMPLIFIED, REDUCED, KEPT = range(4)

_REACH = 96  # candidates that one chord may skip; bounds the work a vertex
# What is tried until the areas balance: parts of the tolerance, and how much a chord pays (in chords, for a quarter of
# a pixel) for an area on the side that got too much. After the last one a piece keeps its pixel edges.
_TRIES = (
    (1.0, 0.0), (1.0, 0.05), (1.0, 0.2), (0.7, 0.0), (0.7, 0.1), (0.5, 0.0), (0.5, 0.1), (0.25, 0.0), (0.25, 0.1),
    (0.12, 0.0), (0.12, 0.1), (0.06, 0.0),
)  # fmt: skip
_ROOM = 0.45  # of a run: how far from its middle a vertex may slide
_SMALL = 1e-9

# Candidate columns: x, y, distance along the piece, first corner after it, last corner before it.
_X, _Y, _U, _NEXT, _LAST = range(5)


@compiled
def _cross(ax: float, ay: float, bx: float, by: float) -> float:
    return ax * by - ay * bx


@compiled
def _candidates(xs: Any, ys: Any) -> Any:
    """Return the points a chord may join: corners and middles of runs, `(2 corners - 1, 5)`."""
    n = len(xs)
    table = np.empty((2 * n - 1, 5))
    along = 0.0
    for k in range(n):
        table[2 * k, _X], table[2 * k, _Y], table[2 * k, _U] = xs[k], ys[k], along
        table[2 * k, _NEXT], table[2 * k, _LAST] = k + 1, k - 1
        if k + 1 < n:
            step = abs(xs[k + 1] - xs[k]) + abs(ys[k + 1] - ys[k])
            table[2 * k + 1, _X], table[2 * k + 1, _Y] = (xs[k] + xs[k + 1]) / 2, (ys[k] + ys[k + 1]) / 2
            table[2 * k + 1, _U] = along + step / 2
            table[2 * k + 1, _NEXT], table[2 * k + 1, _LAST] = k + 1, k
            along += step
    return table


@compiled
def _net(p: Any, q: Any, xs: Any, ys: Any, sums: Any) -> float:
    """Return the area between chord and piece, signed, from `p` to `q`; `sums` are those of crosses of corners."""
    first, last = int(p[_NEXT]), int(q[_LAST])
    if first > last:
        return 0.0
    twice = (
        _cross(p[_X], p[_Y], xs[first], ys[first])
        + sums[last] - sums[first]
        + _cross(xs[last], ys[last], q[_X], q[_Y])
        + _cross(q[_X], q[_Y], p[_X], p[_Y])
    )  # fmt: skip
    return float(twice / 2)


@compiled
def _deviation(p: Any, q: Any, xs: Any, ys: Any, sx: float, sy: float) -> float:
    """Return the largest distance of the corners between `p` and `q` from their chord, squared, in metres."""
    dx, dy = (q[_X] - p[_X]) * sx, (q[_Y] - p[_Y]) * sy
    square = dx * dx + dy * dy
    worst = 0.0
    for k in range(int(p[_NEXT]), int(q[_LAST]) + 1):
        ax, ay = (xs[k] - p[_X]) * sx, (ys[k] - p[_Y]) * sy
        t = (ax * dx + ay * dy) / square if square > 0 else 0.0
        t = min(max(t, 0.0), 1.0)
        ax -= t * dx
        ay -= t * dy
        worst = max(worst, ax * ax + ay * ay)
    return worst


@compiled
def _inside(x: float, y: float, p: Any, q: Any, xs: Any, ys: Any) -> bool:
    """Return whether a lattice vertex off the piece lies between chord and piece, or on the chord."""
    dx, dy = q[_X] - p[_X], q[_Y] - p[_Y]
    side = _cross(dx, dy, x - p[_X], y - p[_Y])
    along = dx * (x - p[_X]) + dy * (y - p[_Y])
    square = dx * dx + dy * dy
    if abs(side) <= _SMALL * square and 0 <= along <= square:
        return True
    # A ray to the right, a hair below y: each crossing turns once around.
    turns = 0
    if (p[_Y] <= y) != (q[_Y] <= y):  # the chord, from q back to p; it lies right of the vertex by the side
        if q[_Y] > p[_Y]:
            turns -= int(side > 0)
        else:
            turns += int(side < 0)
    ax, ay = p[_X], p[_Y]
    last = int(q[_LAST])
    for k in range(int(p[_NEXT]), last + 2):
        bx, by = (xs[k], ys[k]) if k <= last else (q[_X], q[_Y])
        if (ay <= y) != (by <= y) and ax > x:
            turns += 1 if by > ay else -1
        ax, ay = bx, by
    return turns != 0


@compiled
def _blocked(p: Any, q: Any, xs: Any, ys: Any, total: float, code: Any, place: Any) -> bool:
    """Return whether something else's lattice vertex lies between the chord `p`-`q` and the piece."""
    first, last = int(p[_NEXT]), int(q[_LAST])
    if first > last:
        return False
    dx, dy = q[_X] - p[_X], q[_Y] - p[_Y]
    low, high = 0.0, 0.0  # how far the piece lies off the chord, on either side
    low_x, high_x = min(p[_X], q[_X]), max(p[_X], q[_X])
    low_y, high_y = min(p[_Y], q[_Y]), max(p[_Y], q[_Y])
    for k in range(first, last + 1):
        low_x, high_x = min(low_x, xs[k]), max(high_x, xs[k])
        low_y, high_y = min(low_y, ys[k]), max(high_y, ys[k])
        side = _cross(dx, dy, xs[k] - p[_X], ys[k] - p[_Y])
        low, high = min(low, side), max(high, side)
    for row in range(int(np.ceil(low_y / 2)), int(np.floor(high_y / 2)) + 1):
        y = 2.0 * row
        a, b = low_x, high_x
        if abs(dy) > _SMALL:  # dx (y - py) - dy (x - px) is within low..high
            u = p[_X] + (dx * (y - p[_Y]) - low) / dy
            v = p[_X] + (dx * (y - p[_Y]) - high) / dy
            a, b = max(a, min(u, v) - _SMALL), min(b, max(u, v) + _SMALL)
        for column in range(int(np.ceil(a / 2)), int(np.floor(b / 2)) + 1):
            x = 2.0 * column
            other = code[row, column] != 0 and not _own(x, y, place[row, column], p, q, xs, ys, total)
            if other and _inside(x, y, p, q, xs, ys):
                return True
    return False


@compiled
def _own(x: float, y: float, at: float, p: Any, q: Any, xs: Any, ys: Any, total: float) -> bool:
    """Return whether a lattice vertex at the distance `at` along the piece (-1: off it) lies between `p` and `q`."""
    if at >= 0 and p[_U] <= at <= q[_U]:
        return True
    if p[_U] == 0 and x == xs[0] and y == ys[0]:  # of a closed piece the distance notes only one of both ends
        return True
    last = len(xs) - 1
    return bool(q[_U] == total and x == xs[last] and y == ys[last])


@compiled
def _turn(heading: float, middle: float) -> float:
    return float((heading - middle + np.pi) % (2 * np.pi) - np.pi)


@compiled
def _offers(
    j: int, table: Any, xs: Any, ys: Any, sums: Any, metric: Any, tolerance: float, bias: float, cost: Any, offer: Any
) -> int:
    """Fill in what reaching candidate `j` by a chord from each earlier one costs; return how many there are.

    Fewest chords come first, then those that fit best and gain or lose least, or where `bias` is below 0 gain most.
    """
    sx, sy = metric
    q = table[j]
    square = tolerance * tolerance
    # Directions from q that pass within the tolerance of every corner so far. They only narrow.
    middle, left, right, bounded = 0.0, 0.0, 0.0, False
    reach = 0
    for i in range(j - 1, max(j - _REACH, 0) - 1, -1):
        p = table[i]
        ax, ay = (p[_X] - q[_X]) * sx, (p[_Y] - q[_Y]) * sy
        away, heading = np.sqrt(ax * ax + ay * ay), np.arctan2(ay, ax)
        offer[reach] = np.inf
        if away > 0 and (not bounded or left - _SMALL <= _turn(heading, middle) <= right + _SMALL):
            worst = _deviation(p, q, xs, ys, sx, sy)
            if worst <= square:
                net = _net(p, q, xs, ys, sums)
                offer[reach] = cost[i] + 1 + 0.3 * worst / square + 0.02 * abs(net) + bias * net
        reach += 1
        if i % 2 == 0 and away > tolerance:  # a corner narrows the directions
            half = np.arcsin(tolerance / away)
            if not bounded:
                bounded, middle, left, right = True, heading, -half, half
            turn = _turn(heading, middle)
            left, right = max(left, turn - half), min(right, turn + half)
            if left > right:
                break
    return reach


@compiled
def _path(
    table: Any, xs: Any, ys: Any, sums: Any, metric: Any, tolerance: float, bias: float, code: Any, place: Any
) -> Any:
    """Return the candidates that the fewest, best fitting chords join, from the first to the last."""
    n = len(table)
    total = table[n - 1, _U]
    cost = np.full(n, np.inf)
    cost[0] = 0.0
    came = np.zeros(n, dtype=np.int64)
    offer = np.empty(_REACH)
    for j in range(1, n):
        reach = _offers(j, table, xs, ys, sums, metric, tolerance, bias, cost, offer)
        while True:
            best = int(np.argmin(offer[:reach]))
            if best == 0 or not _blocked(table[j - 1 - best], table[j], xs, ys, total, code, place):
                break
            offer[best] = np.inf
        cost[j], came[j] = offer[best], j - 1 - best
    # Walk back, turning the links around, and then forth.
    count, at, after = 1, n - 1, n - 1
    while at != 0:
        before = came[at]
        came[at], after, at = after, at, before
        count += 1
    came[0] = after
    path = np.empty(count, dtype=np.int64)
    at = 0
    for k in range(count):
        path[k] = at
        at = came[at]
    return path


@compiled
def _run(vertex: Any, corner: bool, way: int) -> int:
    """Return the run before (way 0) or after (way 1) a corner; a vertex in the middle of a run has only that one."""
    return int(vertex[_LAST]) + (way if corner else 0)


@compiled
def _slide(chosen: Any, k: int, corner: bool, way: int, gain: float, wanted: float, xs: Any, ys: Any) -> float:
    """Slide a vertex along a run towards a gain in area that is wanted; return the gain that is had."""
    run = _run(chosen[k], corner, way)
    wide, tall = xs[run + 1] - xs[run], ys[run + 1] - ys[run]
    crowded = corner or chosen[k + 1, _LAST] == run or chosen[k - 1, _NEXT] == run + 1  # others may be on the run
    room = (abs(wide) + abs(tall)) * (_ROOM / 2 if crowded else _ROOM)
    slide = min(max(wanted / gain, -room), room)
    if corner:  # back along the run before, onwards along the run after
        slide = min(slide, 0.0) if way == 0 else max(slide, 0.0)
    chosen[k, _X] += slide * np.sign(wide)
    chosen[k, _Y] += slide * np.sign(tall)
    chosen[k, _U] += slide
    if corner and slide < 0:  # the corner itself now lies on one side of the vertex
        chosen[k, _NEXT] -= 1
    elif corner and slide > 0:
        chosen[k, _LAST] += 1
    return float(slide * gain)


@compiled
def _balance(chosen: Any, kinds: Any, xs: Any, ys: Any, wanted: float) -> float:
    """Slide chosen vertices along their runs until the chords gain the area that is wanted; return what is left.

    Vertices with the longest lever go first, so that mostly one of them moves, and little.
    """
    n = len(chosen)
    lever = np.zeros((n, 2))  # gain per half pixel along the run before, and the run after
    for k in range(1, n - 1):
        wide, tall = chosen[k + 1, _X] - chosen[k - 1, _X], chosen[k + 1, _Y] - chosen[k - 1, _Y]
        for way in range(2):
            run = _run(chosen[k], kinds[k] % 2 == 0, way)
            lever[k, way] = _cross(np.sign(xs[run + 1] - xs[run]), np.sign(ys[run + 1] - ys[run]), wide, tall) / 2
    moved, seen = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    for _ in range(n):
        if abs(wanted) <= _SMALL:
            break
        k, longest = 0, -1.0
        for other in range(n):
            length = max(abs(lever[other, 0]), abs(lever[other, 1]))
            if not seen[other] and length > longest:
                k, longest = other, length
        seen[k] = True
        # The lever of a neighbour of what moved is no longer the one noted.
        if k == 0 or k == n - 1 or moved[k - 1] or moved[k + 1]:
            continue
        for way in range(2):
            if lever[k, way] != 0 and not moved[k]:
                gained = _slide(chosen, k, kinds[k] % 2 == 0, way, lever[k, way], wanted, xs, ys)
                wanted -= gained
                moved[k] = gained != 0
    return wanted


@compiled
def _residual(chosen: Any, xs: Any, ys: Any, sums: Any) -> float:
    net = 0.0
    for k in range(len(chosen) - 1):
        net += _net(chosen[k], chosen[k + 1], xs, ys, sums)
    return net


@compiled
def _attempt(
    table: Any, xs: Any, ys: Any, sums: Any, metric: Any, part: float, bias: float, tolerance: float, code: Any,
    place: Any,
) -> Any:  # fmt: skip
    """Return vertices found with a part of the tolerance, whether they may be used, and the area they gain or lose."""
    kinds = _path(table, xs, ys, sums, metric, part * tolerance, bias, code, place)
    chosen = table[kinds]
    net = _residual(chosen, xs, ys, sums)
    good = len(kinds) < len(xs) and abs(_balance(chosen, kinds, xs, ys, net)) <= _SMALL
    for k in range(len(kinds) - 1):  # they have moved since they were chosen
        p, q = chosen[k], chosen[k + 1]
        good = good and _deviation(p, q, xs, ys, metric[0], metric[1]) <= tolerance * tolerance * (1 + _SMALL)
        good = good and not _blocked(p, q, xs, ys, table[-1, _U], code, place)
    return chosen, good, net


@compiled
def straighten(xs: Any, ys: Any, metric: Any, tolerance: float, code: Any, place: Any, out: Any) -> tuple[int, int]:
    """Write the vertices that stand for one piece.

    Args:
        xs: columns of the corners of the piece, in half pixels from the window's first lattice column, `(corners,)`.
        ys: rows, likewise.
        metric: metres per half pixel along rows and along columns, `(2,)`.
        tolerance: metres.
        code: 0 for lattice vertices on no boundary, `(rows, columns)`.
        place: of the vertices on the piece the distance along it, in half pixels; -1 elsewhere.
        out: filled with x, y, `(2 corners - 1, 2)`.

    Returns:
        number of vertices, and how it came out.
    """
    n = len(xs)
    for k in range(n):
        out[k, 0], out[k, 1] = xs[k], ys[k]
    if n == 2:
        return n, STRAIGHT
    table = _candidates(xs, ys)
    sums = np.zeros(n)
    for k in range(n - 1):
        sums[k + 1] = sums[k] + _cross(xs[k], ys[k], xs[k + 1], ys[k + 1])
    side = 0.0  # which got too much at first
    for part, bias in _TRIES:
        chosen, good, net = _attempt(table, xs, ys, sums, metric, part, side * bias, tolerance, code, place)
        if good:
            for k in range(len(chosen)):
                out[k, 0], out[k, 1] = chosen[k, _X], chosen[k, _Y]
            return len(chosen), SIMPLIFIED if part == 1.0 else REDUCED
        if side == 0.0 and len(chosen) >= n:
            return n, STRAIGHT
        if side == 0.0:
            side = 1.0 if net > 0 else -1.0
    return n, KEPT


@compiled
def straighten_all(
    points: Any, starts: Any, which: Any, metric: Any, tolerance: float, code: Any, left: float, top: float,
    out: Any, sizes: Any, states: Any,
) -> None:  # fmt: skip
    """Straighten the pieces of one tile; see `straighten`.

    Args:
        points: of all pieces, half pixels of the raster, `(n, 2)`.
        starts: of all pieces.
        which: pieces in this tile.
        metric: metres per half pixel along rows and along columns, `(2,)`.
        tolerance: metres.
        code: lattice codes of the tile.
        left: first column of the tile, half pixels.
        top: first row of the tile, half pixels.
        out: filled, from twice a piece's start on, `(2 n, 2)`.
        sizes: filled with the number of vertices of each piece.
        states: filled with how each came out.
    """
    place = np.full(code.shape, -1.0)
    for piece in which:
        a, b = starts[piece], starts[piece + 1]
        xs, ys = points[a:b, 0] - left, points[a:b, 1] - top
        _note(xs, ys, place, 0.0, 1.0)
        made = out[2 * a : 2 * b]
        n, states[piece] = straighten(xs, ys, metric, tolerance, code, place, made)
        sizes[piece] = n
        for k in range(n):
            made[k, 0] += left
            made[k, 1] += top
        _note(xs, ys, place, -1.0, 0.0)


@compiled
def _note(xs: Any, ys: Any, place: Any, start: float, step: float) -> None:
    """Note at each lattice vertex of a piece how far along it lies, in half pixels."""
    along = start
    for k in range(len(xs) - 1):
        dx, dy = np.sign(xs[k + 1] - xs[k]), np.sign(ys[k + 1] - ys[k])
        length = int(abs(xs[k + 1] - xs[k]) + abs(ys[k + 1] - ys[k]))
        for t in range(length + 1):
            x, y = int(xs[k] + t * dx), int(ys[k] + t * dy)
            if x % 2 == 0 and y % 2 == 0:
                place[y // 2, x // 2] = along + t * step
        along += length * step
