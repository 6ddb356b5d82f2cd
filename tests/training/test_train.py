import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tuban.errors import UsageError
from tuban.training.app import run
from tuban.training.settings import TrainSettings
from tuban.training.train import load_places, predict, statistics

pytestmark = [
    # Lightning's own import of a torch interface that torch 2.15 renames.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory, place_factory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    for seed, name in enumerate(("one", "two", "three")):
        place_factory(folder / name, seed, labelled=name != "three")
    return folder


def config(root: Path, out: Path, **changes: object) -> dict:
    data = {"root": str(root), "crop": 32, "holdout": ["two"], "coarse": 0.0}
    optim = {"steps": 2, "batch": 2, "precision": "32-true"}
    return {"out": str(out), "imagenet": False, "data": data, "optim": optim} | changes


def test_a_run_leaves_weights_settings_and_predictions(root, tmp_path):
    summary = run(config(root, tmp_path / "run"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"weights.safetensors", "spec.json", "train.json", "two.npz"} <= names
    assert summary["places"] == ["one", "three"]
    assert json.loads((tmp_path / "run" / "train.json").read_text())["settings"]["seed"] == 0
    with np.load(tmp_path / "run" / "two.npz") as stored:
        assert stored["logit"].shape == stored["change"].shape == stored["difference"].shape
        assert stored["difference"][stored["change"] == 1].mean() > stored["difference"][stored["change"] == 0].mean()


def test_the_same_seed_gives_the_same_weights(root, tmp_path):
    for name in ("a", "b"):
        run(config(root, tmp_path / name))
    assert (tmp_path / "a" / "weights.safetensors").read_bytes() == (
        tmp_path / "b" / "weights.safetensors"
    ).read_bytes()


def test_training_learns(root, tmp_path):
    """A few dozen steps separate bright new squares from texture on a place never trained on."""
    torch.manual_seed(0)
    optim = {"steps": 30, "batch": 4, "precision": "32-true", "ema": 0.8, "warmup": 0.0}
    augment = {"drop_bands": 0.0, "same_date": 0.0}
    run(config(root, tmp_path / "run", optim=optim, augment=augment))
    with np.load(tmp_path / "run" / "two.npz") as stored:
        changed, unchanged = stored["logit"][stored["change"] == 1], stored["logit"][stored["change"] == 0]
    assert np.median(changed) > np.quantile(unchanged, 0.95)


def test_statistics_are_those_of_the_pixels(city):
    mean, std = statistics([city])
    pixels = np.concatenate(
        [i.reshape(4, -1)[:, np.isfinite(i.reshape(4, -1)).all(0)] for i in (city.before, city.after)], 1
    )
    np.testing.assert_allclose(mean, pixels.mean(1), atol=1e-3)
    np.testing.assert_allclose(std, pixels.std(1), atol=1e-3)


def test_predictions_have_the_citys_size(city):
    from tuban.models.network import ChangeNet, NetworkSpec

    network = ChangeNet(NetworkSpec(("B02", "B03", "B04", "B08"), (1, 18), (0.1,) * 4, (0.05,) * 4)).eval()
    change, first, second = predict(network, city)
    assert change.shape == first.shape == second.shape == city.change.shape
    assert np.isfinite(change).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"root": "/nowhere", "crop": 32, "steps": 1}}, "data.steps"),
        ({"seed": "many"}, "seed"),
        ({"optim": {"lr": -1}}, "optim.lr"),
    ],
)
def test_a_wrong_field_is_named_before_any_work(root, tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        run(config(root, tmp_path) | change)


def test_unknown_places_are_named(root):
    settings = TrainSettings.model_validate({"data": {"root": root, "holdout": ["atlantis"]}})
    with pytest.raises(UsageError, match="atlantis"):
        load_places(settings)
