"""Whether what a model is tested on was, in part, trained on: by ground, by group, by content."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from tuban.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tuban.data.place import Place

OVERLAP_M = 1.0
"""Metres by which footprints must overlap to count: neighbours that share an edge do not."""

_DEGREE_M = 111_320.0


def check_leakage(train: Sequence[Place], test: Sequence[Place]) -> None:
    """Refuse a split that shares ground, a group or an image between its two sides.

    Args:
        train: places that are trained on; also those that choose a threshold.
        test: places that are measured.

    Raises:
        UsageError: two places share something; both are named.

    Example:
        >>> check_leakage([], [])
    """
    groups = {(place.dataset, place.group or place.name): place for place in train}
    contents = {content: place for place in train for content in _contents(place)}
    placed = [place for place in train if place.footprint is not None]
    bounds = np.array([place.footprint for place in placed], dtype=np.float64).reshape(-1, 4)
    for place in test:
        other = groups.get((place.dataset, place.group or place.name))
        if other is not None:
            raise _leak(other, place, f"belong to one group, {place.group or place.name!r}")
        twin = next((contents[content] for content in _contents(place) if content in contents), None)
        if twin is not None:
            raise _leak(twin, place, "hold an identical image")
        if place.footprint is not None:
            hit = np.flatnonzero(overlaps(bounds, place.footprint))
            if hit.size:
                raise _leak(placed[hit[0]], place, "show the same ground: their footprints overlap")


def _leak(train: Place, test: Place, reason: str) -> UsageError:
    names = [f"{place.dataset}/{place.name}" if place.dataset else place.name for place in (train, test)]
    return UsageError(f"{names[0]} (train) and {names[1]} (test) {reason}; put both on one side of the split")


def overlaps(bounds: NDArray[np.float64], footprint: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """Return which boxes `(n, 4)` share more ground with a footprint than an edge; all in degrees WGS 84."""
    west, south, east, north = footprint
    margin = OVERLAP_M / _DEGREE_M
    wide = margin / max(np.cos(np.radians((south + north) / 2)), 1e-6)
    columns = np.minimum(bounds[:, 2], east) - np.maximum(bounds[:, 0], west)
    rows = np.minimum(bounds[:, 3], north) - np.maximum(bounds[:, 1], south)
    return np.asarray((columns > wide) & (rows > margin))


def _contents(place: Place) -> Iterator[bytes]:
    """A hash of each image that shows anything, the same however it lies: turned or mirrored is the same image."""
    for image in (place.before, place.after):
        if image is None:
            continue
        plane = _plane(image)
        if plane.min() < plane.max():
            yield min(_hash(turned) for turned in _turned(plane))


def _plane(image: NDArray[np.float32]) -> NDArray[np.int32]:
    """The sum of the bands in steps of 1/2000, finer than 8 bits; images that agree in it everywhere are the same."""
    finite = np.nan_to_num(image, nan=-1.0, posinf=-1.0, neginf=-1.0)
    return np.asarray(np.round(finite * 2000).astype(np.int32).sum(axis=0), dtype=np.int32)


def _hash(plane: NDArray[np.int32]) -> bytes:
    shape = np.array(plane.shape, dtype=np.int64).tobytes()
    return hashlib.blake2b(shape + np.ascontiguousarray(plane).tobytes(), digest_size=16).digest()


def _turned(plane: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    for mirrored in (plane, plane[:, ::-1]):
        for quarter in range(4):
            yield np.rot90(mirrored, quarter)
