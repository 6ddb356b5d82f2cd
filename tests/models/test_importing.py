"""Models made elsewhere: a graph in another layout and other units, plain weights, and what is refused."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from scipy.special import expit

from tuban.errors import MissingExtraError, ModelError, UsageError
from tuban.models.import_card import read_card
from tuban.models.importing import import_model

if TYPE_CHECKING:
    from tuban.models.bundle import Bundle

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]
CHANGE = {
    "name": "theirs", "version": 2, "task": "change", "bands": ["B04", "B03"], "gsd_m": [0.2, 1.0], "units": "byte",
    "mean": [0.4, 0.3], "change_to_classes": [9], "stride": 8, "halo": 8,
}  # fmt: skip


def pixelwise(
    inputs: list[str], channels: int, weights: np.ndarray, *, nhwc: bool = False, side: object = None, opset: int = 13
):
    """A graph that weighs the channels of its (concatenated) inputs pixel by pixel."""
    places = ["n", side or "h", side or "w", channels] if nhwc else ["n", channels, side or "h", side or "w"]
    nodes = [helper.make_node("Concat", inputs, ["x"], axis=3 if nhwc else 1)]
    if nhwc:
        nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
    else:
        nodes.append(helper.make_node("Conv", ["x", "w"], ["y"]))
        weights = weights.T[:, :, None, None]
    out = ["n", None, None, None]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, places) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def card(path, **changes):
    path.write_text(yaml.safe_dump(CHANGE | changes))
    return str(path)


def run(bundle: Bundle, wanted: list[str], **feeds: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(bundle.onnx_path, providers=["CPUExecutionProvider"]).run(wanted, feeds)


def test_dynamic_world_is_normalised_merged_and_classified_as_its_notebook_does(tmp_path):
    """The graph is made by hand (9 bands in, 9 classes out, NHWC); what is around it is what Dynamic World needs."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(9, 9)) * 3
    onnx.save(pixelwise(["serving_input"], 9, weights, nhwc=True), str(tmp_path / "forward.onnx"))
    bundle = import_model(tmp_path / "forward.onnx", tmp_path / "out", card="dynamicworld")
    assert (bundle.task, bundle.classes, bundle.receptive_reach) == ("landcover", (7, 4, 5, 6, 1, 18, 12, 17), None)
    image = rng.uniform(0.01, 0.6, (2, 9, 32, 64)).astype(np.float32)
    cover, best, confidence = run(bundle, ["landcover", "landcover_class", "landcover_confidence"], image=image)
    # As published: numbers of TOA x 10000, logarithm, percentiles, sigmoid; softmax over nine classes.
    graph = read_card("dynamicworld").described
    low, high = -np.array(graph.steps[4]["add"]), np.array(graph.steps[5]["divide"])
    x = (np.log(image.transpose(0, 2, 3, 1) * 10_000 * 0.005 + 1) - low) / high
    x = np.exp(x * 5 - 1)
    scores = (x / (x + 1)) @ weights
    nine = np.exp(scores - scores.max(-1, keepdims=True))
    nine /= nine.sum(-1, keepdims=True)
    merged = np.stack(
        [*(nine[..., i] for i in (0, 1)), nine[..., 2] + nine[..., 5], *(nine[..., i] for i in (3, 4, 6, 7, 8))]
    )
    np.testing.assert_allclose(cover, merged.transpose(1, 0, 2, 3), atol=1e-5)
    np.testing.assert_allclose(confidence, cover.max(1), atol=1e-6)
    assert np.array_equal(best, cover.argmax(1))
    assert "Apache-2.0" in (bundle.path / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("opset", [17, 18, 21])
def test_a_land_cover_graph_of_any_opset_is_taken(tmp_path, opset):
    """PyTorch writes 18 and later by default."""
    onnx.save(pixelwise(["x0"], 9, np.eye(9), nhwc=True, opset=opset), str(tmp_path / "m.onnx"))
    bundle = import_model(tmp_path / "m.onnx", tmp_path / "out", card="dynamicworld")
    image = np.random.default_rng(3).uniform(0.01, 0.6, (1, 9, 32, 32)).astype(np.float32)
    cover, confidence = run(bundle, ["landcover", "landcover_confidence"], image=image)
    np.testing.assert_array_equal(confidence, cover.max(1))


def test_a_graph_is_tried_at_multiples_of_its_stride(tmp_path):
    """As a vision transformer of patches of 14: any other side comes out smaller than it went in."""
    model = pixelwise(["x0"], 9, np.eye(9))
    cells = {"kernel_shape": [14, 14], "strides": [14, 14]}
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 14, 14], np.float32), "fourteen"))
    model.graph.node.append(helper.make_node("AveragePool", ["y"], ["patches"], **cells))
    model.graph.node.append(helper.make_node("Resize", ["patches", "", "fourteen"], ["raised"], mode="nearest"))
    model.graph.output[0].name = "raised"
    onnx.save(model, str(tmp_path / "m.onnx"))
    said = card(
        tmp_path / "c.yaml", task="landcover", bands=[f"B0{i}" for i in range(1, 9)] + ["B11"], mean=[0.2] * 9,
        classes=[1, 4, 5, 6, 7, 9, 12, 17, 18], change_to_classes=[], stride=14, halo=14,
        graph={"activation": "softmax"},
    )  # fmt: skip
    assert import_model(tmp_path / "m.onnx", tmp_path / "out", card=said).stride == 14


