"""Whole places predicted, and the files that cross-validation and evaluation read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tuban.data.place import IGNORE
from tuban.models.spec import spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from tuban.data.place import Place

TILE = 1024
"""Side of the parts that a large place is predicted in, pixels."""
MARGIN = 64
"""Pixels seen beyond a part on every side."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a network says of a place.

    Attributes:
        change: logits `(h, w)` float32; None without a change head.
        landcover: index of the class `(dates, h, w)` uint8; None without land cover.
    """

    change: NDArray[np.float32] | None
    landcover: NDArray[np.uint8] | None


@torch.inference_mode()
def predict(network: nn.Module, place: Place) -> Prediction:
    """Predict a place part by part, with the network as it is (call `eval()` first)."""
    spec = spec_of(network)
    device = next(network.parameters()).device
    height, width = place.shape
    after = place.after if place.after is not None and spec.task == "change" else None
    images = [place.before] if after is None else [place.before, after]
    change = np.full((height, width), np.nan, dtype=np.float32) if spec.task == "change" and after is not None else None
    covers = np.full((len(images), height, width), IGNORE, dtype=np.uint8) if spec.classes else None
    for rows, columns in _parts(height, width):
        inputs = [_padded(image, rows, columns, spec.stride).to(device) for image in images]
        logits = network(*inputs)
        inside = (slice(MARGIN, MARGIN + rows.stop - rows.start), slice(MARGIN, MARGIN + columns.stop - columns.start))
        if change is not None:
            change[rows, columns] = logits.change[0].float().cpu().numpy()[inside]
        if covers is not None:
            dates = [logits.landcover_before, logits.landcover_after][: len(images)]
            for cover, date in zip(covers, dates, strict=True):
                cover[rows, columns] = date[0].argmax(0).cpu().numpy().astype(np.uint8)[inside]
    return Prediction(change, covers)


def _parts(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width))


def _padded(image: NDArray[np.float32], rows: slice, columns: slice, stride: int) -> torch.Tensor:
    """Return a part with its margin, reflected at the image's edge, as `(1, bands, h, w)` of multiples of `stride`."""
    index = []
    for part, extent in ((rows, image.shape[1]), (columns, image.shape[2])):
        length = part.stop - part.start + 2 * MARGIN
        wanted = np.arange(part.start - MARGIN, part.start - MARGIN + length + -length % stride)
        # The reflection of numpy's mode "reflect", of images smaller than the margin too.
        period = max(2 * (extent - 1), 1)
        wanted = np.abs(wanted) % period
        index.append(np.where(wanted >= extent, period - wanted, wanted))
    return torch.from_numpy(np.ascontiguousarray(image[:, index[0][:, None], index[1]]))[None]


def save_prediction(network: nn.Module, place: Place, folder: Path) -> Prediction:
    """Write `<place>.npz`: predictions, labels, and of a pair the difference image as a baseline.

    `logit` float16 `(h, w)`, `difference` float16 `(h, w)`, `change` uint8 `(h, w)` (255 unknown); `landcover`, `weak`
    and `confidence` uint8 `(dates, h, w)`: predicted class index, labelled class index (255 unknown) and its
    confidence. What the network does not predict is left out.
    """
    prediction = predict(network, place)
    arrays: dict[str, NDArray[np.generic]] = {}
    if prediction.change is not None and place.after is not None:
        std = np.asarray(network.spec.std, dtype=np.float32).reshape(-1, 1, 1)
        squared = np.square((place.after - place.before) / std)
        # Bands that the sensor lacks are NaN everywhere; a pixel invalid in all bands stays NaN.
        seen = np.isfinite(squared)
        count = seen.sum(axis=0)
        total = np.where(seen, squared, 0).sum(axis=0)
        difference = np.sqrt(np.where(count > 0, total / np.maximum(count, 1), np.nan))
        arrays |= {
            "logit": prediction.change.astype(np.float16),
            "difference": difference.astype(np.float16),
            "change": place.change,
        }
    if prediction.landcover is not None:
        dates = len(prediction.landcover)
        arrays |= {
            "landcover": prediction.landcover,
            "weak": np.stack([place.landcover_before, place.landcover_after][:dates]),
            "confidence": np.stack([place.weight_before, place.weight_after][:dates]),
        }
    np.savez_compressed(folder / f"{place.name}.npz", allow_pickle=False, **arrays)
    return prediction
