"""Test-time augmentation: the network sees each window flipped and turned, and the answers are averaged.

Costs four (`flips`) or eight (`d4`) runs a window. The symmetries of the square are named by three switches: swap rows
with columns, then reverse rows, then reverse columns; all eight combinations are the group D4, the four without the
swap are its flips (and the half turn).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tuban.inference.backends.interface import finish, source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tuban.inference.backends import Backend, Feeds, Outputs

Augmentation = Literal["none", "flips", "d4"]
Symmetry = tuple[bool, bool, bool]


@dataclass(frozen=True)
class D4Backend:
    """A backend that averages the probabilities of several views of each window.

    Attributes:
        backend: runs the network.
        mode: `flips` (4 views) or `d4` (8 views). Windows that are not square are turned too, so the network is run
            on `(h, w)` and on `(w, h)`.
    """

    backend: Backend
    mode: Literal["flips", "d4"] = "d4"

    @property
    def name(self) -> str:
        """Name of the backend inside and of the augmentation."""
        return f"{self.backend.name}-{self.mode}"

    @property
    def notes(self) -> Sequence[str]:
        """Notes of the backend inside."""
        return self.backend.notes

    def run(self, feeds: Feeds, wanted: Sequence[str]) -> Outputs:
        """Run every view and average; see `Backend.run`. Classes are those of the averaged probabilities."""
        sources = list(dict.fromkeys(map(source, wanted)))
        views = symmetries(self.mode)
        totals: dict[str, NDArray[np.float32]] = {}
        for view in views:
            made = self.backend.run({name: turn(feed, view) for name, feed in feeds.items()}, sources)
            for name in sources:
                # Popped, so that only the sum and one view are held at a time.
                back = turn_back(made.pop(name), view)
                if name in totals:
                    totals[name] += back
                else:
                    totals[name] = back.astype(np.float32)
        share = np.float32(1 / len(views))
        for total in totals.values():
            np.multiply(total, share, out=total)
        return finish(totals, wanted)


def augmented(backend: Backend, mode: Augmentation) -> Backend:
    """Return `backend` with this test-time augmentation; `none` returns it as it is."""
    return backend if mode == "none" else D4Backend(backend, mode)


def symmetries(mode: Literal["flips", "d4"]) -> list[Symmetry]:
    """Return the views in the order they are run: unchanged first, those that swap rows with columns last."""
    swaps = (False, True) if mode == "d4" else (False,)
    return list(product(swaps, (False, True), (False, True)))


def turn(values: NDArray[Any], view: Symmetry) -> NDArray[Any]:
    """Return `(…, h, w)` seen through a symmetry, contiguous as the runtimes want it."""
    swap, rows, cols = view
    seen = values.swapaxes(-1, -2) if swap else values
    return np.ascontiguousarray(seen[..., :: -1 if rows else 1, :: -1 if cols else 1])


def turn_back(values: NDArray[Any], view: Symmetry) -> NDArray[Any]:
    """Return what `turn` was given: a view of `values`, nothing is copied."""
    swap, rows, cols = view
    seen = values[..., :: -1 if rows else 1, :: -1 if cols else 1]
    return seen.swapaxes(-1, -2) if swap else seen
