import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tuban.errors import UsageError
from tuban.training.app import run, told
from tuban.training.crossval import folds_of, spread
from tuban.training.crossval_report import report
from tuban.training.release import metrics
from tuban.training.settings import TrainSettings

FOLDS = {"paris": ("paris", "bercy"), "dry": ("abudhabi",), "beirut": ("beirut",)}


def write(folder: Path, *, useful: bool, record: bool = True) -> None:
    rng = np.random.default_rng(0)
    for fold, places in FOLDS.items():
        (folder / fold).mkdir()
        held_out = {"holdout": [*places, "unlabelled"]} if record else {}
        (folder / fold / "train.json").write_text(json.dumps({"seconds": 1.0} | held_out))
        for place in (*places, "unlabelled"):
            label = (rng.random((60, 60)) < 0.1).astype(np.uint8)
            logit = rng.normal(0, 1, label.shape) + (4.0 * label - 3 if useful else -2)
            np.savez(
                folder / fold / f"{place}.npz",
                logit=logit, difference=rng.random(label.shape),
                change=label if place != "unlabelled" else np.full_like(label, 255),
                landcover=np.zeros((2, 60, 60), np.uint8), weak=np.zeros((2, 60, 60), np.uint8),
                confidence=np.full((2, 60, 60), 255, np.uint8),
            )  # fmt: skip


@pytest.mark.parametrize("record", [True, False])  # runs of earlier versions do not say what they held out
def test_a_useful_network_is_told_from_a_useless_one(tmp_path, record):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir(), bad.mkdir()
    write(good, useful=True, record=record)
    write(bad, useful=False, record=record)
    measured = report(good)
    assert measured["folds"] == {fold: sorted(places) if not record else list(places) for fold, places in FOLDS.items()}
    assert measured["network"]["f1"] > 0.7
    assert measured["network"]["ece"] < 0.02
    assert report(bad)["network"]["f1"] < 0.25
    assert abs(report(bad)["network"]["auc"] - 0.5) < 0.05
    assert measured["landcover_agreement"]["overall"] == 1.0


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


def test_the_one_threshold_is_measured_where_it_was_chosen(tmp_path):
    write(tmp_path, useful=True)
    measured = report(tmp_path)
    slope, intercept = (measured["calibration"][name] for name in ("slope", "intercept"))
    counts = np.zeros(3)
    for path in (tmp_path / fold / f"{place}.npz" for fold, places in FOLDS.items() for place in places):
        stored = np.load(path)
        logit = stored["logit"] - np.quantile(stored["logit"].astype(np.float32), 0.9)
        called = 1 / (1 + np.exp(-(slope * logit + intercept))) >= measured["threshold"]
        truth = stored["change"] == 1
        counts += [(called & truth).sum(), (called & ~truth).sum(), (~called & truth).sum()]
    hits, false, missed = counts
    assert measured["one_threshold"]["f1"] == pytest.approx(2 * hits / (2 * hits + false + missed), abs=2e-3)
    assert measured["one_threshold"]["f1_95"][0] <= measured["one_threshold"]["f1"]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match="holds 0 complete folds"):
        report(tmp_path)
    write(tmp_path, useful=True)
    (tmp_path / "beirut" / "beirut.npz").unlink()
    with pytest.raises(UsageError, match=r"beirut.npz is missing"):
        report(tmp_path)


def test_a_release_takes_its_numbers_from_the_crossvalidation(tmp_path):
    write(tmp_path, useful=True)
    measured = report(tmp_path)
    assert metrics(measured)["f1"] == measured["network"]["f1"]
    assert metrics(measured)["baseline_f1"] == measured["difference_baseline"]["f1"]
    assert "bercy" in metrics(measured)["method"]


def test_land_cover_alone_is_reported(tmp_path):
    for fold in ("a", "b"):
        (tmp_path / fold).mkdir()
        (tmp_path / fold / "train.json").write_text(json.dumps({"seconds": 1.0, "holdout": [fold]}))
        cover = np.array([[[0, 1], [1, 1]]], np.uint8)
        np.savez(tmp_path / fold / f"{fold}.npz", landcover=cover, weak=cover, confidence=np.full_like(cover, 255))
    measured = report(tmp_path)
    assert "network" not in measured
    assert measured["landcover_agreement"]["f1_by_class_index"] == {"0": 1.0, "1": 1.0}


def test_the_spread_over_seeds_is_that_of_the_numbers():
    reports = {seed: {"network": {"f1": f1}} for seed, f1 in enumerate((0.5, 0.6, 0.55))}
    assert spread(reports)["spread"]["f1"] == {"mean": 0.55, "std": 0.05, "min": 0.5, "max": 0.6}


def config(root: Path, out: Path, crossval: dict) -> dict:
    return {
        "out": str(out), "threads": 1, "loggers": [], "crossval": crossval,
        "model": {"initialise": None, "depth": 2, "width": [8, 8], "stem": 4},
        "data": {"root": str(root), "crop": 32, "workers": 0},
        "optim": {"steps": 1, "batch": 2, "precision": "32-true"},
        "validation": {"panels": 0},
    }  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory, place_factory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    for seed, name in enumerate(("one", "two", "three", "four")):
        place_factory(folder / name, seed, labelled=name != "three")
    return folder


