"""Smaller forms of a bundle's graph: 8-bit integers, or weights stored in bfloat16."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tuban.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Feeds = Mapping[str, NDArray[np.float32]]

Kind = Literal["int8", "bf16"]
METHODS: dict[Kind, str] = {
    "int8": "convolutions in 8-bit integers, quantised by ONNX Runtime (static, per channel, by smallest and largest)",
    "bf16": "weights stored in bfloat16 and widened when the graph is loaded; computed in float32",
}
# Constants smaller than this many numbers stay as they are: they are few, and some are statistics.
_SMALL = 256


def quantised(graph: Path, target: Path, samples: Sequence[Feeds]) -> None:
    """Write `graph` with its convolutions in 8-bit integers.

    Args:
        graph: ONNX file in float32.
        target: file to write.
        samples: what the graph is fed, from real imagery; its values' ranges are taken over.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: the runtime cannot quantise it, or there is no sample.
    """
    _require_onnx()
    if not samples:
        raise ModelError("no window of the imagery has a valid pixel to calibrate with; give other imagery")
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        try:
            quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(target),
                _Reader(samples),
                quant_format=quantization.QuantFormat.QDQ,
                # What is not a convolution stays in float32: normalisation, softmax, the calibrated probability.
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            line = " ".join(str(error).split())[:300]
            raise ModelError(f"{graph} cannot be quantised ({line}); ship it in float32") from error


def halved(graph: Path, target: Path) -> None:
    """Write `graph` with its weights stored in bfloat16, half their size.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    _require_onnx()
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(graph))
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _SMALL:
            kept.append(tensor)
            continue
        stored = f"{tensor.name}/bf16"
        rounded = _bfloat16(values).tobytes()
        kept.append(helper.make_tensor(stored, TensorProto.BFLOAT16, values.shape, rounded, raw=True))
        nodes.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
    nodes.extend(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    onnx.save(model, str(target))


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper halves of float32 numbers, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class _Reader:
    """What ONNX Runtime's calibration asks one sample after the other of."""

    def __init__(self, samples: Sequence[Feeds]) -> None:
        self._left = iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        sample = next(self._left, None)
        return None if sample is None else dict(sample)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the quantiser's advice, which is about nothing that a user can do, out of the log."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _require_onnx() -> None:
    if importlib.util.find_spec("onnx") is None:
        raise MissingExtraError("a smaller form of a graph needs onnx; run: pip install 'tuban[train]'")
