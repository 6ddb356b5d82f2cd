"""Somebody else's ONNX graph made into one of tuban's: its units, layout and classes translated inside the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from tuban.models.import_card import GraphSpec, ImportCard, Step

OPSET = 17
_AXES_ARE_INPUT = 18
_INNER = "inner/"
_TO_NHWC, _TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def wrapped(model: onnx.ModelProto, card: ImportCard) -> onnx.ModelProto:
    """Return a graph with the inputs and outputs of a bundle around `model`.

    Args:
        model: the graph as it came.
        card: what its inputs and outputs are.

    Raises:
        ModelError: its inputs and outputs are not those the card describes.
    """
    import onnx
    from onnx import compose, helper, version_converter

    if (opset := _opset(model)) < OPSET:
        model = version_converter.convert_version(model, OPSET)
    inner = compose.add_prefix(model, _INNER)
    graph = card.described
    takes = ("image",) if card.task == "landcover" else ("before", "after")
    fed = _inputs(inner, graph, takes)
    builder = _Builder(max(opset, OPSET))
    ready = [builder.prepared(name, card) for name in takes]
    if len(fed) == 1 and len(ready) == 2:
        ready = [builder.add("Concat", ready, axis=1)]
    for name, source in zip(fed, ready, strict=True):
        builder.add("Transpose", [source], name, perm=_TO_NHWC) if graph.layout == "nhwc" else builder.add(
            "Identity", [source], name
        )
    before = list(builder.nodes)
    builder.nodes.clear()
    outputs = (
        builder.landcover(_output(inner, graph), card)
        if card.task == "landcover"
        else builder.change(_output(inner, graph), card)
    )
    made = helper.make_graph(
        [*before, *inner.graph.node, *builder.nodes],
        "tuban",
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", len(card.bands), "height", "width"])
            for name in takes
        ],
        outputs,
        [*inner.graph.initializer, *builder.constants],
    )
    domains = [helper.make_opsetid("", max(opset, OPSET)), *(o for o in inner.opset_import if o.domain)]
    whole = helper.make_model(made, opset_imports=domains, ir_version=max(8, inner.ir_version))
    whole.functions.extend(inner.functions)
    return whole


def _opset(model: onnx.ModelProto) -> int:
    return next((int(entry.version) for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), OPSET)


def _inputs(inner: onnx.ModelProto, graph: GraphSpec, takes: Sequence[str]) -> list[str]:
    stored = {tensor.name for tensor in inner.graph.initializer}
    free = [value.name for value in inner.graph.input if value.name not in stored]
    named = [f"{_INNER}{name}" for name in graph.inputs] or free
    if not set(named) <= set(free) or len(named) not in {1, len(takes)} or len(free) != len(named):
        plain = [name.removeprefix(_INNER) for name in free]
        raise ModelError(
            f"the graph takes {plain}, the card says {list(graph.inputs)} for {list(takes)}; correct graph.inputs"
        )
    return named


def _output(inner: onnx.ModelProto, graph: GraphSpec) -> str:
    there = [value.name for value in inner.graph.output]
    name = f"{_INNER}{graph.output}" if graph.output else there[0]
    if name not in there:
        plain = [one.removeprefix(_INNER) for one in there]
        raise ModelError(f"the graph gives {plain}, not {graph.output!r}; correct graph.output")
    return name


class _Builder:
    """Collects nodes and constants under names of their own."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._count = 0

    def constant(self, value: Any, kind: type[np.generic] = np.float32) -> str:
        from onnx import numpy_helper

        self._count += 1
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), f"tuban/constant_{self._count}"))
        return str(self.constants[-1].name)

    def add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        self._count += 1
        output = output or f"tuban/{kind.lower()}_{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def prepared(self, name: str, card: ImportCard) -> str:
        """Fill NaN with the training mean and bring the values into the inner graph's units."""
        column = np.array(card.mean, np.float32).reshape(1, -1, 1, 1)
        x = self.add("Where", [self.add("IsNaN", [name]), self.constant(column), name])
        for step in card.described.steps:
            x = self.step(x, step)
        return x

    def step(self, x: str, step: Step) -> str:
        """Apply one step of the card's normalisation."""
        ((kind, value),) = step.items()
        if kind in {"log", "sigmoid"}:
            return self.add(kind.capitalize(), [x])
        if kind == "clip":
            low, high = value if isinstance(value, list | tuple) else (0.0, value)
            return self.add("Clip", [x, self.constant(low), self.constant(high)])
        by = np.asarray(value, np.float32)
        name = self.constant(by.reshape(1, -1, 1, 1) if by.ndim else by)
        return self.add({"multiply": "Mul", "divide": "Div", "add": "Add"}[kind], [x, name])

    def scores(self, output: str, graph: GraphSpec) -> str:
        """Return the inner graph's output as probabilities, channels second."""
        x = self.add("Transpose", [output], perm=_TO_NCHW) if graph.layout == "nhwc" else output
        if graph.activation == "softmax":
            return self.add("Softmax", [x], axis=1)
        return self.add("Sigmoid", [x]) if graph.activation == "sigmoid" else x

    def landcover(self, output: str, card: ImportCard) -> list[Any]:
        """Give probabilities of the unified classes, the largest's position, and that probability."""
        from onnx import TensorProto, helper

        kept = list(dict.fromkeys(value for value in card.classes if value))
        share = np.zeros((len(kept), len(card.classes), 1, 1), np.float32)
        for channel, value in enumerate(card.classes):
            if value:
                share[kept.index(value), channel] = 1
        merged = self.add("Conv", [self.scores(output, card.described), self.constant(share)])
        if 0 in card.classes:
            # What is left out takes no part: the others are probabilities among themselves.
            total = self.add("ReduceSum", [merged, self.constant([1], np.int64)])
            merged = self.add("Div", [merged, self.add("Max", [total, self.constant(1e-6)])])
        self.add("Identity", [merged], "landcover")
        self.add("Cast", [self.add("ArgMax", [merged], axis=1, keepdims=0)], "landcover_class", to=TensorProto.UINT8)
        # The axes of a maximum are an attribute up to opset 17 and an input since 18.
        older = self.opset < _AXES_ARE_INPUT
        axes, attributes = ([], {"axes": [1]}) if older else ([self.constant([1], np.int64)], {})
        self.add("ReduceMax", [merged, *axes], "landcover_confidence", keepdims=0, **attributes)
        flat = ["n", "height", "width"]
        return [
            helper.make_tensor_value_info("landcover", TensorProto.FLOAT, ["n", len(kept), "height", "width"]),
            helper.make_tensor_value_info("landcover_class", TensorProto.UINT8, flat),
            helper.make_tensor_value_info("landcover_confidence", TensorProto.FLOAT, flat),
        ]

    def change(self, output: str, card: ImportCard) -> list[Any]:
        """Give the probability of change."""
        from onnx import TensorProto, helper

        graph = card.described
        x = self.scores(output, graph)
        if graph.channel is None:
            self.add("Identity", [x], "change")
        else:
            self.add("Gather", [x, self.constant(graph.channel, np.int64)], "change", axis=1)
        return [helper.make_tensor_value_info("change", TensorProto.FLOAT, ["n", "height", "width"])]
