from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tuban.errors import ModelError, UsageError
from tuban.inference.backends import largest, open_backend
from tuban.inference.backends.interface import finish, needed

PATH = Path("m/model.onnx")


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=4, max_dims=4, max_side=5),
        # Few values, so that ties are common: numpy takes the first of equals.
        elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    )
)
def test_the_largest_is_numpys_argmax(probabilities):
    before = probabilities.copy()
    got = largest(probabilities)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, probabilities.argmax(axis=1))
    np.testing.assert_array_equal(probabilities, before)


def test_a_class_output_of_the_graph_comes_before_its_probabilities():
    assert needed(["landcover_class", "change"], ["landcover", "landcover_class", "change"], PATH) == [
        "landcover_class",
        "change",
    ]
    # An older graph: both are made of the same output, which is asked for once.
    assert needed(["landcover", "landcover_class"], ["landcover"], PATH) == ["landcover"]


def test_an_output_that_cannot_be_made_is_named():
    with pytest.raises(ModelError, match="has no output height; it has change"):
        needed(["height"], ["change"], PATH)


def test_classes_are_bytes_whoever_made_them():
    probabilities = np.array([0.2, 0.5, 0.3], np.float32).reshape(1, 3, 1, 1)
    own = finish({"landcover": probabilities}, ["landcover_class", "landcover", "landcover_confidence"])
    assert own["landcover_confidence"].item() == pytest.approx(0.5)
    assert own["landcover_class"].item() == 1
    assert own["landcover"] is probabilities
    graphs = finish({"landcover_class": np.full((1, 1, 1), 2, np.int64)}, ["landcover_class"])
    assert graphs["landcover_class"].dtype == own["landcover_class"].dtype == np.uint8
    assert graphs["landcover_class"].item() == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tflite", {}, "unknown backend 'tflite'; use auto, onnx, openvino or torch"),
        ("onnx", {"precision": "bf16"}, "onnx runs in f32; use backend openvino or torch"),
        ("auto", {"precision": "bf16"}, "auto runs in f32"),
        ("onnx", {"compiled": True}, "compile: true needs backend torch, not onnx"),
        ("onnx", {"device": "gpu"}, "device 'gpu' is not offered"),
        ("openvino", {"device": "cuda"}, "device 'cuda' is not one of OpenVINO's"),
        ("torch", {"device": "tensorrt"}, "device 'tensorrt' is not one of the torch backend"),
    ],
)
def test_what_a_backend_cannot_do_is_refused_with_what_can(released, name, options, message):
    if name in ("openvino", "torch"):
        pytest.importorskip(name, reason=f"{name} is an extra")
    with pytest.raises(UsageError, match=message):
        open_backend(name, released, **options)
