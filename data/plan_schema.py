"""The schema of `plan.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tuban.data.vector import plan_table
from tuban.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

PermitKind = Literal["conversion", "temporary", "facility", "homestead", "emergency", "opinion"]


class LayerSpec(BaseModel):
    """One entry of `layers`. Fields that are left out take the role's defaults in `configs/plan.yaml`.

    Attributes:
        role: what the layer means; the roles of the contract, or any other name that a rule pack uses.
        kind: of permits.
        path: vector file, relative to the file that names it.
        layer: layer in it; may be left out where there is only one.
        class_system: code table of `class_field`.
        class_field: field of land-use codes.
        name_field: field of land-use names, checked against the codes.
        id_field: field that identifies a feature.
        accuracy_m: positional accuracy, metres.
        valid_from: field of the approval date.
        valid_to: field of the expiry date.
        number: field of the document number.
        encoding: of a Shapefile's attributes.
        guess_crs: guess a missing CRS.
        central_meridian: degrees, for six-digit eastings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str = Field(min_length=1)
    path: str = Field(min_length=1)
    layer: str | None = None
    kind: PermitKind | None = None
    class_system: str | None = None
    class_field: str | None = None
    name_field: str | None = None
    id_field: str | None = None
    accuracy_m: float | None = Field(default=None, ge=0)
    valid_from: str | None = None
    valid_to: str | None = None
    number: str | None = None
    encoding: str | None = None
    guess_crs: bool | None = None
    central_meridian: float | None = None

    @model_validator(mode="after")
    def _permit_has_kind(self) -> LayerSpec:
        if (self.role == "permit") != (self.kind is not None):
            kinds = ", ".join(plan_table()["permit_kinds"])
            raise ValueError(f"a layer of role permit, and only that, needs a kind: one of {kinds}")
        return self


class PlanSpec(BaseModel):
    """The whole of `plan.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    jurisdiction: str = "cn"
    layers: tuple[LayerSpec, ...] = Field(min_length=1)


def read_spec(path: Path) -> PlanSpec:
    """Return the checked content of a `plan.yaml`.

    Raises:
        PlanError: not YAML, or a key is unknown, missing or wrong; the message gives file, key and remedy.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(
            f"{path}: not readable as UTF-8 YAML ({' '.join(str(error).split())}); mend the syntax"
        ) from error
    if not isinstance(content, dict):
        raise PlanError(f"{path}: expected a mapping with jurisdiction and layers; docs/plans.md shows one")
    try:
        return PlanSpec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "top level"
        accepted = PlanSpec.model_fields if len(first["loc"]) == 1 else LayerSpec.model_fields
        hint = f"; known keys: {', '.join(accepted)}" if first["type"] == "extra_forbidden" else ""
        raise PlanError(
            f"{path}: {key}: {first['msg']} (got {first['input']!r:.80}){hint}; see docs/plans.md"
        ) from error
