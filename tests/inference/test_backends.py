from __future__ import annotations

import numpy as np
import pytest

from tuban.errors import ModelError
from tuban.inference.backends import OnnxBackend, open_backend


def test_onnx_names_itself_and_gives_three_outputs(bundle):
    backend = open_backend("auto", bundle, threads=1)
    values = np.random.default_rng(0).random((2, 2, 16, 20), dtype=np.float32)
    prediction = backend.run(values, values)
    assert backend.name == "onnx-cpu"
    assert prediction.landcover_before.shape == (2, 3, 16, 20)
    assert prediction.change.shape == (2, 16, 20)
    np.testing.assert_allclose(prediction.landcover_before.sum(axis=1), 1, atol=1e-6)
    assert not prediction.change.any()


def test_a_graph_of_other_bands_is_refused(stub, tmp_path):
    wrong = stub.make_bundle(tmp_path, stub.graph(channels=3))
    with pytest.raises(ModelError, match="3 channels, mlm.json says 2"):
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
        backend.run(*np.zeros((2, 1, 5, 8, 8), np.float32))


def test_torch_without_safetensors_says_so(bundle):
    pytest.importorskip("torch", reason="torch is an extra")
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        open_backend("torch", bundle)
