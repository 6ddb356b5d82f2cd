import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tuban.errors import UsageError
from tuban.training.app import run, told
from tuban.training.settings import TrainSettings

pytestmark = [
    # Lightning's own import of a torch interface that torch 2.15 renames.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]

TINY = {"initialise": None, "depth": 2, "width": [8, 8], "stem": 4}


EVERY = {"dice": 1, "focal": 1, "lovasz": 1, "boundary": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory, place_factory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    for seed, name in enumerate(("one", "two", "three")):
        place_factory(folder / name, seed, labelled=name != "three")
    return folder


def config(root: Path, out: Path, **changes: object) -> dict:
    settings = {
        "out": str(out),
        "threads": 1,
        "loggers": [],
        "model": TINY,
        "data": {"root": str(root), "crop": 32, "holdout": ["two"], "coarse": 0.0, "workers": 0},
        "optim": {"steps": 2, "batch": 2, "precision": "32-true"},
    }
    for name, value in changes.items():
        settings[name] = settings[name] | value if isinstance(value, dict) and name in settings else value
    return settings


def test_a_run_leaves_weights_settings_panels_and_predictions(root, tmp_path):
    summary = run(config(root, tmp_path / "run", loggers=["tensorboard", "csv"]))
    for path in summary["files"].values():
        assert Path(path).exists(), path
    assert summary["places"] == ["one", "three"]
    record = json.loads((tmp_path / "run" / "train.json").read_text())
    assert record["settings"]["seed"] == 0
    with np.load(tmp_path / "run" / "two.npz") as stored:
        assert stored["logit"].shape == stored["change"].shape == stored["difference"].shape == (96, 96)
        assert stored["difference"][stored["change"] == 1].mean() > stored["difference"][stored["change"] == 0].mean()
        assert stored["landcover"].shape == stored["weak"].shape == stored["confidence"].shape == (2, 96, 96)
    with Image.open(tmp_path / "run" / "panels" / "holdout" / "two.png") as panel:
        assert panel.width > 4 * 96
    lines = "\n".join(told(summary))
    assert str(tmp_path / "run" / "weights.safetensors") in lines
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"loss", "loss/change", "loss/landcover"} <= {row["metric"] for row in rows}


class _Stop(Exception):  # noqa: N818 (stands for a killed process)
    pass


def killer(step: int):
    """A callback that ends the process's work after a step, as a power cut would."""
    import lightning

    class Kill(lightning.Callback):
        def on_train_batch_end(self, trainer, *_args):
            if trainer.global_step == step:
                raise _Stop

    return Kill()


@pytest.mark.parametrize("validated", [False, True])
def test_an_interrupted_run_ends_with_the_same_numbers(root, tmp_path, validated):
    """2n steps are n steps, a killed process and the rest, to the bit: weights, average, crops and their radiometry."""
    from tuban.training.train import train

    changes = {
        "optim": {"steps": 4, "accumulate": 2, "ema": 0.8},
        "validation": {"every": 2},
        "data": {"validation": ["two"] if validated else [], "holdout": [] if validated else ["two"]},
        "augment": {"paste": 0.5, "cutmix": 0.5, "surface": 0.5, "season": 0.1, "offset": 0.2},
        "loss": {"consistency": 1.0},
        "loggers": ["csv"],
    }
    whole = TrainSettings.model_validate(config(root, tmp_path / "whole", **changes))
    train(whole)
    broken = whole.model_copy(update={"out": tmp_path / "broken"})
    with pytest.raises(_Stop):
        train(broken, callbacks=[killer(3)])
    assert not (tmp_path / "broken" / "train.json").exists()
    summary = train(broken)
    assert summary["steps"] == 4
    a, b = (torch.load(tmp_path / n / "checkpoints" / "last.ckpt", weights_only=True) for n in ("whole", "broken"))
    assert a["global_step"] == b["global_step"] == 4
    for name, tensor in a["state_dict"].items():
        assert torch.equal(tensor, b["state_dict"][name]), name
    first, second = (load_file(tmp_path / n / "weights.safetensors") for n in ("whole", "broken"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], a["state_dict"][f"network.{name}"]) for name in first)  # the average
    logs = [(tmp_path / n / "metrics.csv").read_text() for n in ("whole", "broken")]
    assert logs[0] == logs[1]


