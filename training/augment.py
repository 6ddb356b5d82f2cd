"""Radiometric, geometric and sensor differences, applied to whole batches on the device.

What is drawn for a crop is a function of the seed and the crop's index, whichever process, batch or step it is in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 (the field's standard alias)

from tuban.training.atmosphere import BANDS, drawn, with_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike
    from torch import Tensor

    from tuban.training.settings import AugmentSettings

# Haze scatters short wavelengths: its additive share per canonical band, relative to the blue.
HAZE = {
    "B02": 1.0,
    "B03": 0.7,
    "B04": 0.5,
    "B05": 0.45,
    "B06": 0.35,
    "B07": 0.3,
    "B08": 0.25,
    "B8A": 0.22,
    "B11": 0.05,
    "B12": 0.02,
}
# Band sets that real sensors deliver, as canonical names.
SENSORS = (
    ("B02", "B03", "B04", "B08", "B11", "B12"),  # Landsat
    ("B02", "B03", "B04", "B08"),  # the 10 m bands, Gaofen, NAIP
)
# What a growing or a harvested crop does to each band: infrared up and red and shortwave down, or the reverse.
SEASON = {"B04": -0.7, "B05": -0.3, "B06": 0.6, "B07": 0.9, "B08": 1.0, "B8A": 1.0, "B11": -0.4, "B12": -0.6}
OFFSET = 0.1
"""Reflectance of the +1000 counts that Sentinel-2's processing adds since baseline 04.00, where nobody took it off."""


class Draws:
    """One random generator for each crop of a batch."""

    def __init__(self, seed: int, index: Tensor) -> None:
        """Take up the generators of the crops `index` `(n,)` of the run with `seed`."""
        # The 1 keeps these apart from the generators that cut the crops.
        self.generators = [np.random.default_rng((seed, int(number), 1)) for number in index.tolist()]
        self.device = index.device

    def each(self, draw: Callable[[np.random.Generator], ArrayLike]) -> Tensor:
        """Return what `draw` gives for each crop, stacked float32 `(n, …)`."""
        values = np.stack([np.asarray(draw(generator), dtype=np.float32) for generator in self.generators])
        return torch.from_numpy(values).to(self.device)

    def chosen(self, share: float) -> Tensor:
        """Return which crops fall into a share, `(n, 1, 1, 1)` bool."""
        return self.each(lambda rng: rng.random() < share).bool().view(-1, 1, 1, 1)

    def noise(self, like: Tensor) -> Tensor:
        """Return standard normal noise of the shape of `like` `(n, …)`."""
        result = torch.empty_like(like)
        for part, rng in zip(result, self.generators, strict=True):
            part.normal_(generator=torch.Generator(like.device).manual_seed(int(rng.integers(2**63))))
        return result


def augment(batch: dict[str, Tensor], bands: Sequence[str], settings: AugmentSettings, seed: int) -> dict[str, Tensor]:
    """Return `batch` with random radiometry, shifts and missing bands; NaN (invalid) stays NaN.

    Args:
        batch: as `CropDataset` gives it, collated: images `(n, bands, h, w)` in reflectance; one date or two.
        bands: canonical names of the channels.
        settings: sizes and probabilities.
        seed: of the run.
    """
    batch, draws = dict(batch), Draws(seed, batch["index"])
    if "after" in batch and settings.same_date:
        batch = _same_date(batch, draws, settings)
    dates = [name for name in ("before", "after") if name in batch]
    images = [batch[name] for name in dates]
    if settings.surface:
        images = _surface(images, bands, draws, settings)
    images = _common(images, bands, draws, settings)
    if len(images) == 2:
        images[1] = _shifted(_later(images[1], bands, draws, settings), draws, settings)
    if settings.noise:
        images = [image + settings.noise * draws.noise(image) for image in images]
    if settings.drop_bands:
        seen = draws.each(lambda rng: _seen(rng, bands, settings.drop_bands)).bool()[..., None, None]
        images = [torch.where(seen, image, torch.nan) for image in images]
    return batch | dict(zip(dates, images, strict=True))


def _same_date(batch: dict[str, Tensor], draws: Draws, settings: AugmentSettings) -> dict[str, Tensor]:
    """Make AFTER of some crops the same as BEFORE: nothing has changed, however the radiometry differs."""
    same = draws.chosen(settings.same_date)
    flat = same[:, 0]
    change = batch["change"]
    names = ("landcover_after", "weight_after")
    labels = {name: torch.where(flat, batch[name.replace("after", "before")], batch[name]) for name in names}
    return (
        batch
        | labels
        | {
            "after": torch.where(same, batch["before"], batch["after"]),
            "change": torch.where(flat & (change < 2), torch.zeros_like(change), change),
        }
    )


