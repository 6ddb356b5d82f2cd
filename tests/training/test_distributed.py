"""Two CPU processes against one with twice the batch."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tuban.training.app import run
from tuban.training.fit import synchronised
from tuban.training.settings import TrainSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    # Of torch's own reduction of gradients.
    pytest.mark.filterwarnings("ignore:.*find_unused_parameters=True was specified"),
]


def settings(root: Path, out: Path, *, devices: int, batch: int) -> dict:
    return {
        "out": str(out), "threads": 1, "loggers": [], "accelerator": "cpu", "devices": devices,
        "model": {"initialise": None, "depth": 2, "width": [8, 8], "stem": 4},
        "data": {"root": str(root), "crop": 32, "validation": ["two"], "workers": 0},
        "augment": {"paste": 0.5},
        # Normalisation over the crops of one process cannot be the same as over those of two.
        "optim": {"steps": 3, "batch": batch, "precision": "32-true", "ema": 0.5, "freeze_norm": True, "lr": 0.01},
        "loss": {"change": {"bce": 1, "dice": 1, "lovasz": 1}, "landcover": {"ce": 1, "dice": 1}},
        "validation": {"every": 3, "panels": 0},
    }  # fmt: skip


def test_two_processes_train_as_one_with_twice_the_batch(place_factory, tmp_path):
    for seed, name in enumerate(("one", "two")):
        place_factory(tmp_path / "data" / name, seed)
    one = run(settings(tmp_path / "data", tmp_path / "a", devices=1, batch=4))
    two = run(settings(tmp_path / "data", tmp_path / "b", devices=2, batch=2))
    assert one["crops"] == two["crops"] == 12
    assert two["processes"] == 2
    assert json.loads((tmp_path / "b" / "train.json").read_text())["steps"] == 3
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("a", "b"))
    apart = torch.cat([(tensor.float() - second[name].float()).abs().flatten() for name, tensor in first.items()])
    # Adam turns rounding into a whole step where a gradient is all but 0; other gradients would part most weights.
    assert float((apart > 2e-4).float().mean()) < 1e-3
    assert float(apart.max()) < 0.03
    for name, value in one["measured"].items():
        assert two["measured"][name] == pytest.approx(value, abs=0.02)


@pytest.mark.parametrize(
    ("accelerator", "gpu", "devices", "together"),
    [("auto", False, 2, False), ("auto", True, 2, True), ("cpu", True, 2, False), ("gpu", True, 1, False)],
)
def test_normalisation_is_synchronised_on_gpus_alone(monkeypatch, accelerator, gpu, devices, together):
    """torch refuses it on a CPU, which `auto` is where there is no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    plan = {"accelerator": accelerator, "devices": devices, "data": {"root": "anywhere"}}
    assert synchronised(TrainSettings.model_validate(plan)) == together