def test_a_complete_run_is_not_made_again_and_other_settings_are_refused(root, tmp_path):
    first = run(config(root, tmp_path / "run"))
    weights = tmp_path / "run" / "weights.safetensors"
    weights.unlink()
    assert run(config(root, tmp_path / "run")) == first
    assert not weights.exists()
    with pytest.raises(UsageError, match=r"optim.lr: 0.002 -> 0.1.*resume=never"):
        run(config(root, tmp_path / "run", optim={"lr": 0.1}))
    run(config(root, tmp_path / "run", optim={"lr": 0.1}, resume="never"))
    assert weights.exists()


def test_training_learns(root, tmp_path):
    """A few dozen steps separate bright new squares from texture on a place never trained on."""
    optim = {"steps": 40, "batch": 4, "ema": 0.8, "warmup": 0.0, "lr": 0.005, "encoder_lr": 0.005}
    augment = {"drop_bands": 0.0, "same_date": 0.0}
    run(config(root, tmp_path / "run", optim=optim, augment=augment))
    with np.load(tmp_path / "run" / "two.npz") as stored:
        changed, unchanged = stored["logit"][stored["change"] == 1], stored["logit"][stored["change"] == 0]
    assert np.median(changed) > np.quantile(unchanged, 0.95)


def test_validation_chooses_stops_and_draws(root, tmp_path):
    changes = {
        "optim": {"steps": 6, "lr": 1e-9, "encoder_lr": 1e-9, "ema": 0.0, "freeze_norm": True},
        "validation": {"every": 1, "patience": 2},
        "data": {"validation": ["two"], "holdout": []},
    }
    summary = run(config(root, tmp_path / "run", **changes))
    assert summary["steps"] == 3  # nothing gets better, so the first stays the best, and two more are waited for
    assert summary["kept_step"] == 1
    assert 0 <= summary["measured"]["change/average_precision"] <= 1
    assert (tmp_path / "run" / "panels" / "step-000001" / "two.png").is_file()


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "landcover", "loss": {"class_weights": "sqrt", "landcover": EVERY | {"ce": 1}}},
        {"data": {"classes": []}, "loss": {"change": EVERY | {"bce": 1}, "positive_weight": "balanced"}},
        {"model": {"architecture": "Unet", "fusion": "difference", "width": [8, 8, 8], "depth": 3}},
    ],
    ids=["landcover", "change alone", "unet"],
)  # fmt: skip
def test_other_tasks_train_by_configuration(root, tmp_path, changes):
    summary = run(config(root, tmp_path / "run", fast_dev=True, **changes))
    assert summary["steps"] == 2
    with np.load(tmp_path / "run" / "two.npz") as stored:
        assert ("logit" in stored) == (changes.get("task") != "landcover")
        assert ("landcover" in stored) == (changes.get("data", {}).get("classes") != [])
        if "logit" in stored:
            assert np.isfinite(stored["logit"]).all()


def test_a_loss_that_is_no_number_ends_the_run(root, tmp_path):
    from tuban.training.module import DivergedError

    with pytest.raises(DivergedError, match=r"lower optim\.lr"):
        run(config(root, tmp_path / "run", optim={"steps": 30, "lr": 1e30, "encoder_lr": 1e30, "clip": 0}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"root": "/nowhere", "crop": 32, "steps": 1}}, "data.steps"),
        ({"seed": "many"}, "seed"),
        ({"optim": {"lr": -1}}, "optim.lr"),
        ({"loss": {"positive_weight": -1}}, "positive_weight"),
        ({"crossval": {"folds": 1}}, "2 folds"),
    ],
)
def test_a_wrong_field_is_named_before_any_work(root, tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        run(config(root, tmp_path) | change)