def test_a_graph_of_one_image_at_a_time_is_taken_and_says_so(tmp_path):
    model = pixelwise(["x0"], 9, np.eye(9), nhwc=True)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 0, 0, 9], np.int64), "one"))
    model.graph.node.insert(1, helper.make_node("Reshape", ["x", "one"], ["reshaped"]))
    model.graph.node[2].input[0] = "reshaped"
    onnx.save(model, str(tmp_path / "m.onnx"))
    bundle = import_model(tmp_path / "m.onnx", tmp_path / "out", card="dynamicworld")
    assert "one image at a time" in (bundle.path / "MODEL_CARD.md").read_text()
    image = np.full((1, 9, 32, 64), 0.2, np.float32)
    assert run(bundle, ["landcover"], image=image)[0].shape == (1, 8, 32, 64)


CONVERTER = """#!{python}
# Stands in for a Python with TensorFlow, which tests cannot install: of an unsigned SavedModel tf2onnx says this.
import shutil, sys
if "--signature_def" in sys.argv and {unsigned}:
    sys.exit("ValueError: make_sure failure: Specified signature not in model serving_default")
if "--concrete_function" in sys.argv and not {unsigned}:
    sys.exit("it was not asked for")
shutil.copy({graph!r}, sys.argv[sys.argv.index("--output") + 1])
"""


@pytest.mark.parametrize("unsigned", [True, False])
def test_a_saved_model_with_and_without_a_signature_is_converted(tmp_path, unsigned):
    onnx.save(pixelwise(["x0"], 9, np.eye(9), nhwc=True), str(tmp_path / "m.onnx"))
    python = tmp_path / "python"
    python.write_text(CONVERTER.format(python=sys.executable, unsigned=unsigned, graph=str(tmp_path / "m.onnx")))
    python.chmod(0o755)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    bundle = import_model(tmp_path, tmp_path / "out", card="dynamicworld", python=python)
    assert bundle.task == "landcover"


def test_a_missing_band_is_the_cards_mean(tmp_path):
    onnx.save(pixelwise(["x0"], 9, np.eye(9), nhwc=True), str(tmp_path / "m.onnx"))
    bundle = import_model(tmp_path / "m.onnx", tmp_path / "out", card="dynamicworld")
    image = np.full((1, 9, 32, 32), 0.2, np.float32)
    filled = image.copy()
    image[:, 3] = np.nan
    filled[:, 3] = bundle.mean[3]
    np.testing.assert_array_equal(
        run(bundle, ["landcover"], image=image)[0], run(bundle, ["landcover"], image=filled)[0]
    )


