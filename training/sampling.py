"""Which crops a training run sees: crop `i` is a function of the seed and `i` alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from tuban.data.place import IGNORE
from tuban.training.composing import composed, single_image
from tuban.training.cutting import cut

# Otherwise albumentations asks the internet for a newer version of itself whenever it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # noqa: N812 (after the variable it reads; the library's documented alias)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tuban.data.place import Place
    from tuban.training.cutting import Crop
    from tuban.training.settings import AugmentSettings, DataSettings

Sample = dict[str, torch.Tensor]

_POINTS = 100_000
"""Pixels remembered for each place and class, to centre crops on."""


class CropDataset(Dataset[Sample]):
    """Crops without end; crop `i` depends only on the seed and `i`, so a run can be repeated and continued.

    For change, each sample holds `before`, `after` float32 `(bands, crop, crop)` with NaN where invalid, `change`
    float32 `(crop, crop)` (255 unknown), `landcover_*` int64 `(crop, crop)` (255 unknown), `weight_*` float32 0–1,
    and `index`. For land cover it holds one date, `before` with its labels.
    """

    def __init__(
        self,
        places: Sequence[Place],
        data: DataSettings,
        augment: AugmentSettings,
        *,
        seed: int,
        task: str = "change",
        weights: Sequence[float] | None = None,
    ) -> None:
        """Index the pixels that crops are centred on.

        Args:
            places: what is drawn from.
            data: crop size and shares.
            augment: what is composed of several crops.
            seed: of the whole run.
            task: `change`, or `landcover` for single dates.
            weights: how often each place is drawn, beside the root of its area; equal by default.
        """
        self.places = list(places)
        self.data, self.augment, self.seed, self.task = data, augment, seed, task
        rng = np.random.default_rng(seed)
        wanted = _class_points if task == "landcover" else _changed_points
        self.points = [wanted(place, rng) for place in self.places]
        # The square root keeps the largest place from deciding what change looks like.
        share = np.sqrt([place.shape[0] * place.shape[1] for place in self.places])
        share = share * (np.ones(len(share)) if weights is None else np.asarray(weights))
        self.share = share / share.sum()
        held = share * np.array([len(points) > 0 for points in self.points])
        self.foreground_share = held / held.sum() if held.sum() > 0 else None
        self.flip = A.Compose(
            [A.D4(p=1.0)],
            additional_targets={"after": "image", **dict.fromkeys(("c", "lb", "la", "wb", "wa"), "mask")},
            seed=seed,
        )

    def __getitem__(self, index: int) -> Sample:
        """Draw crop `index`."""
        rng = np.random.default_rng((self.seed, index))
        coarse = rng.random() < self.data.coarse
        factor = int(rng.integers(2, 4)) if coarse else 1
        if self.task == "landcover":
            crop = self._draw(rng, factor, foreground=bool(rng.random() < self.data.foreground))
            if "after" in crop and rng.random() < 0.5:
                crop = crop | {name: crop[name.replace("before", "after")] for name in _FIRST}
        else:
            crop = composed(
                rng, lambda foreground: self._draw(rng, factor, foreground=foreground), self.data, self.augment
            )
        turned = self._turned(crop, int(rng.integers(2**31)))
        return _tensors(turned, _FIRST if self.task == "landcover" else None) | {"index": torch.tensor(index)}

    def _draw(self, rng: np.random.Generator, factor: int, *, foreground: bool) -> Crop:
        """Cut from a place at random, around a pixel that matters if `foreground`."""
        share = self.foreground_share if foreground and self.foreground_share is not None else None
        number = int(rng.choice(len(self.places), p=self.share if share is None else share))
        place = self.places[number]
        centre = None
        if share is not None:
            points = self.points[number]
            of_class = points[rng.integers(len(points))]  # every class alike, however rare
            centre = of_class[rng.integers(len(of_class))]
        crop = cut(place, rng, self.data.crop, factor, centre)
        return single_image(crop) if place.after is None and self.task == "change" else crop

    def _turned(self, crop: Crop, seed: int) -> Crop:
        """Rotate and mirror both dates and their labels together."""
        self.flip.set_random_seed(seed)
        names = {short: long for short, long in _SHORT.items() if long in crop}
        images = {"image": crop["before"].transpose(1, 2, 0)}
        if "after" in crop:
            images["after"] = crop["after"].transpose(1, 2, 0)
        turned = self.flip(**images, **{short: crop[long] for short, long in names.items()})
        result = {long: turned[short] for short, long in names.items()}
        result["before"] = turned["image"].transpose(2, 0, 1)
        if "after" in crop:
            result["after"] = turned["after"].transpose(2, 0, 1)
        return result


_FIRST = ("before", "landcover_before", "weight_before")
_SHORT = {
    "c": "change",
    "lb": "landcover_before",
    "la": "landcover_after",
    "wb": "weight_before",
    "wa": "weight_after",
}


def _changed_points(place: Place, rng: np.random.Generator) -> list[NDArray[np.int32]]:
    points = _sampled(place.change == 1, rng)
    return [points] if len(points) else []


def _class_points(place: Place, rng: np.random.Generator) -> list[NDArray[np.int32]]:
    cover = place.landcover_before
    present = np.flatnonzero(np.bincount(cover.ravel(), minlength=256)[:IGNORE])
    return [_sampled(cover == value, rng) for value in present]


def _sampled(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int32]:
    points = np.argwhere(mask).astype(np.int32)
    return points if len(points) <= _POINTS else points[rng.choice(len(points), _POINTS, replace=False)]


def _tensors(crop: Crop, names: tuple[str, ...] | None) -> Sample:
    sample = {}
    for name in names or crop:
        tensor = torch.from_numpy(np.ascontiguousarray(crop[name]))
        if name.startswith("landcover"):
            tensor = tensor.long()
        elif name.startswith("weight"):
            tensor = tensor.float() / 255
        elif name == "change":
            tensor = tensor.float()
        sample[name] = tensor
    return sample


class StepBatches(Sampler[list[int]]):
    """Crop indices of each batch from one step on; every process takes its own part of each step's crops.

    One process with batches of `2 * batch` sees in each step what two processes with batches of `batch` see together.
    """

    def __init__(self, start: int, count: int, batch: int, *, rank: int = 0, world: int = 1) -> None:
        """Plan `count` batches of `batch` crops from forward pass `start` on, for process `rank` of `world`."""
        self.start, self.count, self.batch, self.rank, self.world = start, count, batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of one batch after the other."""
        for number in range(self.start, self.start + self.count):
            first = (number * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.count
