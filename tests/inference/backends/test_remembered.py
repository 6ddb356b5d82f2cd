from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest

from tuban.inference import choice
from tuban.inference.backends import remembered
from tuban.inference.backends.remembered import DAYS, folder, processor, recall, remember, trial_key
from tuban.inference.backends.trial import TrialResult
from tuban.inference.change import predict_change
from tuban.inference.products import ChangeProduct
from tuban.inference.settings import InferenceSettings
from tuban.inference.windows import plan_windows

DAY = dt.date(2026, 11, 21)
FOUND = TrialResult("openvino", {"onnx-cpu": 2.0, "openvino-cpu": 1.2}, {"torch": "it broke"}, ("a note",), 3.5)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUBAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trials"


@pytest.fixture
def key(bundle):
    return trial_key(bundle, ["change"], tile=512, threads=2, device="auto")


def test_what_was_measured_is_known_again_and_says_since_when(key):
    assert recall(key, DAY) == (None, "")
    assert remember(key, FOUND, DAY) == ""
    result, told = recall(key, DAY + dt.timedelta(days=3))
    assert told == ""
    assert (result.choice, result.measured, result.refused) == (FOUND.choice, FOUND.measured, FOUND.refused)
    assert result.notes == ("remembered trial of 2026-11-21", "a note")
    assert result.seconds == 0.0


@pytest.mark.parametrize("change", [{"tile": 640}, {"threads": 1}, {"device": "cpu"}])
def test_another_tile_thread_or_device_is_another_trial(bundle, key, change):
    remember(key, FOUND, DAY)
    asked = {"tile": 512, "threads": 2, "device": "auto"} | change
    assert recall(trial_key(bundle, ["change"], **asked), DAY) == (None, "")


def test_another_runtime_or_processor_or_model_is_another_trial(bundle, key, monkeypatch):
    remember(key, FOUND, DAY)
    other = bundle.model_copy(update={"onnx_sha256": "0" * 64})
    assert recall(trial_key(other, ["change"], tile=512, threads=2, device="auto"), DAY)[0] is None
    for name in ("_version", "processor"):
        with monkeypatch.context() as patch:
            patch.setattr(remembered, name, lambda *_: "9.9")
            assert recall(trial_key(bundle, ["change"], tile=512, threads=2, device="auto"), DAY)[0] is None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda _: "[]", "cannot be read"),
        (lambda text: text.replace('"threads": 2', '"threads": 3'), "belongs to another run"),
        (lambda text: text.replace('"choice": "openvino"', '"choice": "rm"'), "out of date"),
        (lambda text: text.replace("2026-11-21", "2027-11-21"), "out of date"),
    ],
    ids=["cut", "other JSON", "another key", "no backend", "of the future"],
)
def test_a_spoilt_file_is_passed_over_and_said(key, cache, spoil, said):
    remember(key, FOUND, DAY)
    (path,) = cache.iterdir()
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")
    result, told = recall(key, DAY)
    assert result is None
    assert said in told


def test_an_old_trial_is_measured_again(key):
    remember(key, FOUND, DAY)
    assert recall(key, DAY + dt.timedelta(days=DAYS))[0] is not None
    assert recall(key, DAY + dt.timedelta(days=DAYS + 1))[0] is None


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(key, cache):
    cache.parent.write_text("a file, where a folder should be")
    assert "could not be remembered" in remember(key, FOUND, DAY)
    assert recall(key, DAY)[0] is None


def test_the_folder_is_the_users_where_none_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("TUBAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folder().parts[-2:] == ("tuban", "trials")


def test_a_user_without_a_home_folder_is_no_reason_to_stop(key, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("TUBAN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remembered.Path, "home", homeless)
    assert recall(key, DAY) == (None, "")
    assert "TUBAN_CACHE" in remember(key, FOUND, DAY)


def test_another_graphics_card_is_another_trial(bundle, key, monkeypatch):
    remember(key, FOUND, DAY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert recall(trial_key(bundle, ["change"], tile=512, threads=2, device="auto"), DAY) == (None, "")


def test_the_processor_is_told_alike_twice():
    assert processor() == processor() != ""


@pytest.fixture
def chosen(bundle, stub, monkeypatch):
    """`choose` on a small pair, as if it were a long run; the trial itself is a stand-in that counts."""
    asked = []

    def stand_in(*_args, anyway, **_kwargs):
        asked.append(anyway)
        return FOUND

    monkeypatch.setattr(choice, "trial", stand_in)
    monkeypatch.setattr(choice, "needless", lambda *_, **__: "")
    monkeypatch.setattr(choice, "_busy", lambda: "")
    pair = stub.random_pair(64, 64)
    plan = plan_windows(64, 64, tile=32, halo=4, stride=2)

    def run(**settings):
        return choice.choose(pair, bundle, ChangeProduct(bundle), plan, InferenceSettings(**settings), 1)

    return run, asked


def test_a_second_run_needs_no_trial_and_one_may_be_asked_for(chosen):
    run, asked = chosen
    assert run()["trial"]["notes"] == ["a note"]
    again = run()
    assert again["backend"] == "openvino"
    assert again["trial"]["notes"][0].startswith("remembered trial of ")
    json.dumps(again)
    assert asked == [False]
    run(trial="anew")
    assert asked == [False, True]


def test_what_a_busy_machine_shows_is_not_remembered(chosen, monkeypatch):
    run, asked = chosen
    monkeypatch.setattr(choice, "_busy", lambda: "the machine was busy")
    assert run()["trial"]["notes"][-1] == "the machine was busy"
    run()
    assert asked == [False, False]


def test_a_spoilt_file_is_told_in_the_record_of_the_run(chosen, cache):
    run, asked = chosen
    run()
    next(cache.iterdir()).write_text("{")
    assert "cannot be read" in run()["trial"]["notes"][-1]
    assert asked == [False, False]
    assert run()["trial"]["notes"][0].startswith("remembered")


def test_a_named_backend_looks_at_nothing(bundle, stub, tmp_path, cache):
    made = predict_change(
        stub.random_pair(40, 40), bundle, tmp_path / "out", settings=InferenceSettings(backend="onnx")
    )
    assert made.trial == {}
    assert not cache.exists()
    assert np.isfinite(made.seconds)
