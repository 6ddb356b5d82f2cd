"""The interface that every backend keeps: named float32 arrays in, named outputs out.

A change bundle's graph takes `before` and `after` and gives `change` and, where it has classes, `landcover_before` and
`landcover_after`; a land-cover bundle's takes `image` and gives `landcover`. Of each land cover may also be asked for
`<name>_class`, the position of its largest probability, and `<name>_confidence`, that probability: a graph that makes
them itself never writes the probabilities to memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tuban.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from tuban.models.bundle import Bundle

BackendName = Literal["auto", "onnx", "torch", "openvino"]
Device = Literal["auto", "cpu", "cuda", "tensorrt", "gpu"]
Precision = Literal["f32", "bf16"]
Feeds = Mapping[str, NDArray[np.float32]]
Outputs = dict[str, NDArray[Any]]

# What a graph takes and the least it must give.
LAYOUTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("before", "after"): ("landcover_before", "landcover_after", "change"),
    ("image",): ("landcover",),
}
CLASS, CONFIDENCE = "_class", "_confidence"


class Backend(Protocol):
    """Something that runs a bundle's network."""

    @property
    def name(self) -> str:
        """What runs the network, on which device and how, e.g. `onnx-cpu`, `openvino-cpu-bf16`."""

    @property
    def notes(self) -> Sequence[str]:
        """What is not as one would expect, for `run.json`; most often empty."""

    def run(self, feeds: Feeds, wanted: Sequence[str]) -> Outputs:
        """Run the network once.

        Args:
            feeds: `before` and `after`, or `image`: float32 `(n, bands, h, w)` in the bundle's units, NaN where
                invalid or missing; h and w are multiples of the bundle's stride.
            wanted: names of outputs, nothing else is computed.

        Returns:
            For `change` float32 `(n, h, w)`, calibrated probability; for a land cover float32 `(n, classes, h, w)`,
            probabilities; for `<land cover>_class` uint8 `(n, h, w)`, position of the largest in the bundle's classes;
            for `<land cover>_confidence` float32 `(n, h, w)`, that largest.

        Raises:
            ModelError: the network has no such output, or the runtime fails.
        """


def needed(wanted: Sequence[str], offered: Sequence[str], path: Path) -> list[str]:
    """Return the outputs of a graph that `wanted` is made of.

    Raises:
        ModelError: the graph gives neither an output nor what it could be made of.
    """
    names = [name if name in offered else source(name) for name in wanted]
    if strangers := [name for name in names if name not in offered]:
        raise ModelError(f"{path} has no output {', '.join(strangers)}; it has {', '.join(offered)}")
    return list(dict.fromkeys(names))


def finish(raw: Mapping[str, NDArray[Any]], wanted: Sequence[str]) -> Outputs:
    """Return `wanted` from what a graph gave: what it does not make itself is made of its probabilities."""
    made: Outputs = {}
    for name in wanted:
        if name in raw:
            made[name] = raw[name].astype(np.uint8, copy=False) if name.endswith(CLASS) else raw[name]
        else:
            probabilities = raw[source(name)]
            made[name] = largest(probabilities) if name.endswith(CLASS) else probabilities.max(axis=1)
    return made


def source(name: str) -> str:
    """Return the output that `name` is, or can be made of."""
    return name.removesuffix(CLASS).removesuffix(CONFIDENCE)


def largest(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the position of the largest class, `(n, classes, h, w)` → uint8 `(n, h, w)`; of equals the first.

    One class after the other: numpy's own `argmax` strides through memory and is several times slower here.
    """
    best = probabilities[:, 0].copy()
    index = np.zeros(best.shape, np.uint8)
    for position in range(1, probabilities.shape[1]):
        candidate = probabilities[:, position]
        np.copyto(index, np.uint8(position), where=candidate > best)
        np.maximum(best, candidate, out=best)
    return index


def check_graph(
    path: Path, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]], bundle: Bundle
) -> None:
    """Check that a graph's inputs and outputs, name to shape, are those of a bundle; a side that is no int is free.

    Raises:
        ModelError: names or channels are others.
    """
    layout = next((names for names in LAYOUTS if set(names) == set(inputs)), None)
    gives = [name for name in LAYOUTS[layout] if bundle.classes or name == "change"] if layout else []
    if layout is None or not set(gives) <= set(outputs):
        kinds = "; or ".join(f"{list(takes)} and {list(makes)}" for takes, makes in LAYOUTS.items())
        raise ModelError(
            f"{path} has inputs {sorted(inputs)} and outputs {sorted(outputs)}; a bundle needs {kinds}: "
            "export the model again"
        )
    covers = [name for name in gives if name.startswith("landcover")]
    expected = {name: len(bundle.bands) for name in layout} | {name: len(bundle.classes) for name in covers}
    for name, count in expected.items():
        channels = (inputs[name] if name in inputs else outputs[name])[1]
        if isinstance(channels, int) and channels != count:
            raise ModelError(f"{path}: {name} has {channels} channels, mlm.json says {count}; export the model again")


def failed(what: object, feeds: Feeds, error: BaseException) -> ModelError:
    """Return the error of a runtime that gave up on a batch, most often for want of memory."""
    shape = "×".join(str(side) for side in next(iter(feeds.values())).shape)
    return ModelError(f"{what} failed on a batch of {shape} ({one_line(error)}); set a smaller inference.tile or batch")


def available_cores() -> int:
    """Return how many cores this process may use (which a container or `taskset` may limit)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_line(error: BaseException) -> str:
    """Return an error's message as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
