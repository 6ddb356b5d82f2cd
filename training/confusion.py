"""Classes against labels, counted in a stream of windows; the measures are those of torchmetrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

UNKNOWN = -1


class Confusion:
    """Precision, recall, F1 and IoU of each class over all windows added.

    Memory is one matrix of classes by classes, whatever the size of the scenes.
    """

    def __init__(self, names: Sequence[str], values: Sequence[int] | None = None) -> None:
        """Make the metrics.

        Args:
            names: classes, at least two.
            values: their values in the rasters; None: 0, 1, 2 …
        """
        self.names = tuple(names)
        self._index = np.full(256, UNKNOWN, np.int64)
        self._index[list(range(len(names))) if values is None else list(values)] = np.arange(len(names))
        settings: dict[str, Any] = {"num_classes": len(names), "average": None, "ignore_index": UNKNOWN}
        self._metrics = MetricCollection(
            {
                "precision": MulticlassPrecision(**settings),
                "recall": MulticlassRecall(**settings),
                "f1": MulticlassF1Score(**settings),
                "iou": MulticlassJaccardIndex(**settings),
                "matrix": MulticlassConfusionMatrix(num_classes=len(names), ignore_index=UNKNOWN),
            }
        )
        self.pixels = 0

    def add(self, mapped: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Count a window: class values of the map and of the labels, same shape; other values are unknown."""
        called, true = self._index[mapped], self._index[truth]
        known = (called != UNKNOWN) & (true != UNKNOWN)
        if known.any():
            self.pixels += int(known.sum())
            self._metrics.update(torch.from_numpy(called[known]), torch.from_numpy(true[known]))

    def matrix(self) -> NDArray[np.int64]:
        """Return counts, `(labelled classes, mapped classes)`."""
        if not self.pixels:
            return np.zeros((len(self.names), len(self.names)), np.int64)
        return np.asarray(self._metrics["matrix"].compute().numpy(), dtype=np.int64)

    def measures(self) -> dict[str, dict[str, float]]:
        """Return precision, recall, F1, IoU and labelled pixels (`support`) of each class labelled or mapped."""
        if not self.pixels:
            return {}
        found = self._metrics.compute()
        matrix = self.matrix()
        return {
            name: {key: round(float(found[key][i]), 4) for key in ("precision", "recall", "f1", "iou")}
            | {"support": int(matrix[i].sum())}
            for i, name in enumerate(self.names)
            if matrix[i].sum() or matrix[:, i].sum()
        }

    def agreement(self) -> float:
        """Return the share of known pixels whose class is that of the label."""
        matrix = self.matrix()
        return float(np.trace(matrix) / max(int(matrix.sum()), 1))

    def macro_f1(self) -> float:
        """Return the mean F1 of the classes that are labelled."""
        labelled = [row["f1"] for row in self.measures().values() if row["support"]]
        return float(np.mean(labelled)) if labelled else 0.0


def macro_f1(matrix: NDArray[np.int64]) -> float:
    """Return the mean F1 of the labelled classes of a matrix of counts, for a bootstrap over places."""
    truth, called, right = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
    labelled = truth > 0
    return float((2 * right / np.maximum(truth + called, 1))[labelled].mean()) if labelled.any() else 0.0


class Transitions:
    """From → to: pairs of classes before and after, against the labelled pairs."""

    def __init__(self, names: Sequence[str], values: Sequence[int]) -> None:
        """Make the count of every pair of classes; arguments as `Confusion`."""
        self._size = len(names)
        self._index = np.full(256, 255, np.uint8)
        self._index[list(values)] = np.arange(len(names))
        self._pairs = Confusion([f"{a} → {b}" for a in names for b in names])

    def add(
        self, mapped: tuple[NDArray[np.uint8], NDArray[np.uint8]], truth: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    ) -> None:
        """Count a window: class values before and after, of the map and of the labels."""
        self._pairs.add(self._coded(*mapped), self._coded(*truth))

    def _coded(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
        first, second = self._index[before], self._index[after]
        code = first.astype(np.int64) * self._size + second
        return np.where((first == 255) | (second == 255), 255, code).astype(np.uint8)

    def measures(self, *, least: int = 100) -> dict[str, dict[str, float]]:
        """Return the measures of each pair of different classes with at least `least` labelled pixels."""
        rows = self._pairs.measures().items()
        return {n: row for n, row in rows if row["support"] >= least and len(set(n.split(" → "))) == 2}
