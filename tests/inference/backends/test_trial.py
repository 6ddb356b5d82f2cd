from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from tuban.inference.backends import bench as bench_module
from tuban.inference.backends import trial as trial_module
from tuban.inference.backends.bench import SIDE, Bench, Measured, installed
from tuban.inference.backends.trial import GAIN, SECONDS, WORTH, compare, trial

LONG = 10**11


class Stand:
    """A stand-in for the measuring, so that paces can be anything; `Bench` itself is tested below."""

    def __init__(self, paces, outputs=None, *, sides=(SIDE,), cost=0.0):
        self.paces, self.given, self.asked, self._sides, self._cost = paces, outputs or {}, [], list(sides), cost

    def sides(self):
        return self._sides

    def cost(self, backend, side, pace):
        return self._cost

    def measure(self, backend, side):
        self.asked.append((backend, side))
        pace = self.paces[backend]
        return pace if isinstance(pace, str) else Measured(f"{backend}-cpu", pace, self.given.get(backend, FINE), ())


FINE = {"change": np.linspace(0, 1, 1000, dtype=np.float32), "landcover_class": np.zeros(1000, np.uint8)}


def off(name, by, count):
    made = {key: value.copy() for key, value in FINE.items()}
    made[name][:count] += made[name].dtype.type(by)
    return made


def test_the_fastest_is_taken_and_all_are_told():
    result = compare(Stand({"onnx": 2.0, "openvino": 1.2, "torch": 1.4}), ["openvino", "torch"], LONG)
    assert result.choice == "openvino"
    assert result.measured == {"onnx-cpu": 2.0, "openvino-cpu": 1.2, "torch-cpu": 1.4}
    assert json.loads(json.dumps(result.details()))["choice"] == "openvino"


def test_a_little_faster_is_noise():
    assert compare(Stand({"onnx": 2.0, "openvino": 2.0 * (1 - GAIN / 2)}), ["openvino"], LONG).choice == "onnx"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (off("change", 2e-4, 1), "change differs from onnx by 0.0002, more than 0.0001"),
        (off("change", np.nan, 1), "change differs from onnx by nan"),
        (off("landcover_class", 1, 2), "landcover_class differs from onnx in 0.20% of the pixels, more than 0.1%"),
    ],
)
def test_other_results_are_refused_however_fast(made, reason):
    result = compare(Stand({"onnx": 2.0, "openvino": 0.1}, {"openvino": made}), ["openvino"], LONG)
    assert result.choice == "onnx"
    assert reason in result.refused["openvino"]
    assert "openvino-cpu" not in result.measured


@pytest.mark.parametrize("made", [off("change", 5e-5, 1000), off("landcover_class", 1, 1)])
def test_rounding_is_let_pass(made):
    assert compare(Stand({"onnx": 2.0, "torch": 1.0}, {"torch": made}), ["torch"], LONG).choice == "torch"


def test_one_that_fails_is_told_and_the_next_tried():
    result = compare(Stand({"onnx": 2.0, "openvino": "it broke", "torch": 1.0}), ["openvino", "torch"], LONG)
    assert result.choice == "torch"
    assert result.refused == {"openvino": "it broke"}


def test_a_failing_onnx_is_left_for_the_run_to_say():
    result = compare(Stand({"onnx": "no memory"}), ["openvino"], LONG)
    assert (result.choice, result.refused) == ("onnx", {"onnx": "no memory"})


def test_a_short_run_is_not_made_longer():
    stand = Stand({"onnx": 2.0, "openvino": 0.1})
    pixels = int(WORTH / 2.0 * 1e6) - 1
    result = compare(stand, ["openvino"], pixels)
    assert stand.asked == [("onnx", SIDE)]
    assert result.choice == "onnx"
    assert "too short for a trial" in result.notes[0]
    assert compare(stand, ["openvino"], pixels, worth=0.0).choice == "openvino"


