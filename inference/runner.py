"""Makes parts: reads, runs and packs batches of windows in memory that depends on the tile alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tuban.inference.engine import stream
from tuban.inference.parts import Part, Tally, make_part
from tuban.inference.products import blank
from tuban.inference.reading import Loaded, read_window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from tuban.inference.backends import Backend, Outputs
    from tuban.inference.products import Product
    from tuban.inference.reading import Damage, PixelReader
    from tuban.inference.windows import CoreWindow, WindowPlan
    from tuban.models.bundle import Bundle


class _Batch(NamedTuple):
    number: int
    windows: list[Loaded]


class _Made(NamedTuple):
    """A window after the network; `outputs` over its core, empty where it was not run. The pixels fed are gone."""

    window: CoreWindow
    valid: NDArray[np.bool_]
    unseen_px: int
    damage: tuple[Damage, ...]
    outputs: dict[str, NDArray[Any]]


class Runner:
    """Everything that turns windows of one source into parts; the same on one machine and on many."""

    def __init__(
        self,
        source: PixelReader,
        bundle: Bundle,
        product: Product,
        plan: WindowPlan,
        backend: Backend,
        *,
        batch: int = 1,
        ahead: int = 1,
        keep_going: bool = False,
    ) -> None:
        """Describe the work; nothing is read yet.

        Args:
            source: the scene or pair.
            bundle: the model.
            product: what is made of its outputs.
            plan: of the windows.
            backend: runs the network.
            batch: windows run at once, and packed into one part.
            ahead: batches read ahead, and batches waiting to be packed.
            keep_going: leave out what cannot be read.
        """
        self._source, self._bundle, self._product, self._plan = source, bundle, product, plan
        self._backend, self._batch, self._ahead, self._keep_going = backend, batch, ahead, keep_going

    def parts(self, indices: Iterable[int]) -> Iterator[Part]:
        """Yield the parts of these batches, in order.

        Raises:
            ModelError: the network cannot be run, or gives values that are no probabilities.
            ReadError: the source is damaged, unless what cannot be read is left out.
        """
        return stream(indices, read=self._read, run=self._run, finish=self._pack, depth=self._ahead)

    def _read(self, index: int) -> _Batch:
        windows = self._plan.group(index, self._batch)
        return _Batch(
            index,
            [
                read_window(
                    self._source,
                    self._bundle,
                    self._plan,
                    window,
                    inputs=self._product.inputs,
                    keep_going=self._keep_going,
                )
                for window in windows
            ],
        )

    def _run(self, batch: _Batch) -> tuple[int, list[_Made]]:
        fed = [loaded for loaded in batch.windows if loaded.images]
        outputs: Outputs = {}
        if fed:
            feeds = {name: _stacked([loaded.images[name] for loaded in fed]) for name in self._product.inputs}
            outputs = self._backend.run(feeds, self._product.wanted)
        made, place = [], 0
        for loaded in batch.windows:
            cores: dict[str, NDArray[Any]] = {}
            if loaded.images:
                rows = slice(self._plan.halo, self._plan.halo + loaded.window.height)
                cols = slice(self._plan.halo, self._plan.halo + loaded.window.width)
                cores = {name: output[place, ..., rows, cols] for name, output in outputs.items()}
                place += 1
            made.append(_Made(loaded.window, loaded.valid, loaded.unseen_px, loaded.damage, cores))
        return batch.number, made

    def _pack(self, batch: tuple[int, list[_Made]]) -> Part:
        index, windows = batch
        specs, arrays, tally = self._product.specs, [], Tally()
        rows, cols = self._plan.input_shape
        for made in windows:
            run = bool(made.outputs)
            arrays.append(
                self._product.encode(made.outputs, made.valid, made.window) if run else blank(specs, made.valid.shape)
            )
            tally += Tally(
                run=int(run),
                skipped=int(not run),
                valid_px=int(np.count_nonzero(made.valid)),
                unseen_px=made.unseen_px,
                fed_px=rows * cols if run else 0,
                damage=made.damage,
            )
        return make_part(index, [made.window for made in windows], arrays, specs, tally)


def _stacked(images: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Add the batch axis; a batch of one is not copied."""
    return images[0][None] if len(images) == 1 else np.stack(images)