@pytest.mark.parametrize("inputs", [["one"], ["old", "new"]])
def test_a_change_graph_of_one_or_two_inputs(tmp_path, inputs):
    """A graph of one input is fed both dates' channels, one date after the other."""
    weights = np.array([[0.0, -4], [0, 0], [0, 4], [0, 0]])
    model = pixelwise(inputs, 4 // len(inputs), weights)
    onnx.save(model, str(tmp_path / "change.onnx"))
    said = card(tmp_path / "c.yaml", graph={"activation": "softmax", "channel": 1, "steps": [{"multiply": 255.0}]})
    bundle = import_model(tmp_path / "change.onnx", tmp_path / "out", card=said)
    assert (bundle.version, bundle.units, bundle.classes) == ("2", "byte", ())
    before, after = np.random.default_rng(1).random((2, 1, 2, 16, 24)).astype(np.float32)
    (change,) = run(bundle, ["change"], before=before, after=after)
    expected = expit(4 * 255 * (after[:, 0] - before[:, 0]).astype(np.float64))
    np.testing.assert_allclose(change, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        ({"inputs": ["wrong"]}, "correct graph.inputs"),
        ({"output": "wrong"}, "correct graph.output"),
        ({"activation": "none", "channel": 1, "steps": [{"multiply": 9.0}]}, "not probabilities"),
        ({"activation": "sigmoid"}, "correct the card's classes, channel or layout"),
        ({"activation": "sigmoid", "layout": "nhwc", "channel": 0}, "does not run"),
    ],
)
def test_a_card_that_does_not_describe_the_graph_is_refused(tmp_path, graph, said):
    onnx.save(pixelwise(["old", "new"], 2, np.array([[0, 9.0]] * 4)), str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match=said):
        import_model(tmp_path / "m.onnx", tmp_path / "out", card=card(tmp_path / "c.yaml", graph=graph))
    assert list((tmp_path / "out").glob("*")) == []


def test_a_graph_that_is_none_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="no ONNX graph"):
        import_model(tmp_path / "m.onnx", tmp_path / "out", card=card(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mean": [0.1]}, "one number for each"),
        ({"graph": {"steps": [{"square": 2}]}}, "steps"),
        ({"colour": 1}, "colour"),
        ({"task": "landcover"}, "needs classes"),
        ({"graph": {"steps": [{"clip": [1.0]}]}}, "clip needs the largest"),
        ({"graph": {"steps": [{"clip": None}]}}, "clip needs a number"),
        ({"training": {"limits": 3}}, "limits are a list"),
    ],
)
def test_a_wrong_card_is_refused(tmp_path, changes, said):
    with pytest.raises(UsageError, match=said):
        read_card(card(tmp_path / "c.yaml", **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "My Model"}, "'My Model': name"),
        ({"change_to_classes": [99]}, r"classes \[99\] are not unified classes"),
        ({"gsd_m": [0, 1.0]}, "gsd_m.0"),
        ({"training": {"trained": dt.date(2024, 1, 1)}}, "training.trained"),
    ],
)
def test_a_card_that_no_bundle_could_declare_is_refused_in_a_line(tmp_path, changes, said):
    onnx.save(pixelwise(["old", "new"], 2, np.array([[0, 9.0]] * 4)), str(tmp_path / "m.onnx"))
    graph = {"activation": "softmax", "channel": 1}
    with pytest.raises(UsageError, match=f"{said}.*correct the card"):
        import_model(tmp_path / "m.onnx", tmp_path / "out", card=card(tmp_path / "c.yaml", graph=graph, **changes))
    assert list((tmp_path / "out").glob("*")) == []


