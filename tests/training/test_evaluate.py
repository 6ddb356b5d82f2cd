import json

import numpy as np
import pytest
import rasterio
import torch
from torchmetrics.functional.classification import binary_f1_score

from tuban.data.pair import open_pair
from tuban.errors import SceneError
from tuban.inference.change import predict_change
from tuban.models.bundle import resolve
from tuban.training.evaluate import evaluate, lines


def test_numbers_are_those_of_the_rasters(place_factory, tmp_path):
    place_factory(tmp_path / "data" / "one", 0)
    bundle = resolve("s2-change")
    result = evaluate(bundle, tmp_path / "data", tmp_path / "out")
    with open_pair(tmp_path / "data" / "one" / "before.tif", tmp_path / "data" / "one" / "after.tif") as pair:
        rasters = predict_change(pair, bundle, tmp_path / "rasters")
    with rasterio.open(rasters.probability) as source, rasterio.open(tmp_path / "data" / "one" / "change.tif") as truth:
        coded, label = source.read(1), truth.read(1)
    called = torch.from_numpy((coded != 255) & (coded / 254 >= np.ceil(bundle.threshold * 512) / 512))
    known = torch.from_numpy(coded != 255)
    expected = binary_f1_score(called[known].int(), torch.from_numpy(label.astype(int))[known])
    assert result["f1"] == pytest.approx(float(expected), abs=2e-4)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == result
    assert "| one |" in (tmp_path / "out" / "evaluation.md").read_text()


def test_places_seen_in_training_are_named():
    result = {
        "model": "m", "f1": 1, "f1_95": [1, 1], "precision": 1, "recall": 1, "auc": 1, "ece": 0, "threshold": 0.5,
        "objects": {"recall": 1, "precision": 1}, "places": {}, "seen_in_training": ["paris"],
    }  # fmt: skip
    assert "Trained on paris" in "\n".join(lines(result))


def test_nothing_labelled_is_an_error(place_factory, tmp_path):
    place_factory(tmp_path / "one", 0, labelled=False)
    with pytest.raises(SceneError, match="nothing to measure"):
        evaluate(resolve("s2-change"), tmp_path, tmp_path / "out")
