"""Chooses what runs the network: as asked, as remembered, or as a trial on a window of the run shows."""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING, Any

from tuban.inference.backends import available_cores
from tuban.inference.backends.remembered import recall, remember, trial_key
from tuban.inference.backends.trial import needless, trial
from tuban.inference.reading import read_window

if TYPE_CHECKING:
    from tuban.inference.products import Product
    from tuban.inference.reading import PixelReader
    from tuban.inference.settings import InferenceSettings
    from tuban.inference.windows import WindowPlan
    from tuban.models.bundle import Bundle

_BUSY = 1.5
"""Above so many waiting processes a core what is measured is their doing, and not worth remembering."""


def choose(
    source: PixelReader,
    bundle: Bundle,
    product: Product,
    plan: WindowPlan,
    settings: InferenceSettings,
    threads: int,
) -> dict[str, Any]:
    """Return the `backend` to take and, for `auto`, what its choice rests on (`trial`), JSON-ready."""
    if settings.backend != "auto":
        return {"backend": settings.backend}
    if settings.precision != "f32" or settings.compile:
        # What only one backend can do is no choice between them.
        return {"backend": "torch" if settings.compile else "openvino"}
    anyway = settings.trial == "anew"
    if reason := needless(plan.fed_px, anyway=anyway):
        return _onnx(reason)
    tile = settings.tile or bundle.tile
    key = trial_key(bundle, product.wanted, tile=tile, threads=threads, device=settings.device)
    today = dt.datetime.now(dt.UTC).date()
    result, told = recall(key, today) if not anyway else (None, "")
    if result is not None:
        return {"backend": result.choice, "trial": result.details()}
    sample = _sample(source, bundle, product, plan)
    if sample is None:
        return _onnx("no window with a valid pixel was found for a trial")
    busy = _busy()
    result = trial(
        bundle,
        sample,
        product.wanted,
        pixels=plan.fed_px,
        threads=threads,
        device=settings.device,
        anyway=anyway,
    )
    notes = [told] if told else []
    if len(result.measured) + len(result.refused) > 1:
        notes += [busy or remember(key, result, today)]
    return {"backend": result.choice, "trial": result.details() | {"notes": [*result.notes, *filter(None, notes)]}}


def _onnx(reason: str) -> dict[str, Any]:
    return {"backend": "onnx", "trial": {"notes": [reason]}}


def _sample(source: PixelReader, bundle: Bundle, product: Product, plan: WindowPlan) -> dict[str, Any] | None:
    """Return one window with a valid pixel, as a batch: the middle one, or another of a few spread over the plan."""
    last = len(plan) - 1
    for index in dict.fromkeys(int(share * last) for share in (0.5, 0.25, 0.75, 0.125, 0.875, 0.375, 0.625)):
        loaded = read_window(source, bundle, plan, plan.window(index), inputs=product.inputs, keep_going=True)
        if loaded.images:
            return {name: image[None] for name, image in loaded.images.items()}
    return None


def _busy() -> str:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= _BUSY * available_cores():
        return ""
    return f"the machine was busy (load {load:.1f} on {available_cores()} cores), so the trial was not remembered"