def test_a_crossvalidation_goes_on_where_it_stopped(root, tmp_path):
    plan = {
        "folds": {"a": ["one"], "b": ["two", "four"]},
        "neighbours": {"a": ["three"]},
        "seeds": [0, 1],
        "smooth": 1.0,
    }
    run(config(root, tmp_path / "cv", plan))
    record = json.loads((tmp_path / "cv" / "seed-0" / "a" / "train.json").read_text())
    assert record["places"] == ["four", "two"]  # neither the fold nor its neighbour
    written = (tmp_path / "cv" / "seed-1" / "b" / "train.json").stat().st_mtime_ns
    (tmp_path / "cv" / "seed-0" / "b" / "train.json").unlink()  # as if it had been killed
    summary = run(config(root, tmp_path / "cv", plan))
    assert (tmp_path / "cv" / "seed-1" / "b" / "train.json").stat().st_mtime_ns == written
    assert (tmp_path / "cv" / "seed-0" / "b" / "train.json").is_file()
    assert set(summary["seeds"]) == {"0", "1"}
    assert (summary["ensemble"]["members"], summary["ensemble"]["seeds"], summary["ensemble"]["smooth"]) == (
        2,
        [0, 1],
        1.0,
    )
    assert summary["folds"] == {"a": ["one"], "b": ["two", "four"]}
    assert any("over 2 seeds" in line for line in told(summary))
    assert any("2 members as one network, smoothed by 1 px" in line for line in told(summary))


def test_folds_of_an_earlier_plan_do_not_count(tmp_path):
    write(tmp_path, useful=True)
    measured = report(tmp_path, ["paris", "dry"])
    assert set(measured["folds"]) == set(measured["seconds"]) == {"paris", "dry"}
    assert set(measured["network"]["places"]) == {"paris", "bercy", "abudhabi"}


def test_places_that_are_named_keep_their_order_and_their_neighbours_are_found(root, tmp_path, monkeypatch):
    """A run that goes on compares its settings with those of its first part, so their order may not be a set's."""
    seen = []
    monkeypatch.setattr("tuban.training.train.train", lambda settings, split: seen.append((settings, split)))
    monkeypatch.setattr("tuban.training.crossval.report", lambda *_: {})
    plan = {"folds": {"a": ["one"], "b": ["two"]}, "neighbours": {"a": ["three"]}}
    settings = config(root, tmp_path, plan)
    settings["data"]["places"] = ["two", "four", "one"]
    run(settings)
    assert [one.data.places for one, _ in seen] == [("two", "four"), ("four", "one")]
    assert [place.name for place in seen[0][1].holdout] == ["one", "three"]
    settings["data"] |= {"places": ["two", "one"], "validation": ["four"]}
    run(settings)
    assert [place.name for place in seen[2][1].validation] == ["four"]


def test_a_holdout_is_never_trained_on_by_a_crossvalidation(root, tmp_path):
    settings = config(root, tmp_path, {"folds": {"a": ["one"], "b": ["two"]}})
    settings["data"]["holdout"] = ["four"]
    with pytest.raises(UsageError, match=r"data\.holdout=four: .*name the other places in data\.places"):
        run(settings)


def test_an_ensemble_is_the_smoothed_mean_of_the_seeds(root, tmp_path):
    """The oracle works on what each seed predicted and knows nothing of networks of members."""
    plan = {"folds": {"a": ["one"], "b": ["two", "four"]}, "seeds": [3, 4], "smooth": 1.5}
    summary = run(config(root, tmp_path, plan))
    by_hand = tmp_path / "by hand"
    for fold, places in plan["folds"].items():
        (by_hand / fold).mkdir(parents=True)
        (by_hand / fold / "train.json").write_text(json.dumps({"seconds": 1.0, "holdout": places}))
        for place in places:
            made = dict(np.load(tmp_path / "ensemble" / fold / f"{place}.npz"))
            seeds = [np.load(tmp_path / f"seed-{seed}" / fold / f"{place}.npz")["logit"] for seed in (3, 4)]
            mean = np.mean(np.array(seeds, np.float32), axis=0)
            assert np.abs(seeds[0] - seeds[1]).max() > 0.01
            wanted = gaussian_filter(mean, 1.5, mode="nearest", truncate=3.0)
            # Predictions are kept in half precision; beyond the border the network sees a reflection of the image.
            np.testing.assert_allclose(made["logit"][5:-5, 5:-5], wanted[5:-5, 5:-5], atol=5e-3)
            np.savez(by_hand / fold / f"{place}.npz", **(made | {"logit": wanted}))
    measured = summary["ensemble"]
    assert measured["network"]["f1"] == pytest.approx(report(by_hand)["network"]["f1"], abs=0.03)
    assert (
        measured["network"]["f1"] == json.loads((tmp_path / "crossval.json").read_text())["ensemble"]["network"]["f1"]
    )
    assert {"one_threshold", "objects", "object_matching", "calibration", "threshold"} <= set(measured)


def test_folds_by_group(root, tmp_path):
    from tuban.training.places import load_by_name

    settings = TrainSettings.model_validate(config(root, tmp_path, {"folds": "leave-one-out"}))
    loaded = load_by_name(settings.data, ["one", "two", "three", "four"])
    # What has no labels of change is in no fold.
    assert folds_of(settings, loaded) == {name: (name,) for name in ("four", "one", "two")}
    two = settings.model_copy(update={"crossval": settings.crossval.model_copy(update={"folds": 2})})
    dealt = folds_of(two, loaded)
    assert sorted(name for fold in dealt.values() for name in fold) == ["four", "one", "two"]
    assert len(dealt) == 2
    wrong = settings.model_copy(update={"crossval": settings.crossval.model_copy(update={"folds": {"a": ("rome",)}})})
    with pytest.raises(UsageError, match="no place rome"):
        folds_of(wrong, loaded)
