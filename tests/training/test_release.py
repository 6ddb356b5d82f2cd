"""From a run and what was measured of it to a bundle: every shape of measurement that there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from tuban.errors import UsageError
from tuban.models.network import NetworkSpec, build
from tuban.training.release import release
from tuban.training.train import save_weights

CARDS = Path(__file__).parents[2] / "configs" / "release"
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]
SMALL = {"depth": 2, "width": (16, 8)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    torch.manual_seed(0)
    rgb = ("B04", "B03", "B02")
    specs = {
        "change": NetworkSpec(rgb, (), (0.4,) * 3, (0.2,) * 3, **SMALL),
        "landcover": NetworkSpec(rgb, (1, 9), (0.4,) * 3, (0.2,) * 3, task="landcover", **SMALL),
    }
    root = tmp_path_factory.mktemp("runs")
    for name, spec in specs.items():
        (root / name).mkdir()
        save_weights(build(spec), root / name)
        (root / name / "train.json").write_text(json.dumps({"args": {"seed": 3}, "places": ["a"], "seconds": 1}))
    return root


def test_vhr_change_with_measurements_of_any_shape(runs, tmp_path):
    measured = {
        "threshold": 0.3,
        "calibration": {"slope": 2.0, "intercept": 1.0},
        "f1": 0.61,
        "places": {"x": {"f1": 0.5}},
    }
    (tmp_path / "m.json").write_text(json.dumps(measured))
    bundle = release(runs / "change", tmp_path / "m.json", tmp_path / "out", card="vhr-change")
    assert (bundle.threshold, bundle.units, bundle.classes) == (0.3, "byte", ())
    assert bundle.training["seed"] == 3
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert "| places: x: f1 | 0.5 |" in card
    assert "0.2–2 m pixels" in card


def test_vhr_landcover_without_measurements_says_so(runs, tmp_path):
    bundle = release(runs / "landcover", None, tmp_path, card="vhr-landcover")
    assert bundle.task == "landcover"
    assert "Nothing was measured." in (bundle.path / "MODEL_CARD.md").read_text()


def test_land_cover_of_a_crossval(runs, tmp_path):
    found = {
        "folds": {"a": ["x"], "b": ["y"]},
        "landcover_agreement": {"overall": 0.8, "f1_by_class_index": {"1": 0.7}},
    }
    (tmp_path / "crossval.json").write_text(json.dumps(found))
    card = (
        release(runs / "landcover", tmp_path, tmp_path / "o", card="vhr-landcover").path / "MODEL_CARD.md"
    ).read_text()
    assert "2 folds: 0.8" in card
    assert "| building | 0.7 |" in card


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_release_card_names_licences_and_limits(path):
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert card["name"] == path.stem
    assert len(card["training"]["licence"]) > 50
    assert card["training"]["limits"]
    assert card["pretrained"]


def test_a_card_that_does_not_exist_is_refused(runs, tmp_path):
    with pytest.raises(UsageError, match="no release card"):
        release(runs / "change", None, tmp_path, card="nothing")
