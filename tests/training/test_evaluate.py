import json

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torchmetrics.functional.classification import binary_f1_score
from typer.testing import CliRunner

from tuban.cli import app
from tuban.data.classes import classes
from tuban.data.crosswalk import crosswalk
from tuban.data.pair import open_pair
from tuban.data.scene import Scene
from tuban.errors import SceneError, UsageError
from tuban.inference.change import predict_change
from tuban.inference.landcover import SceneReader, predict_landcover
from tuban.models.bundle import resolve
from tuban.training.evaluate import evaluate, lines, seed_spread
from tuban.training.perturbation import Perturbation


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
        "objects": {"recall": 1, "precision": 1, "min_area_m2": 2000.0}, "places": {}, "seen_in_training": ["paris"],
        "data": {"folder": "oscd", "dataset": "oscd", "tuban": "1"},
    }  # fmt: skip
    assert "Trained on paris" in "\n".join(lines(result))


def test_nothing_labelled_is_an_error(place_factory, tmp_path):
    place_factory(tmp_path / "one", 0, labelled=False)
    with pytest.raises(SceneError, match="nothing to measure"):
        evaluate(resolve("s2-change"), tmp_path, tmp_path / "out")


def test_everything_by_the_command_line(place_factory, tmp_path):
    for seed, name in enumerate(("甲 one", "two")):
        place_factory(tmp_path / "data" / name, seed)
    arguments = ["evaluate", "--model", "s2-change", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, [*arguments, "--place", "甲 one", "--json"])
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert list(result["places"]) == ["甲 one"]
    # What earlier versions gave is still there.
    assert {"f1", "f1_95", "precision", "recall", "iou", "average_precision", "auc", "ece", "threshold"} <= set(result)
    assert {"truth", "found", "called", "right", "recall", "precision"} <= set(result["objects"])
    assert result["object_matching"]["truth"] == 1
    assert sum(c["truth"] for c in result["object_matching"]["by_size_m2"].values()) == 1
    assert set(result["landcover"]["classes"]) <= {c.name for c in classes().values()}
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert "甲 one" in page
    assert page.count("data:image/png") == 1
    assert 'src="http' not in page
    missing = CliRunner().invoke(app, [*arguments, "--place", "three"])
    assert isinstance(missing.exception, UsageError)


def test_a_land_cover_bundle_is_measured_against_confident_pixels(place_factory, tmp_path):
    place_factory(tmp_path / "data" / "one", 0)
    bundle = resolve("s2-landcover")
    result = evaluate(bundle, tmp_path / "data", tmp_path / "out")
    assert result["task"] == "landcover"
    matrix = np.zeros((256, 256), int)
    for date in ("before", "after"):
        with Scene.open(tmp_path / "data" / "one" / f"{date}.tif") as scene:  # as `tuban landcover` reads it
            made = predict_landcover(SceneReader(scene), bundle, tmp_path / date)
        with rasterio.open(made.paths["landcover"]) as source:
            mapped = source.read(1)
        with rasterio.open(tmp_path / "data" / "one" / f"{date}_dynamicworld.tif") as source:
            truth = np.asarray(crosswalk("dynamicworld"))[source.read(1)]
        known = np.isin(mapped, bundle.classes) & np.isin(truth, bundle.classes)
        np.add.at(matrix, (truth[known], mapped[known]), 1)
    assert result["pixels"] == matrix.sum()
    assert result["agreement"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-4)
    crop = result["classes"]["cropland"]
    assert crop["f1"] == pytest.approx(2 * matrix[1, 1] / (matrix[1].sum() + matrix[:, 1].sum()), abs=1e-4)
    assert "cropland" in (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="need a change bundle"):
        evaluate(bundle, tmp_path / "data", tmp_path / "out", precision=0.6)


def test_the_spread_over_seeds():
    assert seed_spread({"a": 0.5, "b": 0.6}) == {
        "f1": {"a": 0.5, "b": 0.6}, "mean": 0.55, "sd": 0.0707, "min": 0.5, "max": 0.6,
    }  # fmt: skip
    assert seed_spread({"a": 0.5})["sd"] is None


def _published(root):
    """A place as OSCD's authors publish it: a file a band, no coordinates."""
    rng = np.random.default_rng(0)
    folder = root / "Onera Satellite Change Detection dataset - Images" / "nantes"
    changed = np.zeros((64, 80), bool)
    changed[20:40, 30:50] = True
    for band in ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"):
        ground = rng.integers(600, 3000, (16, 20)).repeat(4, 0).repeat(4, 1).astype(np.uint16)
        for date, image in (("imgs_1_rect", ground), ("imgs_2_rect", np.where(changed, np.uint16(6000), ground))):
            (folder / date).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / date / f"{band}.tif")
    label = root / "Onera Satellite Change Detection dataset - Train Labels" / "nantes" / "cm" / "cm.png"
    label.parent.mkdir(parents=True)
    Image.fromarray(np.where(changed, 255, 0).astype(np.uint8)).save(label)


def test_another_layout_without_coordinates_is_measured_and_perturbed(tmp_path):
    _published(tmp_path)
    result = evaluate(
        resolve("s2-change"), tmp_path, tmp_path / "out", perturbations=[Perturbation("gain", 1.25)], dataset="oscd"
    )
    place = result["places"]["nantes"]
    assert (place["changed_px"], place["unchanged_px"]) == (400, 64 * 80 - 400)
    assert result["object_matching"]["truth"] == 1  # 40,000 m² at the data set's 10 m
    assert result["robustness"]["points"][0]["places"] == 1
    assert result["landcover"] == {}


def test_a_model_that_cannot_be_fed_is_refused(tmp_path):
    for part in ("A", "B", "label"):
        (tmp_path / "mine" / part).mkdir(parents=True)
        Image.fromarray(np.zeros((40, 40) if part == "label" else (40, 40, 3), np.uint8)).save(
            tmp_path / "mine" / part / "one.png"
        )
    roles = "".join(
        f'  - {{role: {role}, path: "{part}/{{item}}.png"}}\n'
        for role, part in (("before", "A"), ("after", "B"), ("change", "label"))
    )
    (tmp_path / "mine" / "dataset.yaml").write_text(f"id: mine\nbands: [B04, B03, B02]\nroles:\n{roles}")
    with pytest.raises(UsageError, match=r"s2-change needs B08; mine has B04, B03, B02"):
        evaluate(resolve("s2-change"), tmp_path / "mine", tmp_path / "out")
