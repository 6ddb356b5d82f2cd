import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from tuban.errors import ModelError
from tuban.models.bundle import Bundle
from tuban.models.card import model_card
from tuban.models.export import export_bundle
from tuban.models.network import ChangeNet, NetworkSpec
from tuban.models.rebuild import rebuild
from tuban.models.run import read_run
from tuban.training.train import save_weights

_NUMBERS = ("f1", "precision", "recall", "average_precision", "auc", "ece", "object_recall", "object_precision")
_BASELINE = ("f1", "precision", "recall", "average_precision", "auc")
FACTS: dict[str, Any] = {
    "gsd_m": (8.0, 32.0),
    "required_bands": ("B02", "B03"),
    "change_to_classes": (18,),
    "threshold": 0.4,
    "calibration": {"slope": 1.5, "intercept": -0.5, "method": "Platt."},
    "metrics": {
        "method": "none",
        "landcover_agreement": 0.1,
        "recall_by_size_m2": {"2000+": {"truth": 3, "found": 1, "recall": 0.33}},
        "f1_95": [0, 1],
        "baseline_f1_95": [0, 1],
        "places": {"here": {"f1": 0.1, "precision": 0.1, "recall": 0.1, "auc": 0.1}},
        **dict.fromkeys(_NUMBERS, 0.1),
        **{f"baseline_{name}": 0.1 for name in _BASELINE},
    },
    "training": {
        **dict.fromkeys(("network", "data", "how", "command", "licence"), "none"),
        "parameters_m": 1.0,
        "limits": ["it knows nothing"],
    },
}

pytestmark = [
    # torch deprecates the tracing exporter, and parts it calls itself; docs/models.md says why it is used.
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_weights(ChangeNet(NetworkSpec(("B02", "B03", "B04"), (1, 18), (0.1,) * 3, (0.05,) * 3)), folder)
    return folder


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory) -> Bundle:
    return export_bundle([run], tmp_path_factory.mktemp("包 裹"), name="trial", version="1", facts=FACTS)


def test_a_bundle_loads_and_says_what_it_is(bundle):
    again = Bundle.load(bundle.path)
    assert again == bundle
    assert again.halo >= (again.receptive_reach or 0) > 0
    assert again.halo == again.reach
    assert again.halo % again.stride == 0
    assert sorted(path.name for path in bundle.path.iterdir()) == [
        "MODEL_CARD.md",
        "mlm.json",
        "model.onnx",
        "model.safetensors",
    ]


def test_onnx_gives_what_torch_gives_at_another_size(bundle, run):
    network = read_run(run).half().float()
    before, after = (torch.rand(1, 3, 48, 80) for _ in range(2))
    with torch.inference_mode():
        logits = network(before, after)
        change = torch.sigmoid(1.5 * logits.change - 0.5)
        expected = logits.landcover_before.softmax(1), logits.landcover_after.softmax(1), change
    session = onnxruntime.InferenceSession(bundle.onnx_path, providers=["CPUExecutionProvider"])
    got = session.run(
        ["landcover_before", "landcover_after", "change"], {"before": before.numpy(), "after": after.numpy()}
    )
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_card_prints_the_bundles_numbers(bundle):
    text = model_card(bundle)
    assert "it knows nothing" in text
    assert f"halo of {bundle.halo}" in text


def test_change_without_land_cover_is_shipped(tmp_path):
    network = ChangeNet(NetworkSpec(("B04", "B03", "B02"), (), (0.4,) * 3, (0.2,) * 3, depth=2, width=(16, 8)))
    save_weights(network, tmp_path)
    facts = FACTS | {"required_bands": ("B04",), "gsd_m": (0.2, 2.0), "units": "byte", "metrics": {"f1": 0.25}}
    made = export_bundle([tmp_path], tmp_path / "b", name="vhr", version="1", facts=facts)
    assert (made.classes, made.change_to_classes, made.units) == ((), (18,), "byte")
    item = json.loads((made.path / "mlm.json").read_text())
    assert [output["name"] for output in item["properties"]["mlm:output"]] == ["change"]
    assert "8-bit numbers" in item["properties"]["mlm:input"][0]["description"]
    card = (made.path / "MODEL_CARD.md").read_text()
    assert "| f1 | 0.25 |" in card
    assert "the first is assumed" in card
    before, after = (torch.rand(1, 3, 16, 24) for _ in range(2))
    with torch.inference_mode():
        expected = torch.sigmoid(1.5 * network.eval()(before, after).change - 0.5)
        torch.testing.assert_close(rebuild(made)(before, after)[0], expected, rtol=0, atol=2e-3)


def test_the_land_cover_half_of_a_change_run_is_shipped(run, tmp_path):
    facts = FACTS | {"task": "landcover", "metrics": {}}
    made = export_bundle([run], tmp_path, name="half", version="1", facts=facts)
    assert made.task == "landcover"
    item = json.loads((made.path / "mlm.json").read_text())
    assert [entry["name"] for entry in item["properties"]["mlm:input"]] == ["image"]
    image = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        expected = read_run(run)(image, image).landcover_before.softmax(1)
        torch.testing.assert_close(rebuild(made)(image)[0], expected, rtol=0, atol=2e-3)


def test_weights_that_do_not_fit_are_refused_in_one_line(run, tmp_path):
    other = json.loads((run / "spec.json").read_text()) | {"stem": 8}
    (tmp_path / "spec.json").write_text(json.dumps(other))
    (tmp_path / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes())
    with pytest.raises(ModelError, match="do not fit"):
        read_run(tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no training run"):
        read_run(tmp_path)


def test_mlm_is_a_stac_item(bundle):
    item = json.loads((bundle.path / "mlm.json").read_text())
    assert item["type"] == "Feature"
    assert item["properties"]["mlm:framework"] == "PyTorch"
