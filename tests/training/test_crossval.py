import json

import numpy as np
import pytest

from tuban.errors import UsageError
from tuban.training.crossval import FOLDS, fit_platt, report
from tuban.training.release import metrics


def write(folder, *, useful: bool) -> None:
    rng = np.random.default_rng(0)
    for fold, places in FOLDS.items():
        (folder / fold).mkdir()
        (folder / fold / "train.json").write_text(json.dumps({"seconds": 1.0}))
        for place in places:
            label = (rng.random((60, 60)) < 0.1).astype(np.uint8)
            logit = rng.normal(0, 1, label.shape) + (4.0 * label - 3 if useful else -2)
            np.savez(
                folder / fold / f"{place}.npz",
                logit=logit, difference=rng.random(label.shape), change=label,
                landcover=np.zeros((2, 60, 60), np.uint8), weak=np.zeros((2, 60, 60), np.uint8),
                confidence=np.full((2, 60, 60), 255, np.uint8),
            )  # fmt: skip


def test_a_useful_network_is_told_from_a_useless_one(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir(), bad.mkdir()
    write(good, useful=True)
    write(bad, useful=False)
    assert report(good)["network"]["f1"] > 0.7
    assert report(good)["network"]["ece"] < 0.02
    assert report(bad)["network"]["f1"] < 0.25
    assert abs(report(bad)["network"]["auc"] - 0.5) < 0.05
    assert report(good)["landcover_agreement"]["overall"] == 1.0


def test_no_place_chooses_its_own_threshold(tmp_path):
    """Turn one fold's scores upside down: its own threshold must not follow, or its F1 would not collapse."""
    write(tmp_path, useful=True)
    path = tmp_path / "beirut" / "beirut.npz"
    stored = dict(np.load(path))
    before = report(tmp_path)["network"]["places"]["beirut"]
    stored["logit"] = -stored["logit"]
    np.savez(path, **stored)
    after = report(tmp_path)["network"]["places"]["beirut"]
    assert after["threshold"] == before["threshold"]
    assert after["f1"] < 0.2 < before["f1"]


def test_platt_recovers_a_known_miscalibration():
    rng = np.random.default_rng(0)
    true = rng.normal(-1, 1.5, 200_000)
    label = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(np.uint8)
    slope, intercept = fit_platt([(true - 0.7) * 2], [label])
    assert slope == pytest.approx(0.5, abs=0.02)
    assert intercept == pytest.approx(0.7, abs=0.03)


def test_a_missing_place_is_named(tmp_path):
    with pytest.raises(UsageError, match="is missing"):
        report(tmp_path)


def test_a_release_takes_its_numbers_from_the_crossvalidation(tmp_path):
    write(tmp_path, useful=True)
    measured = report(tmp_path)
    assert metrics(measured)["f1"] == measured["network"]["f1"]
    assert metrics(measured)["baseline_f1"] == measured["difference_baseline"]["f1"]
    assert "bercy" in metrics(measured)["method"]
