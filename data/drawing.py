"""What `tuban demo` draws, read from `configs/demo.yaml`: place, dates, season, sites, decoys and plan."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic resolves it
from functools import cache
from importlib.resources import files
from typing import Literal

import shapely
import yaml
from affine import Affine
from pydantic import BaseModel, ConfigDict, Field
from shapely import affinity

Point = tuple[float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Grid(_Part):
    """Where the chip is laid: CRS, upper left corner and pixel size in metres."""

    crs: str
    left: float
    top: float
    pixel_m: float = Field(gt=0)

    @property
    def transform(self) -> Affine:
        """Pixel (column, row) to map coordinates."""
        return Affine(self.pixel_m, 0, self.left, 0, -self.pixel_m, self.top)


class Season(_Part):
    """What differs between the dates without any construction; digital numbers are reflectance x 10000."""

    gain: tuple[float, ...]
    offset: tuple[float, ...]
    noise: float = Field(ge=0)
    shift_px: Point
    blur_px: float = Field(ge=0)


class BuiltUp(_Part):
    """Which pixels of the chip are its settlements: boxes are (column, row, column, row)."""

    boxes: tuple[tuple[int, int, int, int], ...]
    min_blue: float
    max_ndvi: float


class BareField(_Part):
    """Which pixels of the chip are a ploughed field."""

    box: tuple[int, int, int, int]
    max_ndvi: float


class Site(_Part):
    """One painted construction site; `at` in pixels, `size` in metres, `angle` in degrees counter-clockwise."""

    id: str
    what: str
    shape: Literal["block", "ell"]
    at: Point
    size: Point
    angle: float
    expects: str

    def polygon(self, grid: Grid) -> shapely.Polygon:
        """Return the outline in map coordinates."""
        width, height = self.size
        shape = shapely.box(-width / 2, -height / 2, width / 2, height / 2)
        if self.shape == "ell":  # a quarter of the block stays open
            shape = shape.difference(shapely.box(0, 0, width, height))
        x, y = grid.transform @ self.at
        return affinity.translate(affinity.rotate(shape, self.angle, origin=(0, 0)), x, y)


class Decoy(_Part):
    """A field whose crop changed: real change, but no construction."""

    id: str
    what: str
    ring: tuple[Point, ...]


class DrawnPermit(_Part):
    """A permit of the drawn plan; one without dates cannot be judged."""

    kind: str
    number: str
    valid_from: dt.date | None = Field(alias="from")
    valid_to: dt.date | None = Field(alias="to")
    ring: tuple[Point, ...]


class DrawnPlan(_Part):
    """The zones of the drawn plan, as rings in pixels."""

    permanent_basic_farmland: tuple[tuple[Point, ...], ...]
    ecological_red_line: tuple[tuple[Point, ...], ...]
    urban_development_boundary: tuple[tuple[Point, ...], ...]
    villages: tuple[tuple[Point, ...], ...]
    permits: tuple[DrawnPermit, ...]


class LiveSettings(_Part):
    """Where `--live` looks: a STAC API, a collection, a box in degrees and the two spans of dates."""

    api: str
    collection: str
    bbox: tuple[float, float, float, float]
    before: str
    after: str
    max_cloud: float = Field(ge=0, le=100)
    max_items: int = Field(gt=0)


class DemoSettings(_Part):
    """Everything that `configs/demo.yaml` says."""

    grid: Grid
    bands: tuple[str, ...]
    dates: dict[Literal["before", "after"], dt.date]
    season: Season
    built_up: BuiltUp
    bare_field: BareField
    sites: tuple[Site, ...]
    decoys: tuple[Decoy, ...]
    plan: DrawnPlan
    live: LiveSettings


@cache
def demo_settings() -> DemoSettings:
    """Return the shipped drawing."""
    text = files("tuban.configs").joinpath("demo.yaml").read_text(encoding="utf-8")
    return DemoSettings.model_validate(yaml.safe_load(text))


def to_map(ring: tuple[Point, ...], grid: Grid) -> shapely.Polygon:
    """Return a ring of (column, row) as a polygon in map coordinates."""
    return shapely.Polygon([grid.transform @ point for point in ring])
