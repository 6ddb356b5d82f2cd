"""Radiometric, geometric and sensor differences, applied to whole batches on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 (the field's standard alias)

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def augment(batch: dict[str, Tensor], bands: Sequence[str], settings: AugmentSettings) -> dict[str, Tensor]:
    """Return `batch` with random radiometry, shifts and missing bands; NaN (invalid) stays NaN.

    Args:
        batch: as `CropDataset` gives it, collated: images `(n, bands, h, w)` in reflectance.
        bands: canonical names of the channels.
        settings: sizes and probabilities.
    """
    before, after, change = batch["before"], batch["after"], batch["change"]
    batch = dict(batch)
    count = before.shape[0]
    same = torch.rand(count, device=before.device) < settings.same_date
    after = torch.where(same.view(-1, 1, 1, 1), before, after)
    batch["landcover_after"] = torch.where(same.view(-1, 1, 1), batch["landcover_before"], batch["landcover_after"])
    batch["weight_after"] = torch.where(same.view(-1, 1, 1), batch["weight_before"], batch["weight_after"])
    batch["change"] = torch.where(same.view(-1, 1, 1) & (change < 2), torch.zeros_like(change), change)
    before, after = _radiometry(before, after, bands, settings)
    after = _shift(after, settings)
    batch["before"], batch["after"] = _drop(before, after, bands, settings)
    return batch


def _radiometry(
    before: Tensor, after: Tensor, bands: Sequence[str], settings: AugmentSettings
) -> tuple[Tensor, Tensor]:
    count, channels = before.shape[:2]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=before.device)

    gain = torch.exp(settings.gain * normal(count, 1, 1, 1) + settings.band_gain * normal(count, channels, 1, 1))
    slope = torch.tensor([HAZE.get(band, 0.2) for band in bands], device=before.device).view(1, -1, 1, 1)
    haze = settings.haze * normal(count, 1, 1, 1) * slope
    residual = torch.exp(settings.date_gain * normal(count, channels, 1, 1))
    before = before * gain + haze + settings.noise * normal(*before.shape)
    after = after * gain * residual + haze + settings.noise * normal(*after.shape)
    return before, after


def _shift(image: Tensor, settings: AugmentSettings) -> Tensor:
    """Move some images by a subpixel shift, bilinearly; NaN spreads to the pixels it touches."""
    count, _, height, width = image.shape
    chosen = torch.rand(count, device=image.device) < settings.shift_probability
    if not bool(chosen.any()):
        return image
    shift = (torch.rand(count, 2, device=image.device) * 2 - 1) * settings.shift
    theta = torch.zeros(count, 2, 3, device=image.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, 0, 2], theta[:, 1, 2] = shift[:, 0] * 2 / width, shift[:, 1] * 2 / height
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(chosen.view(-1, 1, 1, 1), moved, image)


def _drop(before: Tensor, after: Tensor, bands: Sequence[str], settings: AugmentSettings) -> tuple[Tensor, Tensor]:
    """Make some samples look like sensors that lack bands, on both dates alike."""
    count = before.shape[0]
    keep = torch.ones(count, len(bands), dtype=torch.bool)
    for number in range(count):
        if torch.rand(()) >= settings.drop_bands:
            continue
        kind = int(torch.randint(len(SENSORS) + 1, ()))
        if kind < len(SENSORS):
            keep[number] = torch.tensor([band in SENSORS[kind] for band in bands])
        else:
            keep[number] = torch.rand(len(bands)) > 0.3
    mask = keep.to(before.device).view(count, -1, 1, 1)
    missing = torch.full_like(before, torch.nan)
    return torch.where(mask, before, missing), torch.where(mask, after, missing)
