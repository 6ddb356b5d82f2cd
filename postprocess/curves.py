"""Rounds the corners of a straightened piece of border, without changing the area beside it.

Whether the result crosses itself is for the caller to see; it crosses no other piece. Compiled code is kept until the
text of its own module changes, so these functions call none of another module.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tuban.postprocess.compiled import compiled

SOFT = 10  # vertices of a rounded piece for each corner of the piece, at most
_STEPS = 3  # vertices added between the ends of an arc
_SMALL = 1e-9


@compiled
def clear(x: Any, y: Any, k: int, metric: Any, room: float, code: Any, own: Any) -> bool:
    """Return whether no other piece of border comes near a chord.

    Args:
        x: vertices of the straightened piece, half pixels of the window, `(n,)`.
        y: likewise.
        k: number of the chord.
        metric: metres per half pixel along rows and along columns, `(2,)`.
        room: metres.
        code: lattice codes of the window.
        own: which lattice vertices lie on the piece itself.
    """
    sx, sy = metric
    dx, dy = (x[k + 1] - x[k]) * sx, (y[k + 1] - y[k]) * sy
    square = dx * dx + dy * dy
    left, right = (min(x[k], x[k + 1]) - room / sx) / 2, (max(x[k], x[k + 1]) + room / sx) / 2
    top, bottom = (min(y[k], y[k + 1]) - room / sy) / 2, (max(y[k], y[k + 1]) + room / sy) / 2
    if square == 0 or left < 0 or top < 0 or right > code.shape[1] - 1 or bottom > code.shape[0] - 1:
        return False  # the neighbourhood is not known
    for row in range(int(np.ceil(top)), int(np.floor(bottom)) + 1):
        for column in range(int(np.ceil(left)), int(np.floor(right)) + 1):
            if code[row, column] == 0 or own[row, column]:
                continue
            ax, ay = (2 * column - x[k]) * sx, (2 * row - y[k]) * sy
            t = min(max((ax * dx + ay * dy) / square, 0.0), 1.0)
            ax -= t * dx
            ay -= t * dy
            if ax * ax + ay * ay <= room * room:
                return False
    return True


@compiled
def _rounded(x: Any, y: Any, cut: Any, push: Any, out: Any) -> int:
    """Write vertices with an arc wherever `cut` is above 0, control points moved by `push`; return how many."""
    size = 0
    n = len(x)
    for k in range(n):
        cx, cy = x[k] + push[k, 0], y[k] + push[k, 1]
        if cut[k] == 0:
            out[size, 0], out[size, 1] = cx, cy
            size += 1
            continue
        ax, ay = x[k - 1] + push[k - 1, 0], y[k - 1] + push[k - 1, 1]
        bx, by = x[k + 1] + push[k + 1, 0], y[k + 1] + push[k + 1, 1]
        ax, ay = cx + cut[k] * (ax - cx), cy + cut[k] * (ay - cy)
        bx, by = cx + cut[k] * (bx - cx), cy + cut[k] * (by - cy)
        # Arcs that meet in the middle of a chord share that vertex.
        for step in range(1 if cut[k] == 0.5 and cut[k - 1] == 0.5 else 0, _STEPS + 2):
            t = step / (_STEPS + 1)
            out[size, 0] = (1 - t) * (1 - t) * ax + 2 * t * (1 - t) * cx + t * t * bx
            out[size, 1] = (1 - t) * (1 - t) * ay + 2 * t * (1 - t) * cy + t * t * by
            size += 1
    return size


@compiled
def _area(points: Any, size: int) -> float:
    total = 0.0
    for k in range(size):
        j = k + 1 if k + 1 < size else 0
        total += points[k, 0] * points[j, 1] - points[k, 1] * points[j, 0]
    return total / 2


@compiled
def _root(a: float, b: float, c: float) -> float:
    """Return the smaller root of a x2 + b x + c, or infinity."""
    if abs(a) <= _SMALL * abs(b):
        return -c / b if b != 0 else np.inf
    if b * b < 4 * a * c:
        return np.inf
    root = np.sqrt(b * b - 4 * a * c)
    q = -(b + root) / 2 if b >= 0 else -(b - root) / 2
    return c / q if q != 0 else 0.0


@compiled
def round_corners(x: Any, y: Any, free: Any, metric: Any, limit: float, out: Any) -> int:
    """Write the piece with its corners rounded; corners are pushed outwards by so much that the area stays.

    Args:
        x: vertices of the straightened piece, `(n,)`.
        y: likewise.
        free: chords with room around them, `(n - 1,)`; corners between two of them are rounded.
        metric: metres per half pixel along rows and along columns, `(2,)`.
        limit: how far the line may move, metres.
        out: filled with x, y, `((steps + 2) n, 2)`.

    Returns:
        number of vertices; 0 where the piece must stay as it is.
    """
    sx, sy = metric
    n = len(x)
    cut = np.zeros(n)
    away = np.zeros((n, 2))
    for k in range(1, n - 1):
        if free[k - 1] and free[k]:
            dx, dy = x[k] - (x[k - 1] + x[k + 1]) / 2, y[k] - (y[k - 1] + y[k + 1]) / 2
            depth = np.sqrt((dx * sx) ** 2 + (dy * sy) ** 2)
            if depth > _SMALL:
                cut[k] = min(0.5, limit / depth)
                away[k, 0], away[k, 1] = cut[k] * dx, cut[k] * dy
    if not cut.any():
        return 0
    # The area is quadratic in the push: three values give it, and the push that leaves the area alone.
    goal = _area(np.stack((x, y), axis=1), n)
    size = _rounded(x, y, cut, 0.0 * away, out)
    none = _area(out, size) - goal
    _rounded(x, y, cut, away, out)
    full = _area(out, size) - goal
    _rounded(x, y, cut, -away, out)
    back = _area(out, size) - goal
    push = _root((full + back) / 2 - none, (full - back) / 2, none)
    if not abs(push) <= 1:
        return 0
    size = _rounded(x, y, cut, push * away, out)
    return size if abs(_area(out, size) - goal) <= 1e-6 else 0


@compiled
def round_all(
    points: Any, starts: Any, which: Any, metric: Any, limit: float, room: float, code: Any, left: float,
    top: float, smooth: bool, out: Any, sizes: Any, soft: Any, soft_sizes: Any, free: Any,
) -> None:  # fmt: skip
    """Find out which straightened pieces of one tile have room, and where asked round their corners.

    Args:
        points: of all pieces, half pixels of the raster, `(n, 2)`.
        starts: of all pieces.
        which: pieces in this tile that were straightened.
        metric: metres per half pixel along rows and along columns, `(2,)`.
        limit: how far rounding may move a line, metres.
        room: how far off other borders must be, metres.
        code: lattice codes of the tile.
        left: first column of the tile, half pixels.
        top: first row of the tile, half pixels.
        smooth: round corners.
        out: straightened pieces, each from twice its start on.
        sizes: their numbers of vertices.
        soft: filled with rounded pieces, from `SOFT` times a piece's start on, `(SOFT n, 2)`.
        soft_sizes: filled with their numbers of vertices, 0 where a piece is not rounded.
        free: filled with which pieces have room all along.
    """
    own = np.zeros(code.shape, dtype=np.bool_)
    for piece in which:
        a, b = starts[piece], starts[piece + 1]
        xs, ys = points[a:b, 0] - left, points[a:b, 1] - top
        _mark(xs, ys, own, yes=True)
        n = sizes[piece]
        x, y = out[2 * a : 2 * a + n, 0] - left, out[2 * a : 2 * a + n, 1] - top
        chords = np.zeros(n - 1, dtype=np.bool_)
        for k in range(n - 1):
            chords[k] = clear(x, y, k, metric, room, code, own)
        free[piece] = chords.all()
        if smooth:
            curve = soft[SOFT * a : SOFT * b]
            m = round_corners(x, y, chords, metric, limit, curve)
            soft_sizes[piece] = m
            curve[:m, 0] += left
            curve[:m, 1] += top
        _mark(xs, ys, own, yes=False)


@compiled
def _mark(xs: Any, ys: Any, own: Any, yes: bool) -> None:
    """Mark the lattice vertices of a piece."""
    for k in range(len(xs) - 1):
        dx, dy = np.sign(xs[k + 1] - xs[k]), np.sign(ys[k + 1] - ys[k])
        for t in range(int(abs(xs[k + 1] - xs[k]) + abs(ys[k + 1] - ys[k])) + 1):
            x, y = int(xs[k] + t * dx), int(ys[k] + t * dy)
            if x % 2 == 0 and y % 2 == 0:
                own[y // 2, x // 2] = yes
