"""The schema of `plan.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tuban.data.plan_table import plan_defaults, plan_table
from tuban.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

_NAME = r"^[a-z][a-z0-9_]*$"  # snake_case, so that a role reads the same in plans, rule packs and columns


class LayerSpec(BaseModel):
    """One entry of `layers`. Fields that are left out take the role's defaults in `configs/plan/<jurisdiction>.yaml`.

    Attributes:
        role: what the layer means: any name in snake_case that a rule pack uses.
        kind: of permits.
        path: vector file, relative to the file that names it; or the address of a PostGIS database,
            `postgresql://user@host/database`, without a password.
        layer: layer in it, `schema.table` in a database; may be left out where a file has only one.
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

    role: str = Field(pattern=_NAME)
    path: str = Field(min_length=1)
    layer: str | None = None
    kind: str | None = Field(default=None, pattern=_NAME)
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


class PlanSpec(BaseModel):
    """The whole of `plan.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    jurisdiction: str = Field(default_factory=lambda: plan_defaults().jurisdiction, min_length=1)
    layers: tuple[LayerSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _permits_have_kinds(self) -> PlanSpec:
        known = plan_table(self.jurisdiction).permit_kinds
        choice = f": one of {', '.join(known)}" if known else ", such as conversion"
        for index, entry in enumerate(self.layers):
            if (entry.role == "permit") != (entry.kind is not None):
                raise ValueError(f"layers.{index}: a layer of role permit, and only that, needs a kind{choice}")
            if known and entry.kind is not None and entry.kind not in known:
                raise ValueError(f"layers.{index}.kind: {entry.kind!r} is no kind of permit; give one{choice}")
        return self


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
        raise PlanError(f"{path}: {_said(error)}; see docs/plans.md") from error


def _said(error: ValidationError) -> str:
    """Return the first thing that is wrong: key, why, what stood there."""
    first = error.errors()[0]
    if not first["loc"]:
        return first["msg"].removeprefix("Value error, ")
    key = ".".join(str(part) for part in first["loc"])
    accepted = PlanSpec.model_fields if len(first["loc"]) == 1 else LayerSpec.model_fields
    hint = f"; known keys: {', '.join(accepted)}" if first["type"] == "extra_forbidden" else ""
    return f"{key}: {first['msg']} (got {first['input']!r:.80}){hint}"