def _surface(images: list[Tensor], bands: Sequence[str], draws: Draws, settings: AugmentSettings) -> list[Tensor]:
    """Take a random atmosphere off some crops: the same off both dates, each with an error of its own."""
    known = [band in BANDS for band in bands]
    names = [band for band in bands if band in BANDS]
    if not names:
        return images

    def terms(rng: np.random.Generator) -> ArrayLike:
        """Path, transmittance, gas and albedo `(dates, 4, bands)`; those of unknown bands change nothing."""
        sky, take = drawn(rng, names), rng.random() < settings.surface
        table = np.zeros((len(images), 4, len(bands)))
        table[:, 1:3] = 1
        for row in table:
            taken = with_error(sky, rng, settings.surface_error)
            if take:
                row[:, known] = taken.path, taken.transmittance, taken.gas, taken.albedo
        return table

    table = draws.each(terms)[..., None, None]
    result = []
    for number, image in enumerate(images):
        path, transmittance, gas, albedo = table[:, number].unbind(1)
        y = (image / gas - path) / transmittance
        changed = (table[:, number, 1:2] != 1).any(2, keepdim=True).squeeze(1)
        # Surface products end at 0; NaN stays NaN.
        result.append(torch.where(changed, (y / (1 + albedo * y)).clamp(min=0.0), image))
    return result


def _common(images: list[Tensor], bands: Sequence[str], draws: Draws, settings: AugmentSettings) -> list[Tensor]:
    """Apply one gain and one haze to all dates of a crop."""
    count = len(bands)
    spread = draws.each(lambda rng: settings.gain * rng.normal() + settings.band_gain * rng.normal(size=count))
    gain = torch.exp(spread)[..., None, None]
    haze = draws.each(lambda rng: settings.haze * rng.normal() * _slope(bands))[..., None, None]
    return [image * gain + haze for image in images]


def _later(after: Tensor, bands: Sequence[str], draws: Draws, settings: AugmentSettings) -> Tensor:
    """Apply to AFTER what differs between two dates of the same land: season, light, haze, a forgotten offset."""
    if settings.season:
        response = torch.tensor([SEASON.get(band, 0.0) for band in bands], device=after.device).view(1, -1, 1, 1)
        strength = draws.each(lambda rng: settings.season * rng.normal()).view(-1, 1, 1, 1)
        after = after * torch.exp(strength * response * _greenness(after, bands))
    spread = draws.each(lambda rng: settings.date_gain * rng.normal(size=len(bands)))
    haze = draws.each(
        lambda rng: settings.date_haze * rng.normal() * _slope(bands) + OFFSET * (rng.random() < settings.offset)
    )
    return after * torch.exp(spread)[..., None, None] + haze[..., None, None]


def _greenness(image: Tensor, bands: Sequence[str]) -> Tensor:
    """Return how much of a pixel is vegetation, 0–1, `(n, 1, h, w)`: by NDVI, or by its green without an infrared."""
    names = list(bands)
    if {"B08", "B04"} <= set(names):
        bright, dark = image[:, names.index("B08")], image[:, names.index("B04")]
    elif {"B03", "B04"} <= set(names):
        bright, dark = image[:, names.index("B03")], image[:, names.index("B04")]
    else:
        return torch.zeros_like(image[:, :1])
    index = (bright - dark) / (bright + dark).clamp(min=1e-3)
    return (index / 0.6).clamp(0, 1).nan_to_num(0.0)[:, None]


def _slope(bands: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([HAZE.get(band, 0.2) for band in bands])


def _shifted(image: Tensor, draws: Draws, settings: AugmentSettings) -> Tensor:
    """Move some images by a subpixel shift, bilinearly; NaN spreads to the pixels it touches."""
    if not settings.shift or not settings.shift_probability:
        return image
    chosen = draws.chosen(settings.shift_probability)
    count, _, height, width = image.shape
    shift = draws.each(lambda rng: rng.uniform(-settings.shift, settings.shift, 2))
    theta = torch.zeros(count, 2, 3, device=image.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, 0, 2], theta[:, 1, 2] = shift[:, 0] * 2 / width, shift[:, 1] * 2 / height
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(chosen, moved, image)


def _seen(rng: np.random.Generator, bands: Sequence[str], share: float) -> list[bool]:
    """Return which bands a crop keeps: all, those of a real sensor, or some at random; never none."""
    if rng.random() >= share:
        return [True] * len(bands)
    kind = int(rng.integers(len(SENSORS) + 1))
    seen = [band in SENSORS[kind] for band in bands] if kind < len(SENSORS) else (rng.random(len(bands)) > 0.3).tolist()
    return seen if any(seen) else [True] * len(bands)
