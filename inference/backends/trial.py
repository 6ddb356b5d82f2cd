"""`backend: auto`: a short measured trial of the installed backends on one real window.

ONNX Runtime is the reference: a backend that gives other results is refused however fast it is.
"""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.inference.backends.bench import Bench, Measured, installed
from tuban.inference.backends.interface import CLASS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.inference.backends.bench import Installed
    from tuban.inference.backends.interface import Device, Feeds, Outputs
    from tuban.models.bundle import Bundle

log = logging.getLogger(__name__)

AGREEMENT = 1e-4
"""Largest difference in probability to ONNX Runtime that a backend may show."""
CLASS_AGREEMENT = 1e-3
"""Largest share of pixels whose class may differ: those whose two best classes are equal but for rounding."""
SECONDS = 4.0
"""A trial may take this long, or `SHARE` of the estimated run where that is longer."""
SHARE = 0.02
GAIN = 0.1
"""Another backend is taken only when it is at least this much faster: what hangs on noise would differ every time."""
WORTH = 8.0
"""A run of fewer seconds is over before a trial is worth its while, though it is remembered for those to come."""
_SMALL_PX = 4_000_000  # a run of fewer pixels is over before a trial is worth its while


@dataclass(frozen=True)
class TrialResult:
    """What was measured and chosen.

    Attributes:
        choice: name for `open_backend`.
        measured: backend with its device -> seconds per million pixels.
        refused: backend -> why it was not taken although it is installed.
        notes: what else should be known.
        seconds: wall time of the trial.
    """

    choice: Installed
    measured: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    seconds: float = 0.0

    def details(self) -> dict[str, Any]:
        """Return the result JSON-ready, for `run.json` and the journal."""
        return {**asdict(self), "notes": list(self.notes)}


def trial(
    bundle: Bundle,
    sample: Feeds,
    wanted: Sequence[str],
    *,
    pixels: int,
    threads: int = 0,
    device: Device = "auto",
    anyway: bool = False,
) -> TrialResult:
    """Measure the installed backends and choose the fastest that agrees with ONNX Runtime.

    Args:
        bundle: the model.
        sample: one real window of the run's shape, `(n, bands, h, w)`; its middle is used where the whole would take
            too long.
        wanted: outputs that the run asks for.
        pixels: pixels the run will feed to the network.
        threads: as for `open_backend`.
        device: as for `open_backend`; a backend without that device is left out.
        anyway: however short the run.

    Returns:
        The choice; `onnx` without any measurement where nothing else is installed or the run is small.
    """
    started = time.perf_counter()
    if reason := needless(pixels, anyway=anyway):
        return TrialResult("onnx", notes=(reason,))
    others = installed()[1:]
    with tempfile.TemporaryDirectory(prefix="tuban-trial-") as scratch:
        bench = Bench(bundle, sample, tuple(wanted), Path(scratch), threads, device)
        result = compare(bench, others, pixels, worth=0.0 if anyway else WORTH)
    result = replace(result, seconds=round(time.perf_counter() - started, 2))
    log.info("backend %s chosen in %.1f s: %s", result.choice, result.seconds, result.measured or result.notes)
    return result


def needless(pixels: int, *, anyway: bool = False) -> str:
    """Return why a run of so many pixels fed needs no trial of backends, or ''; `anyway` is however few they are."""
    if len(installed()) == 1:
        return "no backend but onnx is installed, so none was tried"
    if pixels < _SMALL_PX and not anyway:
        return f"a run of {pixels / 1e6:.1f} Mpx is too small for a trial of backends"
    return ""


def compare(bench: Bench, others: Sequence[Installed], pixels: int, *, worth: float = WORTH) -> TrialResult:
    """Measure onnx and then `others` on `bench`, as far as a run of so many pixels is worth it, and choose.

    Args:
        bench: measures.
        others: the backends besides onnx, the likeliest first.
        pixels: pixels that the run will feed to the network.
        worth: seconds that a run must take with onnx for any other to be tried.
    """
    started, side = time.perf_counter(), bench.sides()[-1]
    reference = bench.measure("onnx", side)
    if isinstance(reference, str):
        # The run itself will meet the same error, and say it as it should be said.
        return TrialResult("onnx", refused={"onnx": reference}, notes=("onnx failed in the trial; no other was tried",))
    estimate = reference.s_per_mpx * pixels / 1e6
    if estimate < worth:
        note = f"a run of about {estimate:.0f} s is too short for a trial of other backends"
        return TrialResult("onnx", _table([reference]), notes=(*reference.notes, note))
    deadline = started + max(SECONDS, SHARE * estimate)
    side, reference = _enlarged(bench, reference, others[0], deadline)
    tried, notes = [reference], list(reference.notes)
    refused: dict[str, str] = {}
    choice: Installed = "onnx"
    best = reference.s_per_mpx * (1 - GAIN)
    for backend in others:
        if time.perf_counter() + bench.cost(backend, side, reference.s_per_mpx) > deadline:
            notes.append(f"{backend} was not tried: it would take too much of a run of about {estimate:.0f} s")
            continue
        made = bench.measure(backend, side)
        reason = made if isinstance(made, str) else _disagreement(made.outputs, reference.outputs)
        if isinstance(made, str) or reason:
            refused[backend] = reason
            continue
        tried.append(made)
        notes += made.notes
        if made.s_per_mpx < best:
            choice, best = backend, made.s_per_mpx
    return TrialResult(choice, _table(tried), refused, tuple(notes))


def _enlarged(bench: Bench, reference: Measured, rival: Installed, deadline: float) -> tuple[int, Measured]:
    """Measure onnx again on the largest crop that leaves its rival time: the larger, the more like the run."""
    *larger, least = bench.sides()
    # Half of what is left: the estimate may be short.
    left = (deadline - time.perf_counter()) / 2
    for side in larger:
        if sum(bench.cost(backend, side, reference.s_per_mpx) for backend in ("onnx", rival)) <= left:
            again = bench.measure("onnx", side)
            return (least, reference) if isinstance(again, str) else (side, again)
    return least, reference


def _disagreement(made: Outputs, reference: Outputs) -> str:
    """Return what keeps results from being those of ONNX Runtime, or ''."""
    for name, expected in reference.items():
        if name.endswith(CLASS):
            share = float(np.mean(made[name] != expected))
            if share > CLASS_AGREEMENT:
                return f"{name} differs from onnx in {share:.2%} of the pixels, more than {CLASS_AGREEMENT:.1%}"
        else:
            worst = float(np.abs(made[name] - expected).max())
            if not worst <= AGREEMENT:  # NaN compares false
                return f"{name} differs from onnx by {worst:.2g}, more than {AGREEMENT:g}"
    return ""


def _table(tried: Sequence[Measured]) -> dict[str, float]:
    return {measured.name: round(measured.s_per_mpx, 3) for measured in tried}
