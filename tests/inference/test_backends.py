from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from tuban.errors import ModelError
from tuban.inference.backends import OnnxBackend, open_backend

OUTPUTS = ("landcover_before", "landcover_after", "change")


def test_onnx_names_itself_and_gives_three_outputs(bundle):
    backend = open_backend("auto", bundle, threads=1)
    values = np.random.default_rng(0).random((2, 2, 16, 20), dtype=np.float32)
    made = backend.run({"before": values, "after": values}, OUTPUTS)
    assert backend.name == "onnx-cpu"
    assert made["landcover_before"].shape == (2, 3, 16, 20)
    assert made["change"].shape == (2, 16, 20)
    np.testing.assert_allclose(made["landcover_before"].sum(axis=1), 1, atol=1e-6)
    assert not made["change"].any()


def test_a_graph_of_other_bands_is_refused(stub, tmp_path):
    wrong = stub.make_bundle(tmp_path, stub.graph(channels=3))
    with pytest.raises(ModelError, match=r"3 channels, mlm\.json says 2"):
        OnnxBackend(wrong)


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
        backend.run(dict.fromkeys(("before", "after"), np.zeros((1, 5, 8, 8), np.float32)), OUTPUTS)


def test_torch_without_safetensors_says_so(bundle):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is an extra")
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        open_backend("torch", bundle)


def test_torch_rebuilds_the_network_from_safetensors(stub, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from safetensors.torch import save_file

    from tuban.models.network import ChangeNet, Deployed, NetworkSpec

    torch.manual_seed(0)
    bands, classes, mean, std = stub.bands, (1, 7, 18), (0.25, 0.5), (1.0, 1.0)
    network = ChangeNet(NetworkSpec(bands=bands, classes=classes, mean=mean, std=std)).half().float().eval()
    state = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    calibration = {"slope": 1.5, "intercept": -0.5}
    bundle = stub.make_bundle(tmp_path, calibration=calibration)

    before, after = np.random.default_rng(0).random((2, 1, 2, 32, 32), dtype=np.float32)
    before[0, :, 3, 3] = np.nan
    with torch.inference_mode():
        expected = Deployed(network, 1.5, -0.5)(torch.from_numpy(before), torch.from_numpy(after))
    backend = open_backend("torch", bundle, threads=1)
    assert backend.name.startswith("torch-")
    made = backend.run({"before": before, "after": after}, OUTPUTS)
    for name, wanted in zip(OUTPUTS, expected, strict=True):
        np.testing.assert_allclose(made[name], wanted.numpy(), atol=1e-4)

    with pytest.raises(ModelError, match="no calibration"):
        open_backend("torch", stub.make_bundle(tmp_path))
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="does not fit the network"):
        open_backend("torch", stub.make_bundle(tmp_path, calibration=calibration))
