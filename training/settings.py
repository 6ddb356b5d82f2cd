"""What a training run can be told, checked before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SENTINEL2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(_Settings):
    """One more data set beside `data.root`."""

    root: Path = Field(description="folder of the data set")
    dataset: str | None = Field(None, description="its id (tuban data list); null to recognise it by its layout")
    weight: float = Field(1.0, gt=0, description="how often its places are drawn, relative to the other data sets")


class DataSettings(_Settings):
    """Where the places are and how crops are drawn from them."""

    root: Path = Field(description="folder of a data set: places as in OSCD, or any layout that tuban data list names")
    dataset: str | None = Field(None, description="its id; null to recognise it by its layout")
    weight: float = Field(1.0, gt=0, description="how often its places are drawn, relative to those of `more`")
    more: tuple[SourceSettings, ...] = Field((), description="data sets that are mixed in")
    places: tuple[str, ...] | None = Field(None, description="places to train on; null for all that are left")
    validation: tuple[str, ...] = Field((), description="places that choose the best weights and stop early")
    holdout: tuple[str, ...] = Field((), description="places kept out of training, predicted after it")
    bands: tuple[str, ...] = SENTINEL2
    classes: tuple[int, ...] = Field(
        (1, 4, 5, 6, 7, 12, 18), description="unified land-cover classes; [] for change alone"
    )
    crop: int = Field(96, ge=32, multiple_of=16, description="side of a crop, pixels")
    foreground: float = Field(0.4, ge=0, le=1, description="share of crops around a changed pixel")
    coarse: float = Field(0.12, ge=0, le=1, description="share of crops averaged to 2 or 3 times the pixel size")
    change_to: tuple[int, ...] = Field(
        (), description="classes whose appearance counts as change in pseudo-pairs; [] for any class"
    )
    workers: int = Field(1, ge=0, le=64, description="processes that cut crops; 0 cuts them in the training process")
    cache: Path | None = Field(
        None, description="folder for decoded places, mapped into memory: for data sets larger than the memory"
    )


class AugmentSettings(_Settings):
    """Differences between what was trained on and what users have. 0 switches each off.

    Shares are of samples, 0–1. Gains are standard deviations of the logarithm. Additive terms are reflectance.
    """

    gain: float = Field(0.12, ge=0, le=1, description="illumination, common to both dates")
    band_gain: float = Field(0.05, ge=0, le=1, description="per band, common to both dates")
    haze: float = Field(0.02, ge=0, le=0.5, description="additive in the blue, less with wavelength; both dates")
    date_gain: float = Field(0.04, ge=0, le=1, description="per band, AFTER only: what normalisation leaves over")
    date_haze: float = Field(0.0, ge=0, le=0.5, description="as haze, AFTER only")
    season: float = Field(0.0, ge=0, le=1, description="gain of vegetation's infrared, inverse in its red; AFTER only")
    offset: float = Field(0.0, ge=0, le=1, description="share whose AFTER keeps an offset of +0.1 (+1000 counts)")
    noise: float = Field(0.003, ge=0, le=0.1, description="per pixel and band, each date")
    surface: float = Field(0.0, ge=0, le=1, description="share turned from top-of-atmosphere (L1C) to surface (L2A)")
    surface_error: float = Field(0.1, ge=0, le=0.5, description="relative error of that correction, per date and band")
    shift: float = Field(0.5, ge=0, le=4, description="largest subpixel shift of AFTER, pixels")
    shift_probability: float = Field(0.3, ge=0, le=1, description="share that is shifted")
    drop_bands: float = Field(0.25, ge=0, le=1, description="share that sees only some bands")
    same_date: float = Field(0.05, ge=0, le=1, description="share whose AFTER is BEFORE, augmented: no change")
    swap_dates: float = Field(0.0, ge=0, le=1, description="share whose dates are swapped")
    paste: float = Field(0.0, ge=0, le=1, description="share onto which changes of another place are pasted")
    cutmix: float = Field(0.0, ge=0, le=1, description="share with a rectangle of another labelled crop")
    pseudo_change: float = Field(
        0.5, ge=0, le=1, description="share of single images whose AFTER has regions of another image pasted in"
    )


class ModelSettings(_Settings):
    """The network; what each field means is said at `tuban.models.network.NetworkSpec`."""

    architecture: str = Field("tuban", description="tuban, or a decoder of segmentation-models-pytorch")
    encoder: str = Field("tu-tf_efficientnet_lite0", description="encoder of segmentation-models-pytorch")
    fusion: str = Field("all", description="all, difference, concat or attention")
    depth: int = Field(4, ge=2, le=5, description="encoder stages; the deepest has 2**depth pixels")
    width: tuple[int, ...] = Field((64, 48, 32, 16), description="channels of the decoder, deepest first")
    stem: int = Field(16, ge=4, description="channels at full resolution")
    initialise: str | None = Field("imagenet", description="imagenet, csmask, a safetensors file, or null for nothing")


class ChangeLoss(_Settings):
    """Weights of the terms that teach change."""

    bce: float = Field(1.0, ge=0, description="binary cross entropy")
    dice: float = Field(1.0, ge=0, description="soft Dice over the whole batch")
    focal: float = Field(0.0, ge=0)
    lovasz: float = Field(0.0, ge=0, description="Lovász hinge, per image")
    boundary: float = Field(0.0, ge=0, description="distance to the labelled outline, pixels")


class LandcoverLoss(_Settings):
    """Weights of the terms that teach land cover; label confidence weighs each pixel of each term."""

    ce: float = Field(1.0, ge=0, description="cross entropy")
    dice: float = Field(0.0, ge=0, description="soft Dice, mean over the classes present")
    focal: float = Field(0.0, ge=0)
    lovasz: float = Field(0.0, ge=0, description="Lovász softmax, mean over the classes present")
    boundary: float = Field(0.0, ge=0, description="distance to the outline of each class present, pixels")


class LossSettings(_Settings):
    """What is minimised."""

    change: ChangeLoss = ChangeLoss()
    landcover: LandcoverLoss = LandcoverLoss()
    landcover_weight: float = Field(0.4, ge=0, description="of all land-cover terms beside those of change")
    positive_weight: float | Literal["balanced"] = Field(
        2.0, description="weight of a changed pixel in the cross entropy; balanced: unchanged / changed of the labels"
    )
    class_weights: Literal["none", "sqrt", "balanced"] = Field(
        "none", description="land-cover classes weighed by their frequency in the labels to the power 0, -1/2 or -1"
    )
    focal_gamma: float = Field(2.0, ge=0, le=5)
    consistency: float = Field(
        0.0, ge=0, description="weight of agreement with the averaged network where nothing is labelled"
    )
    confidence: float = Field(0.9, ge=0.5, lt=1, description="how sure that teacher must be for a pixel to count")
    ramp: float = Field(0.3, ge=0, le=1, description="share of the steps over which that weight grows to its value")

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.positive_weight != "balanced" and self.positive_weight <= 0:
            raise ValueError("positive_weight must be greater than 0, or balanced")
        return self


class OptimSettings(_Settings):
    """Optimisation."""

    steps: int = Field(650, ge=1, description="optimiser steps")
    batch: int = Field(16, ge=2, description="crops per process and forward pass")
    accumulate: int = Field(1, ge=1, description="forward passes per optimiser step")
    lr: float = Field(2e-3, gt=0)
    encoder_lr: float = Field(7e-4, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    schedule: Literal["cosine", "onecycle", "constant", "poly"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the weight average that is kept")
    clip: float = Field(5.0, ge=0, description="largest norm of the gradient; 0 for none")
    freeze_norm: bool = Field(False, description="normalisation layers keep the statistics they start from")
    precision: Literal["bf16-mixed", "16-mixed", "32-true"] = "bf16-mixed"


class ValidateSettings(_Settings):
    """What happens between steps: checkpoints, and measuring on `data.validation`."""

    every: int = Field(100, ge=1, description="steps between checkpoints and validations")
    monitor: Literal["change/average_precision", "change/f1", "landcover/f1"] | None = Field(
        None, description="measure that names the best; null for average precision of change, or F1 of land cover"
    )
    patience: int = Field(0, ge=0, description="validations without a new best before training stops; 0 for never")
    keep: Literal["best", "last"] = Field("best", description="weights that are kept, where there is a validation")
    panels: int = Field(4, ge=0, description="places drawn as before | after | label | probability")


class CrossvalSettings(_Settings):
    """Which networks a cross-validation trains: one for each fold and seed."""

    folds: dict[str, tuple[str, ...]] | int | Literal["leave-one-out"] = Field(
        "leave-one-out", description="places of each fold, a number of folds by group, or one for each group"
    )
    neighbours: dict[str, tuple[str, ...]] = Field(
        {}, description="further places left out of a fold's training without being measured"
    )
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="one cross-validation for each; members of one network"
    )
    smooth: float = Field(
        0.0, ge=0, le=8, description="Gaussian over their mean logits of change, px, as on the release card"
    )

    @model_validator(mode="after")
    def _several(self) -> Self:
        if len(self.folds) < 2 if isinstance(self.folds, dict) else self.folds != "leave-one-out" and self.folds < 2:
            raise ValueError("a cross-validation needs at least 2 folds")
        return self


class TrainSettings(_Settings):
    """One training run."""

    name: str = "s2-change"
    out: Path = Path("outputs/train")
    task: Literal["change", "landcover"] = "change"
    seed: int = Field(0, ge=0)
    accelerator: str = Field("auto", description="auto, cpu, gpu, … as Lightning names them")
    devices: int = Field(1, ge=1, description="processes; each takes optim.batch crops")
    strategy: str = Field("auto", description="auto, ddp, ddp_spawn, … as Lightning names them")
    threads: int = Field(2, ge=1, description="CPU threads of each process")
    deterministic: bool = Field(False, description="refuse operations that may differ between equal runs on a GPU")
    resume: Literal["auto", "never"] = Field("auto", description="auto: an interrupted run in `out` goes on")
    fast_dev: bool = Field(False, description="two steps of everything: validation, checkpoint, panels, predictions")
    loggers: tuple[Literal["tensorboard", "csv", "mlflow"], ...] = ("tensorboard", "csv")
    mlflow_uri: str = Field("sqlite:///outputs/mlflow.db", description="where MLflow keeps runs")
    data: DataSettings
    augment: AugmentSettings = AugmentSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    optim: OptimSettings = OptimSettings()
    validation: ValidateSettings = ValidateSettings()
    crossval: CrossvalSettings | None = None
