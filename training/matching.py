"""Objects of a map matched one to one with labelled objects, in a stream of strips.

The rule. Objects are 8-connected. A labelled and a called object are a pair where they share a pixel, and the pair is
worth its intersection over union (IoU). Pairs below `min_iou` are dropped; of the others the one-to-one assignment
with the largest total IoU is taken. A labelled object in it is found, a called object in it is right. Objects of every
size take part in the assignment, size only decides which are counted: a labelled object of 2,000 m² may be found by a
called one of 1,500 m². Pixels of unknown label belong to no called object.

Apart from that, a pair is substantial where the shared pixels are at least half of the smaller object. A labelled
object with two or more substantial partners is split, a called one with two or more is a merge.

References:
    Kuhn, "The Hungarian method for the assignment problem", Naval Research Logistics Quarterly 1955.
    Clinton et al., "Accuracy assessment measures for object-based image segmentation goodness", PE&RS 2010 (splits
        and merges).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EIGHT = np.ones((3, 3), dtype=int)
SUBSTANTIAL = 0.5
NOMINAL = 0.99
"""A pixel of nominally 10 m may measure 9.96 m on the ground, and 20 of them are still 2,000 m²."""


@dataclass(slots=True)
class _Components:
    """Connected components of a mask that arrives strip by strip; ids are provisional until `roots`."""

    sizes: list[NDArray[np.int64]] = field(default_factory=list)
    joins: list[NDArray[np.int64]] = field(default_factory=list)
    count: int = 0
    edge: NDArray[np.int64] | None = None

    def add(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Number the components of the next strip `(h, w)`: ids from 1, 0 where the mask is not set."""
        numbered, count = ndimage.label(mask, structure=_EIGHT)
        self.sizes.append(np.bincount(numbered.ravel(), minlength=count + 1)[1:])
        ids = np.where(numbered > 0, numbered + self.count, 0).astype(np.int64)
        self.count += count
        if self.edge is not None:
            above, below = np.pad(self.edge, 1), ids[0]
            for shift in range(3):
                neighbour = above[shift : shift + below.size]
                touching = (neighbour > 0) & (below > 0)
                self.joins.append(np.unique(np.stack([neighbour[touching], below[touching]]), axis=1))
        self.edge = ids[-1]
        return ids

    def roots(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each provisional id its component (index 0 is not used), and each component's pixels."""
        edges = np.concatenate([np.empty((2, 0), np.int64), *self.joins], axis=1)
        graph = coo_array((np.ones(edges.shape[1]), (edges[0] - 1, edges[1] - 1)), shape=(self.count, self.count))
        number, root = connected_components(graph, directed=False) if self.count else (0, np.empty(0, np.int64))
        sizes = np.concatenate([np.empty(0, np.int64), *self.sizes])
        pixels = np.zeros(number, np.int64)
        np.add.at(pixels, root, sizes)
        return np.concatenate([[-1], root]).astype(np.int64), pixels


@dataclass(frozen=True, slots=True)
class Overlaps:
    """All objects of one or more places, and how they lie on each other.

    Attributes:
        truth_px: `(t,)` pixels of each labelled object.
        called_px: `(c,)` pixels of each called object.
        pairs: `(k, 3)` labelled object, called object, pixels that they share; sorted.
        pixel_m2: ground area of a pixel.
    """

    truth_px: NDArray[np.int64]
    called_px: NDArray[np.int64]
    pairs: NDArray[np.int64]
    pixel_m2: float

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair, `(k,)`."""
        truth, called, shared = self.pairs.T
        return np.asarray(shared / (self.truth_px[truth] + self.called_px[called] - shared), dtype=np.float64)

    def covered(self, share: float = 0.25) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the labelled `(t,)` and called `(c,)` objects of which at least `share` lies on the other side.

        A more lenient rule than the match, and not one to one: one called object may cover many labelled ones.
        """
        truth, called, shared = self.pairs.T
        on_truth = np.bincount(truth, weights=shared, minlength=self.truth_px.size)
        on_called = np.bincount(called, weights=shared, minlength=self.called_px.size)
        return on_truth >= share * self.truth_px, on_called >= share * self.called_px


@dataclass(slots=True)
class ObjectStream:
    """Collects `Overlaps` from strips of rows, top to bottom; memory grows with the objects, not with the image."""

    truth: _Components = field(default_factory=_Components)
    called: _Components = field(default_factory=_Components)
    shared: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, called: NDArray[np.bool_], label: NDArray[np.uint8]) -> None:
        """Take the next strip: what was called changed, and labels 0, 1 or 255 unknown, both `(h, w)`."""
        truth = self.truth.add(label == 1)
        mapped = self.called.add(called & (label <= 1))
        both = (truth > 0) & (mapped > 0)
        pairs, counts = np.unique(np.stack([truth[both], mapped[both]]), axis=1, return_counts=True)
        self.shared.append(np.concatenate([pairs, counts[None]]))

    def overlaps(self, pixel_m2: float) -> Overlaps:
        """Return the objects of all strips so far.

        Args:
            pixel_m2: ground area of a pixel, m².
        """
        truth_root, truth_px = self.truth.roots()
        called_root, called_px = self.called.roots()
        rows = np.concatenate([np.empty((3, 0), np.int64), *self.shared], axis=1)
        keys, where = np.unique(np.stack([truth_root[rows[0]], called_root[rows[1]]]), axis=1, return_inverse=True)
        shared = np.bincount(where.ravel(), weights=rows[2], minlength=keys.shape[1]).astype(np.int64)
        return Overlaps(truth_px, called_px, np.concatenate([keys, shared[None]]).T, pixel_m2)


