"""Measures backends on one real window, each in a process of its own (`probe.py`).

One that crashes, hangs or eats memory then costs only the trial, and the memory of those not taken is given back.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tuban.inference.backends.torch import PARTS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tuban.inference.backends.interface import Device, Feeds, Outputs
    from tuban.models.bundle import Bundle

Installed = Literal["onnx", "openvino", "torch"]
RUNS = 3
"""One to warm up, the best of two."""
SIDE = 256
"""Side of the smallest crop worth timing, pixels."""
START: dict[Installed, float] = {"onnx": 0.6, "openvino": 1.2, "torch": 6.0}
"""Seconds until a fresh process is ready to run, about."""
TIMEOUT = 60.0
"""Seconds after which a backend is given up."""


def installed() -> list[Installed]:
    """Return the backends that could be opened here, onnx first."""
    there: list[Installed] = ["onnx"]
    if importlib.util.find_spec("openvino") is not None:
        there.append("openvino")
    if all(importlib.util.find_spec(part) is not None for part in PARTS):
        there.append("torch")
    return there


@dataclass(frozen=True, slots=True)
class Measured:
    """What a backend showed: name with its device, seconds per million pixels, outputs, notes."""

    name: str
    s_per_mpx: float
    outputs: Outputs
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every backend is given."""

    bundle: Bundle
    sample: Feeds
    wanted: tuple[str, ...]
    scratch: Path
    threads: int
    device: Device

    def sides(self) -> list[int]:
        """Return the sides of the crops that may be timed, largest first."""
        whole = max(next(iter(self.sample.values())).shape[-2:])
        return list(dict.fromkeys(side for side in (whole, *(SIDE << shift for shift in (2, 1, 0))) if side <= whole))

    def pixels(self, side: int) -> float:
        """Return the millions of pixels of the crop of that side."""
        height, width = next(iter(self.sample.values())).shape[-2:]
        return float(min(side, height) * min(side, width) / 1e6)

    def cost(self, backend: Installed, side: int, s_per_mpx: float) -> float:
        """Return about how many seconds a measurement takes."""
        return START[backend] + RUNS * s_per_mpx * self.pixels(side)

    def measure(self, backend: Installed, side: int) -> Measured | str:
        """Measure a backend on a crop in a process of its own; a text says why it could not be."""
        crop, out = self.scratch / f"crop-{side}.npz", self.scratch / f"{backend}-{side}.npz"
        if not crop.exists():
            np.savez(crop, allow_pickle=False, **{name: _crop(feed, side) for name, feed in self.sample.items()})
        task = {
            "bundle": str(self.bundle.path),
            "backend": backend,
            "device": self.device,
            "threads": self.threads,
            "wanted": self.wanted,
            "sample": str(crop),
            "out": str(out),
            "runs": RUNS,
        }
        command = [sys.executable, "-m", "tuban.inference.backends.probe"]
        try:
            done = subprocess.run(
                command, input=json.dumps(task), capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            return f"gave no answer in {TIMEOUT:g} s"
        except OSError as error:
            return f"could not be started ({error.strerror})"
        if done.returncode != 0 or not out.exists():
            words = done.stderr.strip().splitlines()
            return words[-1][:300] if words else f"ended with status {done.returncode}"
        told = json.loads(done.stdout)
        with np.load(out, allow_pickle=False) as made:
            outputs = {name: made[name] for name in self.wanted}
        return Measured(told["name"], told["seconds"] / self.pixels(side), outputs, tuple(told["notes"]))


def _crop(feed: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the middle of the first window of a batch: its margins may be reflections."""
    top, left = (max(0, length - side) // 2 for length in feed.shape[-2:])
    return np.ascontiguousarray(feed[:1, :, top : top + side, left : left + side])
