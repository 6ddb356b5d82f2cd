"""How class rasters become polygons."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tuban.data.classes import classes


class VectorizeSettings(BaseModel):
    """How class rasters become polygons; areas in square metres, lengths in metres.

    Classes are named by their unified name or by their raster value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strip_pixels: int = Field(default=262_144, ge=1, description="pixels read at once")
    noded: bool = Field(default=True, description="a vertex wherever a neighbour's boundary ends, so edges are shared")
    mask_values: tuple[int, ...] = Field(default=(), description="classes left out, beside nodata")
    mmu: dict[str, float] = Field(default={}, description="minimum mapping unit by class, m2")
    min_area_m2: float = Field(default=0.0, ge=0, description="minimum mapping unit of classes that mmu does not name")
    below_min: Literal["flag", "merge"] = Field(
        default="flag", description="flag smaller polygons, or merge each into the neighbour of longest shared border"
    )
    simplify_m: float = Field(default=0.0, ge=0, description="how far a border may move; 0 keeps pixel edges")
    smooth: bool = Field(default=False, description="round the corners of simplified borders where there is room")
    square_classes: tuple[str, ...] = Field(default=(), description="classes whose outlines get right angles")
    class_names: Literal["unified", "value"] = Field(
        default="unified", description="`class` holds the unified class name where there is one, or the value"
    )

    @field_validator("mmu", "square_classes")
    @classmethod
    def _known(cls, named: dict[str, float] | tuple[str, ...]) -> dict[str, float] | tuple[str, ...]:
        """Refuse names that are no class, which would be without effect."""
        unknown = [name for name in named if name not in _values() and not name.isdecimal()]
        if unknown:
            raise ValueError(
                f"no class is called {', '.join(unknown)}; use a raster value or one of {', '.join(_values())}"
            )
        if isinstance(named, dict) and any(area < 0 for area in named.values()):
            raise ValueError("a minimum mapping unit is an area of at least 0 m2")
        return named

    @model_validator(mode="after")
    def _consistent(self) -> VectorizeSettings:
        """Refuse what could only be ignored."""
        if self.simplify_m and not self.noded:
            raise ValueError(
                "simplify_m needs noded=true: only shared vertices let both sides of a border change alike"
            )
        if (self.smooth or self.square_classes) and not self.simplify_m:
            raise ValueError("smooth and square_classes shape simplified borders; give simplify_m (--simplify) as well")
        return self

    @property
    def measures(self) -> bool:
        """Whether any class has a minimum mapping unit."""
        return bool(self.min_area_m2) or any(self.mmu.values())

    def unit_of(self, value: int) -> float:
        """Return the minimum mapping unit of a class value in m2."""
        return self.mmu.get(str(value), self.mmu.get(_name(value), self.min_area_m2))

    def squares(self, value: int) -> bool:
        """Return whether outlines of a class value are squared."""
        return str(value) in self.square_classes or _name(value) in self.square_classes


@cache
def tiers(name: str) -> dict[str, float]:
    """Return the shipped minimum mapping units `configs/mmu/<name>.yaml`, m2 by class name."""
    table: dict[str, float] = yaml.safe_load(
        files("tuban.configs").joinpath("mmu", f"{name}.yaml").read_text(encoding="utf-8")
    )
    return table


@cache
def _values() -> dict[str, int]:
    return {entry.name: value for value, entry in classes().items()}


def _name(value: int) -> str:
    table = classes()
    return table[value].name if value in table else ""
