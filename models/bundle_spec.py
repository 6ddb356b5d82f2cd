"""What a bundle declares about its model: the `tuban:*` properties of `mlm.json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from tuban.data.classes import classes as land_classes
from tuban.errors import UsageError

Positive = Annotated[int, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class BundleSpec(BaseModel):
    """What a bundle declares about its model: the `tuban:*` properties of `mlm.json`.

    Attributes:
        name: lowercase name, e.g. `s2-change`; also the name of the folder under `models/zoo`.
        version: version of the weights.
        bands: canonical band names in the order of the input channels.
        required_bands: the bands without which the model must not be used; the others may be missing (fed as NaN).
        gsd_m: smallest and largest ground sampling distance in metres the model was made for.
        mean: training mean per band, in the units of the input.
        std: training standard deviation per band, in the units of the input.
        classes: unified land-cover classes, in the order of the land-cover channels; empty: a change bundle that tells
            no land cover.
        change_to_classes: what a change may have become; the likeliest of these is a change's `to_class`. Without
            land cover it is the first of them, as an assumption.
        units: of the input: `reflectance`, or `byte` (8-bit numbers divided by 255).
        tile: side in pixels of the square the network is fed, its halo included.
        halo: pixels at each side of the tile whose output is discarded.
        receptive_reach: how far the network sees, in pixels; a halo at least as large makes tiles agree exactly.
            None: not measured; the halo is then taken for it.
        stride: origins and sizes of what is fed are multiples of this many pixels.
        task: `change` (two dates in, change and, with classes, land cover of both out) or `landcover` (one date).
        network: what the network is rebuilt with beside bands and classes (`tuban.models.network.NetworkSpec`).
        threshold: calibrated probability from which a pixel counts as changed; of no use to a land-cover bundle.
        calibration: how probabilities were calibrated, and on what.
        metrics: what was measured, and on what.
        training: data, licences and parameters of the training.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, alias_generator=lambda field: f"tuban:{field}"
    )

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    version: Annotated[str, Field(min_length=1)]
    bands: Annotated[tuple[str, ...], Field(min_length=1)]
    required_bands: tuple[str, ...]
    gsd_m: tuple[Annotated[Finite, Field(gt=0)], Annotated[Finite, Field(gt=0)]]
    mean: tuple[Finite, ...]
    std: tuple[Annotated[Finite, Field(gt=0)], ...]
    classes: tuple[Positive, ...]
    change_to_classes: tuple[Positive, ...] = ()
    tile: Positive
    halo: Annotated[int, Field(ge=0)]
    receptive_reach: Annotated[int, Field(ge=0)] | None = None
    stride: Positive
    task: Literal["change", "landcover"] = "change"
    units: Literal["reflectance", "byte"] = "reflectance"
    network: dict[str, JsonValue] = Field(default_factory=dict)
    threshold: Annotated[float, Field(gt=0, lt=1)]
    calibration: dict[str, JsonValue] = Field(default_factory=dict)
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    training: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.bands)) != len(self.bands) or len(set(self.classes)) != len(self.classes):
            raise ValueError("bands and classes must not repeat")
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ValueError(f"mean and std need one number for each of the {len(self.bands)} bands")
        if strangers := set(self.required_bands) - set(self.bands):
            raise ValueError(f"required_bands {sorted(strangers)} are not among bands")
        if unknown := {*self.classes, *self.change_to_classes} - set(land_classes()):
            raise ValueError(f"classes {sorted(unknown)} are not unified classes (configs/classes.yaml)")
        if self.task == "landcover" and not self.classes:
            raise ValueError("a land-cover bundle needs classes")
        if self.classes and (unknown := set(self.change_to_classes) - set(self.classes)):
            raise ValueError(f"change_to_classes {sorted(unknown)} are not among classes")
        if self.gsd_m[0] > self.gsd_m[1]:
            raise ValueError("gsd_m must be [smallest, largest]")
        if self.tile % self.stride or self.halo % self.stride or self.tile <= 2 * self.halo:
            raise ValueError("tile and halo must be multiples of stride, and tile larger than twice the halo")
        return self


def declared(**values: Any) -> BundleSpec:
    """Return what a card says and what was measured as a bundle's declaration.

    Raises:
        UsageError: a value is out of its range or does not fit the others.
    """
    try:
        return BundleSpec(**values)
    except ValidationError as error:
        raise UsageError(f"the card of {values['name']!r}: {first_fault(error)}; correct the card") from error


def first_fault(error: ValidationError) -> str:
    """Return where a declaration is wrong first, and how."""
    detail = error.errors()[0]
    place, said = ".".join(str(part) for part in detail["loc"]), detail["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said
