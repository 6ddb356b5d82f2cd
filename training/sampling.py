"""Random crops of pairs with their labels, rotated and mirrored together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import albumentations as A  # noqa: N812 (the library's documented alias)
import numpy as np
import torch
from torch.utils.data import Dataset

from tuban.data.place import IGNORE, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tuban.training.settings import DataSettings

Sample = dict[str, torch.Tensor]


class CropDataset(Dataset[Sample]):
    """`length` crops; crop `i` of epoch-free index `i` depends only on the seed and `i`, so a run can be repeated.

    Each sample holds `before`, `after` float32 `(bands, crop, crop)` with NaN where invalid, `change` float32
    `(crop, crop)` (255 unknown), `landcover_*` int64 `(crop, crop)` (255 unknown) and `weight_*` float32 0–1.
    """

    def __init__(self, cities: Sequence[Place], settings: DataSettings, length: int, seed: int) -> None:
        """Index the changed pixels of every city."""
        self.cities = list(cities)
        self.settings = settings
        self.length = length
        self.seed = seed
        self.changed = [np.argwhere(city.change == 1) for city in self.cities]
        areas = np.array([city.before.shape[1] * city.before.shape[2] for city in self.cities], dtype=float)
        # The square root keeps the largest city from deciding what change looks like.
        self.share = np.sqrt(areas) / np.sqrt(areas).sum()
        with_change = np.array([len(points) > 0 for points in self.changed])
        self.changed_share = self.share * with_change
        if self.changed_share.sum() > 0:
            self.changed_share /= self.changed_share.sum()
        self.flip = A.Compose(
            [A.D4(p=1.0)],
            additional_targets={"image2": "image", **dict.fromkeys(("lb", "la", "wb", "wa"), "mask")},
            seed=seed,
        )

    def __len__(self) -> int:
        """Return the number of crops drawn in the whole run."""
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Draw crop `index`."""
        rng = np.random.default_rng((self.seed, index))
        on_change = self.changed_share.sum() > 0 and rng.random() < self.settings.foreground
        number = int(rng.choice(len(self.cities), p=self.changed_share if on_change else self.share))
        city = self.cities[number]
        factor = int(rng.integers(2, 4)) if rng.random() < self.settings.coarse else 1
        size = self.settings.crop * factor
        if min(city.before.shape[1:]) < size:
            factor, size = 1, self.settings.crop
        points = self.changed[number] if on_change else None
        row, column = _origin(rng, city.before.shape[1:], size, points)
        return self._cut(city, row, column, size, factor, int(rng.integers(2**31)))

    def _cut(self, city: Place, row: int, column: int, size: int, factor: int, seed: int) -> Sample:
        window = (slice(row, row + size), slice(column, column + size))
        before, after = (_coarser(image[:, *window], factor) for image in (city.before, city.after))
        change = _coarser_label(city.change[window], factor)
        half = factor // 2
        covers = [
            _pad(array[window][half::factor, half::factor], self.settings.crop, fill)
            for array, fill in (
                (city.landcover_before, IGNORE),
                (city.landcover_after, IGNORE),
                (city.weight_before, 0),
                (city.weight_after, 0),
            )
        ]
        crop = self.settings.crop
        before, after = (np.stack([_pad(band, crop, np.nan) for band in image]) for image in (before, after))
        self.flip.set_random_seed(seed)
        turned = self.flip(
            image=before.transpose(1, 2, 0),
            image2=after.transpose(1, 2, 0),
            mask=_pad(change, crop, IGNORE),
            **dict(zip(("lb", "la", "wb", "wa"), covers, strict=True)),
        )
        return {
            "before": torch.from_numpy(np.ascontiguousarray(turned["image"].transpose(2, 0, 1))),
            "after": torch.from_numpy(np.ascontiguousarray(turned["image2"].transpose(2, 0, 1))),
            "change": torch.from_numpy(np.ascontiguousarray(turned["mask"])).float(),
            "landcover_before": torch.from_numpy(np.ascontiguousarray(turned["lb"])).long(),
            "landcover_after": torch.from_numpy(np.ascontiguousarray(turned["la"])).long(),
            "weight_before": torch.from_numpy(np.ascontiguousarray(turned["wb"])).float() / 255,
            "weight_after": torch.from_numpy(np.ascontiguousarray(turned["wa"])).float() / 255,
        }


def _origin(
    rng: np.random.Generator, shape: tuple[int, ...], size: int, points: NDArray[np.int64] | None
) -> tuple[int, int]:
    """Return the row and column of a crop, anywhere or around one of `points`."""
    limits = [max(extent - size, 0) for extent in shape]
    if points is None:
        return int(rng.integers(limits[0] + 1)), int(rng.integers(limits[1] + 1))
    centre = points[rng.integers(len(points))] - rng.integers(size // 4, size - size // 4, size=2)
    return int(np.clip(centre[0], 0, limits[0])), int(np.clip(centre[1], 0, limits[1]))


def _coarser(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Average `(bands, h, w)` over blocks of `factor`; a block with any invalid pixel is invalid."""
    if factor == 1:
        return image
    bands, height, width = image.shape
    blocks = image.reshape(bands, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(2, 4)), dtype=np.float32)


def _coarser_label(change: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """A coarse pixel has changed where at least half of it did, is unknown where any of it is."""
    if factor == 1:
        return change
    height, width = change.shape
    blocks = change.reshape(height // factor, factor, width // factor, factor)
    unknown = (blocks == IGNORE).any(axis=(1, 3))
    share = (blocks == 1).mean(axis=(1, 3))
    return np.where(unknown, IGNORE, share >= 0.5).astype(np.uint8)


def _pad(array: NDArray[np.generic], size: int, fill: float) -> NDArray[np.generic]:
    """Pad a place smaller than the crop at its lower right with unknown."""
    missing = [(0, size - extent) for extent in array.shape]
    return array if not any(after for _, after in missing) else np.pad(array, missing, constant_values=fill)
