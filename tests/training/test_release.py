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
    bundle = release([runs / "change"], tmp_path / "m.json", tmp_path / "out", card="vhr-change")
    assert (bundle.threshold, bundle.units, bundle.classes) == (0.3, "byte", ())
    assert bundle.training["seed"] == 3
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert "| places: x: f1 | 0.5 |" in card
    assert "0.2–2 m pixels" in card


def test_vhr_landcover_without_measurements_says_so(runs, tmp_path):
    bundle = release([runs / "landcover"], None, tmp_path, card="vhr-landcover")
    assert bundle.task == "landcover"
    assert "Nothing was measured." in (bundle.path / "MODEL_CARD.md").read_text()


def test_land_cover_of_a_crossval(runs, tmp_path):
    found = {
        "folds": {"a": ["x"], "b": ["y"]},
        "landcover_agreement": {"overall": 0.8, "f1_by_class_index": {"1": 0.7}},
    }
    (tmp_path / "crossval.json").write_text(json.dumps(found))
    card = (
        release([runs / "landcover"], tmp_path, tmp_path / "o", card="vhr-landcover").path / "MODEL_CARD.md"
    ).read_text()
    assert "2 folds: 0.8" in card
    assert "| building | 0.7 |" in card


def crossval(f1: float) -> dict[str, object]:
    numbers = dict.fromkeys(("f1", "precision", "recall", "average_precision", "auc", "ece"), f1) | {"f1_95": [0, 1]}
    place = dict.fromkeys(("f1", "precision", "recall", "auc"), f1)
    return {
        "folds": {"a": ["x"], "b": ["y"]},
        "network": numbers | {"places": {"x": place, "y": place}},
        "difference_baseline": numbers,
        "one_threshold": {"f1": f1, "f1_95": [0, 1]},
        "objects": {"recall": f1, "precision": f1},
        "object_matching": {"recall": f1, "recall_95": [0, 1], "precision": f1, "precision_95": [0, 1]},
        "recall_by_size_m2": {},
        "calibration": {"slope": 1 + f1, "intercept": 0.5},
        "threshold": f1,
        "landcover_agreement": {"overall": 0.0, "f1_by_class_index": {}},
    }


def test_members_take_threshold_and_calibration_of_the_ensemble(runs, tmp_path):
    spread = {"f1": {"mean": 0.25, "std": 0.02, "min": 0.24, "max": 0.26}}
    ensemble = crossval(0.625) | {"members": 2, "seeds": [0, 1], "smooth": 1.5}
    (tmp_path / "crossval.json").write_text(json.dumps(crossval(0.25) | {"spread": spread, "ensemble": ensemble}))
    card = yaml.safe_load((CARDS / "vhr-change.yaml").read_text(encoding="utf-8")) | {"smooth": 1.5, "gsd_m": [8, 32]}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    both = [runs / "change", runs / "change"]
    bundle = release(both, tmp_path, tmp_path / "pair", card=str(tmp_path / "card.yaml"))
    assert (bundle.threshold, bundle.calibration["slope"]) == (0.625, 1.625)
    assert (bundle.network["members"], bundle.network["smooth"]) == (2, 1.5)
    text = (bundle.path / "MODEL_CARD.md").read_text()
    assert "the mean of 2 networks (seeds 0, 1), its change logits smoothed by 1.5 px, that saw neither" in text
    assert "Each seed alone, unsmoothed: F1 0.25 ± 0.02" in text
    assert "Matched one to one at an IoU of 0.25, 0.625" in text
    # One run alone, unsmoothed, is what the first seed measured.
    alone = release(both[:1], tmp_path, tmp_path / "alone", card="vhr-change")
    assert (alone.threshold, alone.network.get("members")) == (0.25, None)
    with pytest.raises(UsageError, match=r"2 members smoothed by 1.5 px, and the export has 2 smoothed by 0 px"):
        release(both, tmp_path, tmp_path / "other", card="vhr-change")


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_release_card_names_licences_and_limits(path):
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert card["name"] == path.stem
    assert len(card["training"]["licence"]) > 50
    assert card["training"]["limits"]
    assert card["pretrained"]


def test_a_card_that_does_not_exist_is_refused(runs, tmp_path):
    with pytest.raises(UsageError, match="no release card"):
        release([runs / "change"], None, tmp_path, card="nothing")
