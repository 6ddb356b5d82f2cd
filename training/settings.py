"""What a training run can be told, checked before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SENTINEL2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Settings):
    """Where the pairs are and how crops are drawn."""

    root: Path = Field(description="folder of city folders, as in OSCD")
    places: tuple[str, ...] | None = Field(None, description="city folders to train on; null for all")
    holdout: tuple[str, ...] = Field((), description="city folders kept out of training, predicted after it")
    bands: tuple[str, ...] = SENTINEL2
    classes: tuple[int, ...] = (1, 4, 5, 6, 7, 12, 18)
    crop: int = Field(96, ge=32, description="crop size in pixels, a multiple of 16")
    foreground: float = Field(0.4, ge=0, le=1, description="share of crops centred on a changed pixel")
    coarse: float = Field(0.12, ge=0, le=1, description="share of crops averaged to 2 or 3 times the pixel size")


class AugmentSettings(_Settings):
    """Differences between what was trained on and what users have; standard deviations or probabilities."""

    gain: float = Field(0.12, ge=0, description="season and illumination, common to both dates, per scene")
    band_gain: float = Field(0.05, ge=0, description="per band, common to both dates")
    haze: float = Field(0.02, ge=0, description="additive reflectance in the blue, decreasing with wavelength")
    date_gain: float = Field(0.04, ge=0, description="per band, AFTER only: what normalisation leaves over")
    noise: float = Field(0.003, ge=0, description="reflectance")
    shift: float = Field(0.5, ge=0, description="largest subpixel shift of AFTER, pixels")
    shift_probability: float = Field(0.3, ge=0, le=1)
    drop_bands: float = Field(0.25, ge=0, le=1, description="share of samples that see only some bands")
    same_date: float = Field(
        0.05, ge=0, le=1, description="share of samples whose AFTER is BEFORE, augmented: no change"
    )


class OptimSettings(_Settings):
    """Optimisation."""

    steps: int = Field(650, ge=1)
    batch: int = Field(16, ge=2)
    lr: float = Field(2e-3, gt=0)
    encoder_lr: float = Field(7e-4, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the weight average that is kept")
    positive_weight: float = Field(2.0, gt=0, description="weight of a changed pixel in the cross entropy")
    dice: float = Field(1.0, ge=0)
    landcover: float = Field(0.4, ge=0, description="weight of the land-cover loss")
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    clip: float = Field(5.0, gt=0)


class TrainSettings(_Settings):
    """One training run."""

    name: str = "s2-change"
    out: Path = Path("outputs/train")
    seed: int = 0
    imagenet: bool = True
    accelerator: str = "auto"
    threads: int = Field(2, ge=1)
    data: DataSettings
    augment: AugmentSettings = AugmentSettings()
    optim: OptimSettings = OptimSettings()