def test_a_card_may_hold_any_measurement_and_one_limit(tmp_path):
    """Some are called as tuban's own are, whose tables need all of them."""
    onnx.save(pixelwise(["old", "new"], 2, np.array([[0, 9.0]] * 4)), str(tmp_path / "m.onnx"))
    said = card(
        tmp_path / "c.yaml", graph={"activation": "softmax", "channel": 1}, training={"limits": "Towns only."},
        metrics={"f1": 0.61, "baseline_f1": 0.5, "f1_by_class_index": {"0": 0.7}},
    )  # fmt: skip
    bundle = import_model(tmp_path / "m.onnx", tmp_path / "out", card=said)
    text = (bundle.path / "MODEL_CARD.md").read_text()
    assert "| baseline f1 | 0.5 |" in text
    assert "\n- Towns only.\n" in text
    framework = json.loads((bundle.path / "mlm.json").read_text())["properties"]["mlm:framework"]
    assert framework == "ONNX"


WEIGHTS = {
    "name": "their-unet", "version": "1", "task": "landcover", "bands": ["B04", "B03", "B02"], "gsd_m": [0.2, 1.0],
    "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "classes": [1, 4, 9], "required_bands": ["B04"],
    "network": {"encoder": "resnet18", "depth": 3, "width": [16, 12, 8], "architecture": "Unet"},
}  # fmt: skip


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return smp.Unet("resnet18", encoder_depth=3, encoder_weights=None, decoder_channels=(16, 12, 8), classes=3).eval()


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_plain_unet_of_smp_gives_the_same_as_a_bundle(tmp_path, unet, kind):
    path = tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in unet.state_dict().items()}}, path)
    else:
        save_file(unet.state_dict(), str(path))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(WEIGHTS))
    bundle = import_model(path, tmp_path / "out", card=str(tmp_path / "c.yaml"))
    # What was cut off the encoder at this depth is named, not silently dropped.
    assert any("layer4" in name for name in bundle.training["weights_left_out"])
    image = np.random.default_rng(2).random((1, 3, 32, 48)).astype(np.float32)
    (cover,) = run(bundle, ["landcover"], image=image)
    with torch.inference_mode():
        expected = unet((torch.from_numpy(image) - 0.4) / 0.2).softmax(1)
    np.testing.assert_allclose(cover, expected, atol=2e-3)  # weights are stored in half precision


def test_weights_that_are_fed_plain_numbers_are_refused(tmp_path, unet):
    """0 to 255, say: all of it would be cut at six deviations, and the map would be of one class."""
    save_file(unet.state_dict(), str(tmp_path / "w.safetensors"))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(WEIGHTS | {"mean": [0.0] * 3, "std": [1 / 255] * 3}))
    with pytest.raises(UsageError, match="ONNX graph whose steps"):
        import_model(tmp_path / "w.safetensors", tmp_path / "out", card=str(tmp_path / "c.yaml"))


def test_weights_of_another_network_are_refused(tmp_path, unet):
    save_file(unet.state_dict(), str(tmp_path / "w.safetensors"))
    other = WEIGHTS | {"network": WEIGHTS["network"] | {"width": [16, 12, 10]}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(ModelError, match="correct `network`"):
        import_model(tmp_path / "w.safetensors", tmp_path / "out", card=str(tmp_path / "c.yaml"))


class Evil:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_never_run(tmp_path):
    torch.save({"state_dict": Evil(tmp_path / "was-here")}, tmp_path / "evil.pth")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(WEIGHTS))
    with pytest.raises(ModelError, match="more than tensors"):
        import_model(tmp_path / "evil.pth", tmp_path / "out", card=str(tmp_path / "c.yaml"))
    assert not (tmp_path / "was-here").exists()


def test_a_saved_model_without_tensorflow_says_the_remedy(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else real(name))
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"pip install tensorflow-cpu tf2onnx.*import model\.onnx"):
        import_model(tmp_path, tmp_path / "out", card="dynamicworld")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no model that can be imported"):
        import_model(tmp_path / "model.h5", tmp_path / "out", card="dynamicworld")
    with pytest.raises(UsageError, match="no import card"):
        read_card("deepworld")
