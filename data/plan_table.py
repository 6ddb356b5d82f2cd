"""What is known about plans before one is opened: `configs/plan.yaml` and, by jurisdiction, `configs/plan/*.yaml`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tuban.configs.shipped import shipped_names


class PlanDefaults(BaseModel):
    """What is taken where a plan says nothing.

    Attributes:
        jurisdiction: of a `plan.yaml` that names none.
        default_accuracy_m: positional accuracy of a layer that states none, metres.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    jurisdiction: str
    default_accuracy_m: float = Field(ge=0)


class RoleDefaults(BaseModel):
    """What layers of one role usually look like.

    Attributes:
        title: by language.
        layers: names by which such layers are recognised, in capitals.
        id_fields: fields that may identify a feature, the best first.
        area_fields: stated areas and how many square metres their unit is.
        class_system, class_field, name_field: land-use codes, where the layer has such fields.
        class_required: a layer without codes is refused.
        overlaps: features of the layer must not overlap.
        gaps: features of the layer cover the ground.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: dict[str, str] = {}
    layers: tuple[str, ...] = ()
    id_fields: tuple[str, ...] = ()
    area_fields: dict[str, float] = {}
    class_system: str | None = None
    class_field: str | None = None
    name_field: str | None = None
    class_required: bool = False
    overlaps: bool = False
    gaps: bool = False


class PermitDefaults(BaseModel):
    """What a recognised permit layer is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    number: str | None = None
    valid_from: str | None = None
    valid_to: str | None = None


class PlanTable(BaseModel):
    """What plans of one jurisdiction call their layers and fields.

    Attributes:
        personal_fields: never loaded.
        area_tolerance_m2: stated areas may differ by it, and zones may overlap by it.
        exclusive_zones: roles whose zones must not overlap one another.
        roles: by name.
        permit_layers: recognised permit layers, by name.
        permit_kinds: kinds that a permit may have; empty: any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    personal_fields: tuple[str, ...] = ()
    area_tolerance_m2: float = Field(default=1.0, ge=0)
    exclusive_zones: tuple[str, ...] = ()
    roles: dict[str, RoleDefaults] = {}
    permit_layers: dict[str, PermitDefaults] = {}
    permit_kinds: tuple[str, ...] = ()

    def role(self, name: str) -> RoleDefaults:
        """Return what is usual for a role; nothing for one that the table does not know."""
        return self.roles.get(name, RoleDefaults())


@cache
def plan_defaults() -> PlanDefaults:
    """Return `configs/plan.yaml`."""
    return PlanDefaults.model_validate(_yaml("plan.yaml"))


def jurisdictions() -> tuple[str, ...]:
    """Return the jurisdictions that have a table, sorted."""
    return shipped_names("plan")


@cache
def plan_table(jurisdiction: str) -> PlanTable:
    """Return the table of a jurisdiction; an empty one where there is none.

    Example:
        >>> plan_table("cn").role("land_use_baseline").class_field
        'DLBM'
        >>> plan_table("nowhere").roles
        {}
    """
    if jurisdiction not in jurisdictions():
        return PlanTable()
    return PlanTable.model_validate(_yaml("plan", f"{jurisdiction}.yaml"))


def personal_fields() -> tuple[str, ...]:
    """Return the fields that name people in the plans of any jurisdiction."""
    return tuple(dict.fromkeys(name for entry in jurisdictions() for name in plan_table(entry).personal_fields))


def _yaml(*path: str) -> object:
    return yaml.safe_load(files("tuban.configs").joinpath(*path).read_text(encoding="utf-8"))
