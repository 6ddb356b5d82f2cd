from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tuban.errors import ModelError, UsageError
from tuban.inference.backends import OnnxBackend, open_backend

OUTPUTS = ("landcover_before", "landcover_after", "change")


def feeds(*shape: int) -> dict[str, np.ndarray]:
    before, after = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    return {"before": before, "after": after}


def with_classes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its own class outputs: deliberately those of the smallest, so it shows who made them."""
    for date in ("before", "after"):
        model.graph.node.append(
            helper.make_node("ArgMin", [f"landcover_{date}"], [f"{date}_index"], axis=1, keepdims=0)
        )
        model.graph.node.append(
            helper.make_node("Cast", [f"{date}_index"], [f"landcover_{date}_class"], to=TensorProto.UINT8)
        )
        model.graph.output.append(
            helper.make_tensor_value_info(f"landcover_{date}_class", TensorProto.UINT8, ["n", "h", "w"])
        )
    onnx.checker.check_model(model)
    return model


def image_graph() -> onnx.ModelProto:
    made = helper.make_graph(
        [helper.make_node("Softmax", ["image"], ["landcover"], axis=1)],
        "cover",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("landcover", TensorProto.FLOAT, ["n", 3, "h", "w"])],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("name", ["auto", "onnx"])
def test_it_names_itself_and_gives_what_is_wanted_only(bundle, name):
    backend = open_backend(name, bundle, threads=1)
    given = feeds(2, 2, 16, 20)
    made = backend.run(given, OUTPUTS)
    assert backend.name == "onnx-cpu"
    assert backend.notes == ()
    assert list(made) == list(OUTPUTS)
    assert made["landcover_before"].shape == (2, 3, 16, 20)
    assert made["change"].shape == (2, 16, 20)
    np.testing.assert_allclose(made["landcover_before"].sum(axis=1), 1, atol=1e-6)
    only = backend.run(given, ["change"])
    assert list(only) == ["change"]
    np.testing.assert_array_equal(only["change"], made["change"])


def test_an_older_graph_gets_its_classes_from_the_probabilities(bundle):
    made = open_backend("onnx", bundle, threads=1).run(feeds(1, 2, 8, 8), ["landcover_after_class", "landcover_after"])
    np.testing.assert_array_equal(made["landcover_after_class"], made["landcover_after"].argmax(axis=1))


def test_the_graphs_own_classes_are_taken(stub, tmp_path):
    backend = OnnxBackend(stub.make_bundle(tmp_path, with_classes(stub.graph())), threads=1)
    given = feeds(1, 2, 8, 8)
    made = backend.run(given, ["landcover_after_class"])
    assert made["landcover_after_class"].dtype == np.uint8
    probabilities = backend.run(given, ["landcover_after"])["landcover_after"]
    np.testing.assert_array_equal(made["landcover_after_class"], probabilities.argmin(axis=1))


def test_a_graph_of_one_image_gives_its_land_cover(stub, tmp_path):
    bands, classes = ("B02", "B03", "B04"), (1, 7, 18)
    made = stub.make_bundle(tmp_path, image_graph(), bands=bands, classes=classes, mean=(0, 0, 0), std=(1, 1, 1))
    image = np.random.default_rng(0).random((2, 3, 8, 12), dtype=np.float32)
    cover = open_backend("onnx", made, threads=1, sample={"image": image}).run({"image": image}, ["landcover_class"])
    np.testing.assert_array_equal(cover["landcover_class"], image.argmax(axis=1))


def test_a_graph_of_other_bands_is_refused(stub, tmp_path):
    wrong = stub.make_bundle(tmp_path, stub.graph(channels=3))
    with pytest.raises(ModelError, match=r"3 channels, mlm\.json says 2"):
        OnnxBackend(wrong)


def test_a_graph_of_other_inputs_is_refused(stub, tmp_path):
    model = image_graph()
    model.graph.input[0].name = model.graph.node[0].input[0] = "picture"
    with pytest.raises(ModelError, match=r"inputs \['picture'\].*needs \['before', 'after'\].*or \['image'\]"):
        OnnxBackend(stub.make_bundle(tmp_path, model))


def test_a_file_that_is_no_graph_is_refused(stub, tmp_path):
    class Nonsense:
        @staticmethod
        def SerializeToString():  # noqa: N802
            return b"not a graph"

    with pytest.raises(ModelError, match="cannot be loaded"):
        OnnxBackend(stub.make_bundle(tmp_path, Nonsense()))


def test_a_batch_the_runtime_refuses_is_a_model_error(bundle):
    backend = OnnxBackend(bundle, threads=1)
    with pytest.raises(ModelError, match=r"failed on a batch of 1×5×8×8"):
        backend.run(feeds(1, 5, 8, 8), OUTPUTS)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_the_runtime_does_not_offer_is_refused(bundle, monkeypatch, device):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UsageError, match=f"device '{device}' is not offered .* pip install onnxruntime-gpu"):
        open_backend("onnx", bundle, device=device)


class Session:
    """A stand-in for a session of onnxruntime-gpu; there is no GPU where these tests run."""

    works = True
    asked: list[list[str]]

    def __init__(self, path, options, *, providers, enable_fallback):
        names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        self.asked.append(names)
        assert enable_fallback == 0
        assert names[-1] == "CPUExecutionProvider"
        # onnxruntime leaves out, with a line in its log, a provider whose libraries it does not find.
        self.providers = names if self.works else names[-1:]
        self.real = REAL(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self):
        return self.providers

    def __getattr__(self, name):
        return getattr(self.real, name)


REAL = onnxruntime.InferenceSession


@pytest.fixture
def gpu(monkeypatch):
    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(Session, "asked", [], raising=False)
    return Session


@pytest.mark.parametrize(
    ("device", "used"), [("auto", "cuda"), ("cuda", "cuda"), ("tensorrt", "tensorrt"), ("cpu", "cpu")]
)
def test_a_gpu_is_used_as_asked(gpu, bundle, device, used):
    backend = OnnxBackend(bundle, device=device)
    assert backend.name == f"onnx-{used}"
    assert backend.notes == ()
    first = {"cuda": "CUDA", "tensorrt": "Tensorrt", "cpu": "CPU"}[used]
    assert gpu.asked == [gpu.asked[0]]
    assert gpu.asked[0][0] == f"{first}ExecutionProvider"


def test_a_gpu_that_does_not_start_is_never_replaced_in_silence(gpu, bundle, monkeypatch):
    monkeypatch.setattr(gpu, "works", False)
    with pytest.raises(UsageError, match=r"offers cuda but cannot start it .* device=cpu"):
        OnnxBackend(bundle, device="cuda")
    backend = OnnxBackend(bundle)
    assert backend.name == "onnx-cpu"
    assert "the CPU was used" in backend.notes[0]
    assert backend.run(feeds(1, 2, 8, 8), ["change"])["change"].shape == (1, 8, 8)
