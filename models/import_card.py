"""What a user says about a model made elsewhere: the YAML that `tuban models import` reads."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tuban.configs.shipped import named_text
from tuban.errors import UsageError
from tuban.models.bundle_spec import first_fault

Finite = Annotated[float, Field(allow_inf_nan=False)]
Step = dict[Literal["multiply", "divide", "add", "clip", "log", "sigmoid"], Finite | tuple[Finite, ...] | bool | None]


class GraphSpec(BaseModel):
    """What an ONNX graph takes and gives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: tuple[str, ...] = Field((), description="names of its inputs; empty: its own, in their order")
    output: str = Field("", description="name of the output to use; empty: its first")
    layout: Literal["nchw", "nhwc"] = "nchw"
    steps: tuple[Step, ...] = Field((), description="from the bundle's units to what it wants, one step after another")
    activation: Literal["softmax", "sigmoid", "none"] = Field("none", description="what makes its output probabilities")
    channel: int | None = Field(None, ge=0, description="channel of its output that is change; null: it has none")

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if any(len(step) != 1 for step in self.steps):
            raise ValueError("each step is one of multiply, divide, add, clip, log and sigmoid")
        for step in self.steps:
            ((kind, value),) = step.items()
            numbers = value if isinstance(value, tuple) else (value,)
            if kind not in {"log", "sigmoid"} and not (numbers and all(type(number) is float for number in numbers)):
                raise ValueError(f"{kind} needs a number, or several in brackets")
            if kind == "clip" and isinstance(value, tuple) and len(value) != 2:
                raise ValueError("clip needs the largest, or [smallest, largest]")
        return self


class ImportCard(BaseModel):
    """What a model made elsewhere is; everything a bundle declares that cannot be measured here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: Annotated[str, Field(coerce_numbers_to_str=True)]
    task: Literal["change", "landcover"]
    bands: tuple[str, ...]
    required_bands: tuple[str, ...] | None = Field(None, description="null: all of them")
    gsd_m: tuple[Finite, Finite]
    units: Literal["reflectance", "byte"] = "reflectance"
    mean: tuple[Finite, ...] = Field(description="what a missing value is taken for, per band, in these units")
    std: tuple[Finite, ...] = Field((), description="per band; of weights what the network is fed is divided by")
    classes: tuple[int, ...] = Field(
        (), description="unified class of each channel; of a graph several may share one, and 0 is left out"
    )
    change_to_classes: tuple[int, ...] = ()
    stride: int = Field(32, ge=1, description="sides of what a graph is fed are multiples of this many pixels")
    tile: int | None = Field(None, ge=1)
    halo: int | None = Field(None, ge=0, description="of a graph, pixels; null: 64, and seams may show")
    threshold: float = Field(0.5, gt=0, lt=1)
    calibration: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    training: dict[str, Any] = Field({}, description="data, how, licence, limits, …: what the model card prints")
    graph: GraphSpec | None = Field(None, description="of an ONNX file or a SavedModel")
    network: dict[str, Any] | None = Field(
        None, description="of weights: encoder, depth, width, architecture, fusion …"
    )
    rename: dict[str, str] = Field({}, description="of weights: beginning of a tensor's name -> what it becomes")

    @property
    def described(self) -> GraphSpec:
        """What the graph takes and gives; the defaults where nothing is said."""
        return self.graph or GraphSpec()

    def declared(self) -> dict[str, Any]:
        """Return what a bundle takes over from the card as it stands."""
        names = ("name", "version", "task", "bands", "gsd_m", "units", "mean", "change_to_classes", "threshold")
        more = ("calibration", "metrics")
        required = self.bands if self.required_bands is None else self.required_bands
        return {**{name: getattr(self, name) for name in (*names, *more)}, "required_bands": required}

    @field_validator("training")
    @classmethod
    def _listed(cls, training: dict[str, Any]) -> dict[str, Any]:
        limits = training.get("limits", [])
        limits = [limits] if isinstance(limits, str) else limits
        if not isinstance(limits, list) or not all(isinstance(line, str) for line in limits):
            raise ValueError("limits are a list of sentences")
        return training | {"limits": limits} if limits else training

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.mean) != len(self.bands) or (self.std and len(self.std) != len(self.bands)):
            raise ValueError(f"mean and std need one number for each of the {len(self.bands)} bands")
        if self.task == "landcover" and not any(self.classes):
            raise ValueError("a land-cover model needs classes, one unified class for each channel")
        if self.task == "change" and self.graph is not None and self.classes:
            raise ValueError("of a graph only the change is imported; leave classes empty")
        return self


def read_card(name: str) -> ImportCard:
    """Return the card of that name under `configs/imports`, or in that YAML file.

    Raises:
        UsageError: there is none, or it says something else than a card does.
    """
    text = named_text("imports", name, "import card")
    try:
        return ImportCard.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        said = first_fault(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        raise UsageError(f"{name}: {said}; docs/models.md says what a card holds") from error
