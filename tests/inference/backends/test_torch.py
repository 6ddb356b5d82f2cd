from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest

from tuban.errors import MissingExtraError, ModelError, UsageError
from tuban.inference.backends import open_backend
from tuban.inference.backends import torch as module

torch = pytest.importorskip("torch", reason="torch is an extra")
OUTPUTS = ("landcover_before", "landcover_after", "change")


def test_it_agrees_with_onnx(released, window):
    expected = open_backend("onnx", released, threads=1).run(window, OUTPUTS)
    backend = open_backend("torch", released, threads=1, device="cpu")
    made = backend.run(window, [*OUTPUTS, "landcover_before_class"])
    assert backend.name == "torch-cpu"
    for name in OUTPUTS:
        assert made[name].dtype == np.float32
        np.testing.assert_allclose(made[name], expected[name], atol=1e-4)
    assert made["landcover_before_class"].dtype == np.uint8
    np.testing.assert_array_equal(made["landcover_before_class"], made["landcover_before"].argmax(axis=1))
    assert list(backend.run(window, ["change"])) == ["change"]


def test_bfloat16_is_said(released, window):
    half = open_backend("torch", released, threads=1, device="cpu", precision="bf16")
    assert half.name == "torch-cpu-bf16"
    exact, rough = (
        b.run(window, ["change"])["change"] for b in (open_backend("torch", released, threads=1, device="cpu"), half)
    )
    assert rough.dtype == np.float32
    assert 1e-5 < float(np.abs(exact - rough).max()) < 0.2


def test_each_date_is_encoded_once(released, window):
    """Twice would be the price of another network: the encoder is most of the work."""
    backend = open_backend("torch", released, threads=1, device="cpu")
    seen = []
    backend._module.network.encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    backend.run(window, OUTPUTS)
    assert sum(seen) == 2 * len(window["before"])


def test_the_graph_holds_each_convolution_at_most_once_a_date(released):
    """So the exported graph encodes each date once too, whichever runtime reads it."""
    onnx = pytest.importorskip("onnx", reason="onnx is an extra")
    nodes = onnx.load(released.onnx_path).graph.node
    uses = Counter(node.input[1] for node in nodes if node.op_type == "Conv")
    assert len(uses) > 20
    assert max(uses.values()) <= 2


def test_cuda_that_is_not_there_is_refused(released):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UsageError, match="torch sees no CUDA device"):
        open_backend("torch", released, device="cuda")


def test_nothing_to_compile_with_is_said(released, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler .* compile=false"):
        open_backend("torch", released, device="cpu", compiled=True)


def test_compiling_is_named_and_timed(released, window, monkeypatch):
    """With a stand-in for torch.compile, which takes half a minute (`benchmarks/backends.py` runs the real one)."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    given = {}
    monkeypatch.setattr(torch, "compile", lambda net, **options: given.update(options) or net)
    backend = open_backend("torch", released, threads=1, device="cpu", compiled=True, sample=window)
    assert backend.name == "torch-cpu-compiled"
    assert given == {"dynamic": False, "options": {"freezing": True}}
    assert len(backend.notes) == 1
    assert "first batch of 2×2×48×64 took" in backend.notes[0]
    backend.run(window, ["change"])
    assert len(backend.notes) == 1


def test_without_torch_the_extra_is_named(released, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs torch, safetensors, .* pip install 'tuban\[train\]'"):
        open_backend("torch", released)


def test_a_bundle_without_safetensors_says_so(bundle):
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        open_backend("torch", bundle)


def test_weights_of_another_network_are_refused(stub, released, tmp_path):
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    calibration = {"slope": 1.5, "intercept": -0.5}
    with pytest.raises(ModelError, match="does not fit the network"):
        open_backend("torch", stub.make_bundle(tmp_path, calibration=calibration, network=released.network))
    with pytest.raises(ModelError, match="holds a graph only"):
        open_backend("torch", stub.make_bundle(tmp_path, calibration=calibration))


def test_a_network_without_its_calibration_is_refused(stub, released, tmp_path):
    shutil.copy(released.weights_path, tmp_path)
    same = {"mean": released.mean, "std": released.std, "classes": released.classes, "network": released.network}
    with pytest.raises(ModelError, match="no calibration"):
        open_backend("torch", stub.make_bundle(tmp_path, **same))


def test_a_batch_of_other_bands_is_a_model_error(released):
    feeds = dict.fromkeys(("before", "after"), np.zeros((1, 5, 16, 16), np.float32))
    with pytest.raises(ModelError, match=r"torch failed on a batch of 1×5×16×16"):
        open_backend("torch", released, threads=1, device="cpu").run(feeds, ["change"])