def test_what_costs_too_much_is_not_tried_and_said():
    stand = Stand({"onnx": 2.0, "torch": 0.1}, cost=SECONDS * 2)
    result = compare(stand, ["torch"], 50_000_000)  # 100 s, of which 2 % are 2 s
    assert stand.asked == [("onnx", SIDE)]
    assert "torch was not tried" in result.notes[0]


def test_a_long_run_is_tried_on_larger_crops():
    stand = Stand({"onnx": 2.0, "openvino": 0.1}, sides=(1408, 512, SIDE), cost=3.0)
    compare(stand, ["openvino"], 500_000_000)  # 1000 s, of which 2 % are 20 s
    assert stand.asked == [("onnx", SIDE), ("onnx", 1408), ("openvino", 1408)]


@pytest.fixture
def bench(released, window, tmp_path):
    return Bench(released, window, ("change", "landcover_after_class"), tmp_path, 1, "cpu")


def test_what_is_installed_begins_with_onnx(monkeypatch):
    assert installed()[0] == "onnx"
    monkeypatch.setattr(bench_module.importlib.util, "find_spec", lambda name: None)
    assert installed() == ["onnx"]


def test_a_backend_is_really_measured_in_its_own_process(bench, released, window):
    from tuban.inference.backends import open_backend

    made = bench.measure("onnx", 32)
    assert isinstance(made, Measured), made
    assert made.name == "onnx-cpu"
    assert 0 < made.s_per_mpx < 1000
    crop = {name: feed[:1, :, 8:40, 16:48].copy() for name, feed in window.items()}
    expected = open_backend("onnx", released, threads=1).run(crop, bench.wanted)
    for name in bench.wanted:
        np.testing.assert_array_equal(made.outputs[name], expected[name])


def test_one_that_cannot_be_opened_says_why(bench, released, monkeypatch):
    released.weights_path.rename(released.weights_path.with_suffix(".aside"))
    try:
        assert "model.safetensors" in bench.measure("torch", 32)
    finally:
        released.weights_path.with_suffix(".aside").rename(released.weights_path)
    monkeypatch.setattr(bench_module, "TIMEOUT", 0.01)
    assert bench.measure("onnx", 32) == "gave no answer in 0.01 s"


def test_one_that_crashes_costs_only_itself(bench, monkeypatch):
    crash = subprocess.CompletedProcess([], -11, "", "")
    monkeypatch.setattr(bench_module.subprocess, "run", lambda *_, **__: crash)
    assert bench.measure("onnx", 32) == "ended with status -11"


def test_sides_never_exceed_the_window(bench, released):
    assert bench.sides() == [64]
    assert bench.pixels(64) == 48 * 64 / 1e6
    large = {"image": np.zeros((1, 2, 1408, 600), np.float32)}
    assert Bench(released, large, (), bench.scratch, 1, "auto").sides() == [1408, 1024, 512, SIDE]


def test_small_runs_and_lone_onnx_are_not_tried(released, window, monkeypatch):
    monkeypatch.setattr(trial_module, "compare", None)
    assert "too small for a trial" in trial(released, window, ["change"], pixels=1000).notes[0]
    monkeypatch.setattr(trial_module, "installed", lambda: ["onnx"])
    result = trial(released, window, ["change"], pixels=LONG)
    assert (result.choice, result.measured) == ("onnx", {})
    assert "no backend but onnx is installed" in result.notes[0]


def test_the_whole_trial(released, window, monkeypatch):
    """Every installed backend for real; the network is tiny, so the bounds on what is worth it are put aside."""
    monkeypatch.setattr(trial_module, "SECONDS", 300.0)
    monkeypatch.setattr(bench_module, "TIMEOUT", 300.0)
    result = trial(released, window, ["change", "landcover_after"], pixels=LONG, threads=1, device="cpu")
    assert {name.split("-")[0] for name in result.measured} | set(result.refused) == set(installed())
    assert result.refused == {}
    assert result.choice in installed()
    assert result.seconds > 0
