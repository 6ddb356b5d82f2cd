"""Smaller forms of a graph against their float32 one and an independent rounding."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tuban.errors import ModelError
from tuban.models.variant import halved, quantised


@pytest.fixture
def graph(tmp_path):
    """Two 3 x 3 convolutions of random weights."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(16, 3, 3, 3)).astype(np.float32)
    second = rng.normal(size=(4, 16, 3, 3)).astype(np.float32) / 12
    made = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "a"], ["x"], pads=[1] * 4),
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("Conv", ["r", "b"], ["y"], pads=[1] * 4),
            helper.make_node("Softmax", ["y"], ["landcover"], axis=1),
        ],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("landcover", TensorProto.FLOAT, ["n", 4, "h", "w"])],
        [numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def run(path, image):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]


def test_stored_in_bfloat16_the_weights_are_those_torch_rounds_to(graph, tmp_path):
    halved(graph, tmp_path / "small.onnx")
    stored = {t.name: t for t in onnx.load(tmp_path / "small.onnx").graph.initializer}
    plain = {t.name: numpy_helper.to_array(t) for t in onnx.load(graph).graph.initializer}
    for name, values in plain.items():
        raw = np.frombuffer(stored[f"{name}/bf16"].raw_data, np.uint16).astype(np.uint32) << 16
        rounded = torch.from_numpy(values.copy()).to(torch.bfloat16).float().numpy()
        np.testing.assert_array_equal(raw.view(np.float32).reshape(values.shape), rounded)
    image = np.random.default_rng(1).random((2, 3, 16, 24)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "small.onnx", image), run(graph, image), atol=0.02)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxruntime")
def test_in_eight_bits_the_answer_is_nearly_the_same(graph, tmp_path):
    rng = np.random.default_rng(2)
    quantised(graph, tmp_path / "small.onnx", [{"image": rng.random((1, 3, 32, 32), np.float32)} for _ in range(3)])
    kinds = [node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node]
    assert "QuantizeLinear" in kinds
    image = rng.random((1, 3, 32, 48), np.float32)
    np.testing.assert_allclose(run(tmp_path / "small.onnx", image), run(graph, image), atol=0.05)


def test_nothing_to_calibrate_with_is_said(graph, tmp_path):
    with pytest.raises(ModelError, match="no window"):
        quantised(graph, tmp_path / "small.onnx", [])
