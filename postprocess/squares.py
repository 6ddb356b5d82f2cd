"""Gives a closed outline right angles, for buildings and other things people make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]


def squared(ring: FloatArray, limit: float) -> FloatArray | None:
    """Return a ring of right angles with the same area, or None where the outline has no such shape.

    Edges are put into the two directions that fit them best, weighted by length. Edges of one direction in a row
    become one line at their mean place; corners are where lines meet. The ring is then scaled about its centre to the
    area it had.

    Args:
        ring: x, y in metres, `(n, 2)`, closed.
        limit: how far it may move, metres.
    """
    edge = np.diff(ring, axis=0)
    length = np.hypot(edge[:, 0], edge[:, 1])
    edge, length, begin = edge[length > 0], length[length > 0], ring[:-1][length > 0]
    # Directions repeat every quarter turn, so that four times the angle tells them apart.
    quarter = (length * np.exp(4j * np.arctan2(edge[:, 1], edge[:, 0]))).sum()
    turn = np.exp(-0.25j * np.angle(quarter))
    flat = (edge[:, 0] + 1j * edge[:, 1]) * turn
    middle = (begin[:, 0] + begin[:, 1] * 1j + (edge[:, 0] + 1j * edge[:, 1]) / 2) * turn
    level = np.abs(flat.real) >= np.abs(flat.imag)
    first = np.flatnonzero(level != np.roll(level, 1))
    if len(first) < 4:
        return None
    level, length, middle = (np.roll(part, -first[0]) for part in (level, length, middle))
    group = np.cumsum(np.r_[False, level[1:] != level[:-1]])
    place = np.where(level, middle.imag, middle.real)
    line = np.bincount(group, weights=length * place) / np.bincount(group, weights=length)
    after = np.roll(line, -1)
    is_level = level[np.flatnonzero(np.r_[True, level[1:] != level[:-1]])]
    corner = np.where(is_level, after + 1j * line, line + 1j * after) / turn
    shape, old = shapely.Polygon(np.stack([corner.real, corner.imag], axis=1)), shapely.Polygon(ring)
    if not shape.is_valid or shape.area == 0 or shape.exterior.is_ccw != old.exterior.is_ccw:
        return None
    centre = shape.centroid.x + 1j * shape.centroid.y
    corner = centre + (corner - centre) * np.sqrt(old.area / shape.area)
    found = np.stack([corner.real, corner.imag], axis=1)
    found = np.concatenate([found, found[:1]])
    moved = shapely.hausdorff_distance(shapely.LinearRing(found), old.exterior, densify=0.1)
    return found if moved <= limit else None
