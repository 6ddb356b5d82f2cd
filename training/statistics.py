"""What the training places tell of their pixels and labels: input statistics and class weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tuban.data.place import IGNORE
from tuban.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tuban.data.place import Place

_SAMPLES = 40_000
"""Pixels looked at in each image."""


def statistics(places: Sequence[Place], bands: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per band over the valid pixels of all images, 40,000 of each at most.

    Raises:
        UsageError: a band is in no image.
    """
    rng = np.random.default_rng(0)
    count = np.zeros(len(bands))
    sums = np.zeros((2, len(bands)))
    for place in places:
        for image in (place.before, place.after):
            if image is None:
                continue
            flat = image.reshape(len(bands), -1)
            chosen = rng.choice(flat.shape[1], min(flat.shape[1], _SAMPLES), replace=False)
            values = flat[:, chosen].astype(np.float64)
            count += np.isfinite(values).sum(axis=1)
            sums += [np.nansum(values, axis=1), np.nansum(values**2, axis=1)]
    if missing := [band for band, number in zip(bands, count, strict=True) if number == 0]:
        raise UsageError(f"no training place has {', '.join(missing)}; leave it out of data.bands")
    mean = sums[0] / count
    std = np.sqrt(np.maximum(sums[1] / count - mean**2, 1e-12))
    return tuple(round(float(v), 6) for v in mean), tuple(max(round(float(v), 6), 1e-6) for v in std)


def require_labels(places: Sequence[Place], task: str) -> None:
    """Check that there is something to learn: change, or single images with land cover that can be made into pairs.

    Args:
        places: to train on.
        task: `change` or `landcover`.

    Raises:
        UsageError: no place has a label that teaches the task.
    """
    single = task == "landcover"
    for place in places:
        dates = [place.landcover_before, *([place.landcover_after] if place.after is not None else [])]
        if (not single and place.labelled) or (
            (single or place.after is None) and any((cover != IGNORE).any() for cover in dates)
        ):
            return
    what = "land cover of data.classes" if single else "change"
    raise UsageError(
        f"no training place has a label of {what}, so nothing can be learnt; `tuban data stats` tells what is "
        "labelled, and dataset.yaml which file is the label"
    )


def positive_weight(places: Sequence[Place]) -> float:
    """Return how many unchanged pixels are labelled for each changed one.

    Raises:
        UsageError: no place has a changed pixel.
    """
    changed = sum(int((place.change == 1).sum()) for place in places)
    unchanged = sum(int((place.change == 0).sum()) for place in places)
    if not changed:
        raise UsageError("loss.positive_weight=balanced: no training place has a changed pixel; give a number")
    return round(unchanged / changed, 4)


def class_weights(places: Sequence[Place], classes: int, kind: str) -> NDArray[np.float32] | None:
    """Return a weight for each land-cover class, of mean 1 over the labelled pixels.

    Args:
        places: whose labels are counted, by their confidence.
        classes: number of classes.
        kind: `none`, `sqrt` (one over the root of the class's share) or `balanced` (one over its share).
    """
    if kind == "none" or not classes:
        return None
    counts = np.zeros(256)
    for place in places:
        for cover, weight in (
            (place.landcover_before, place.weight_before),
            (place.landcover_after, place.weight_after),
        ):
            counts += np.bincount(cover.ravel(), weight.ravel(), minlength=256)
    counts[IGNORE] = 0
    share = counts[:classes] / max(counts[:classes].sum(), 1)
    scale = np.zeros(classes)
    present = share > 0
    scale[present] = share[present] ** (-1.0 if kind == "balanced" else -0.5)
    total = (scale * share).sum()
    return (scale / total).astype(np.float32) if total > 0 else None