def overlaps(called: NDArray[np.bool_], label: NDArray[np.uint8], pixel_m2: float = 100.0) -> Overlaps:
    """Return the objects of one small place held in memory; arguments as `ObjectStream.add`."""
    stream = ObjectStream()
    stream.add(called, label)
    return stream.overlaps(pixel_m2)


@dataclass(frozen=True, slots=True)
class Matching:
    """Which objects were matched.

    Attributes:
        truth_m2: `(t,)` ground area of each labelled object.
        called_m2: `(c,)` ground area of each called object.
        found: `(t,)` the labelled object has a partner.
        right: `(c,)` the called object has a partner.
        split: `(t,)` two or more called objects lie on it substantially.
        merge: `(c,)` it lies on two or more labelled objects substantially.
    """

    truth_m2: NDArray[np.float64]
    called_m2: NDArray[np.float64]
    found: NDArray[np.bool_]
    right: NDArray[np.bool_]
    split: NDArray[np.bool_]
    merge: NDArray[np.bool_]

    def __add__(self, other: Matching) -> Matching:
        """Pool two places."""
        return Matching(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in self.__slots__))

    def counts(self, min_m2: float = 0.0, below_m2: float = np.inf) -> dict[str, float]:
        """Return counts, recall, precision and F1 of the objects of `min_m2` and more and less than `below_m2`."""
        least, below = NOMINAL * min_m2, NOMINAL * below_m2
        truth = (self.truth_m2 >= least) & (self.truth_m2 < below)
        called = (self.called_m2 >= least) & (self.called_m2 < below)
        found, right = int((self.found & truth).sum()), int((self.right & called).sum())
        recall, precision = found / max(int(truth.sum()), 1), right / max(int(called.sum()), 1)
        return {
            "truth": int(truth.sum()),
            "found": found,
            "called": int(called.sum()),
            "right": right,
            "split": int((self.split & truth).sum()),
            "merge": int((self.merge & called).sum()),
            "recall": round(recall, 4),
            "precision": round(precision, 4),
            "f1": round(2 * recall * precision / max(recall + precision, 1e-12), 4),
        }


def match(objects: Overlaps, min_iou: float = 0.25) -> Matching:
    """Match objects one to one by the rule at the head of this module.

    Args:
        objects: from `overlaps` or `ObjectStream`.
        min_iou: smallest IoU of a pair, 0–1.
    """
    truth, called, shared = objects.pairs.T
    found, right = np.zeros(objects.truth_px.size, bool), np.zeros(objects.called_px.size, bool)
    good = objects.iou >= min_iou
    for rows, columns, value in _groups(truth[good], called[good], objects.iou[good]):
        row_names, row = np.unique(rows, return_inverse=True)
        column_names, column = np.unique(columns, return_inverse=True)
        worth = np.zeros((row_names.size, column_names.size))
        worth[row, column] = value
        chosen_row, chosen_column = linear_sum_assignment(worth, maximize=True)
        real = worth[chosen_row, chosen_column] > 0
        found[row_names[chosen_row[real]]] = True
        right[column_names[chosen_column[real]]] = True
    smaller = np.minimum(objects.truth_px[truth], objects.called_px[called])
    large = shared >= SUBSTANTIAL * smaller
    split = np.bincount(truth[large], minlength=found.size) >= 2
    merge = np.bincount(called[large], minlength=right.size) >= 2
    truth_m2, called_m2 = (
        np.asarray(size * objects.pixel_m2, dtype=np.float64) for size in (objects.truth_px, objects.called_px)
    )
    return Matching(truth_m2, called_m2, found, right, split, merge)


def _groups(
    truth: NDArray[np.int64], called: NDArray[np.int64], iou: NDArray[np.float64]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Cut the pairs into groups that share no object, so that each assignment is small."""
    if not truth.size:
        return []
    offset = int(truth.max()) + 1
    nodes = offset + int(called.max()) + 1
    graph = coo_array((np.ones(truth.size), (truth, called + offset)), shape=(nodes, nodes))
    group = connected_components(graph, directed=False)[1][truth]
    order = np.argsort(group, kind="stable")
    cuts = np.flatnonzero(np.diff(group[order])) + 1
    return [(truth[part], called[part], iou[part]) for part in np.split(order, cuts)]
