"""Learning-rate schedules as pure functions of the step, so that a continued run has the rates of an unbroken one."""

from __future__ import annotations

import math


def factor(schedule: str, step: int, steps: int, warmup: float) -> float:
    """Return what the learning rate is multiplied by at `step`, counted from 0.

    Args:
        schedule: `cosine` and `poly` (power 0.9) fall to 0, `constant` stays; all three rise linearly over the
            warm-up first. `onecycle` rises from 1/25 to 1 over the warm-up and falls to 1/250,000, both by cosine.
        step: optimiser steps done.
        steps: optimiser steps of the whole run.
        warmup: share of the steps.

    References:
        Smith & Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", 2018.
        Chen et al., "DeepLab", TPAMI 2018 (poly).
    """
    if schedule == "onecycle":
        return _onecycle(step, steps, warmup)
    rise = max(1, int(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    done = min(1.0, (step - rise) / max(1, steps - rise))
    if schedule == "constant":
        return 1.0
    return (1 - done) ** 0.9 if schedule == "poly" else 0.5 * (1 + math.cos(math.pi * done))


def _onecycle(step: int, steps: int, warmup: float) -> float:
    top = max(warmup * steps - 1, 1e-9)
    if step <= top:
        return _between(1 / 25, 1.0, step / top)
    return _between(1.0, 1 / 250_000, min(1.0, (step - top) / max(steps - 1 - top, 1e-9)))


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))
