import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from tuban.errors import ModelError
from tuban.models.bundle import Bundle
from tuban.models.export import export_bundle, model_card, read_run
from tuban.models.network import ChangeNet, NetworkSpec
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
    return export_bundle(run, tmp_path_factory.mktemp("包 裹"), name="trial", version="1", facts=FACTS)


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


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no training run"):
        read_run(tmp_path)


def test_mlm_is_a_stac_item(bundle):
    item = json.loads((bundle.path / "mlm.json").read_text())
    assert item["type"] == "Feature"
    assert item["properties"]["mlm:framework"] == "PyTorch"
