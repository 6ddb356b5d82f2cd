from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tuban.errors import MissingExtraError, ModelError, UsageError
from tuban.inference.backends import open_backend
from tuban.inference.backends import openvino as module

pytest.importorskip("onnx", reason="makes the bundle")
if not module.importlib.util.find_spec("openvino"):
    pytest.skip("openvino is an extra", allow_module_level=True)

OUTPUTS = ("landcover_before", "landcover_after", "change")


def test_it_agrees_with_onnx(released, window):
    expected = open_backend("onnx", released, threads=1).run(window, OUTPUTS)
    backend = open_backend("openvino", released, threads=1, sample=window)
    made = backend.run(window, [*OUTPUTS, "landcover_after_class"])
    assert backend.name == "openvino-cpu"
    for name in OUTPUTS:
        assert made[name].dtype == np.float32
        np.testing.assert_allclose(made[name], expected[name], atol=1e-4)
    np.testing.assert_array_equal(made["landcover_after_class"], expected["landcover_after"].argmax(axis=1))


def test_what_was_given_stays_what_it_is(released, window):
    """A runtime that hands out its own memory would overwrite one window's results with the next one's."""
    backend = open_backend("openvino", released, threads=1)
    first = backend.run(window, ["change"])["change"]
    kept = first.copy()
    backend.run({name: feed[:, :, ::-1] for name, feed in window.items()}, ["change"])
    np.testing.assert_array_equal(first, kept)


def test_shapes_come_and_go(released, window):
    onnx, backend = (open_backend(name, released, threads=1) for name in ("onnx", "openvino"))
    for height, width in [(48, 64), (32, 32), (16, 48), (48, 64)]:
        crop = {name: feed[:1, :, :height, :width] for name, feed in window.items()}
        expected = onnx.run({name: feed.copy() for name, feed in crop.items()}, ["change"])["change"]
        np.testing.assert_allclose(backend.run(crop, ["change"])["change"], expected, atol=1e-4)
    assert len(backend._compiled) == 2


def test_bfloat16_only_when_asked_for_and_said(released, window):
    backend = open_backend("openvino", released, threads=1)
    able = "BF16" in backend._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if not able:
        with pytest.raises(UsageError, match="does not compute in bfloat16; use precision=f32"):
            open_backend("openvino", released, precision="bf16")
        return
    half = open_backend("openvino", released, threads=1, precision="bf16")
    assert half.name == "openvino-cpu-bf16"
    exact, rough = (b.run(window, ["change"])["change"] for b in (backend, half))
    difference = float(np.abs(exact - rough).max())
    assert 1e-5 < difference < 0.2, "bf16 that changes nothing was not used"


def test_a_graph_that_is_none_is_refused(stub, tmp_path):
    class Nonsense:
        @staticmethod
        def SerializeToString():  # noqa: N802
            return b"not a graph"

    with pytest.raises(ModelError, match="cannot be loaded"):
        open_backend("openvino", stub.make_bundle(tmp_path, Nonsense()))


def test_a_batch_of_other_bands_is_a_model_error(released):
    with pytest.raises(ModelError, match=r"failed on a batch of 1×5×16×16"):
        open_backend("openvino", released).run(
            dict.fromkeys(("before", "after"), np.zeros((1, 5, 16, 16), np.float32)), ["change"]
        )


def test_without_openvino_the_extra_is_named(released, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tuban\[openvino\]', or use --backend onnx"):
        open_backend("openvino", released)


def test_nobody_is_told_that_it_was_imported(tmp_path):
    """`import openvino` alone reports to Google Analytics and writes ~/intel; onnxruntime to Microsoft and ~/.cache."""
    script = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(watch)
from tuban.inference.backends.openvino import load
load().Core()
sys.exit("telemetry" if [name for name in sys.modules if name.startswith("openvino_telemetry.")] else 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
