"""Scores change polygons against known sites, in what an inspector counts: sites found, and visits for nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from pydantic import BaseModel, ConfigDict, Field

from tuban.errors import VectorError
from tuban.postprocess.layers import iter_layer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import geopandas as gpd
    from numpy.typing import NDArray


class ScoreSettings(BaseModel):
    """When a site counts as found, and when a change counts as a false alarm.

    Attributes:
        found_share: a site is found when change polygons cover at least this share of its area.
        tolerance_m: sites are grown by this much, in metres, before a change is called false; one Sentinel-2 pixel.
        true_share: a change is a false alarm when less than this share of its area lies on a grown site.
        visit: statuses of findings that send an inspector out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    found_share: float = Field(0.5, gt=0, le=1)
    tolerance_m: float = Field(10.0, ge=0)
    true_share: float = Field(0.1, gt=0, le=1)
    visit: tuple[str, ...] = ("suspected", "inconclusive")


@dataclass(frozen=True, slots=True)
class Score:
    """What was found.

    Attributes:
        sites: known sites.
        found: of them, those found.
        changes: change polygons.
        false_alarms: of them, those on no site.
        inspections: changes that somebody would visit: those with a finding to look into, or every change where no plan
            was checked.
        wasted_inspections: of them, those on no site.
        covered: share of each site's area that change polygons cover, by site.
    """

    sites: int
    found: int
    changes: int
    false_alarms: int
    inspections: int
    wasted_inspections: int
    covered: dict[str, float] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """Return the score, JSON-ready."""
        return asdict(self)


def score(findings: Path, sites: gpd.GeoDataFrame, *, planned: bool, settings: ScoreSettings | None = None) -> Score:
    """Compare the layer `changes` of a findings file with the known sites.

    Change polygons are streamed; only the sites are held in memory.

    Args:
        findings: a `findings.gpkg`; changes of one date pair do not overlap one another.
        sites: the truth in any CRS, with a column `site_id`.
        planned: whether a plan was checked, so that the layer `findings` says what is visited.
        settings: the definitions.

    Raises:
        VectorError: no site, no CRS, or the file cannot be read.
    """
    settings = settings or ScoreSettings()
    if sites.empty or sites.crs is None:
        raise VectorError("the truth holds no site or no CRS; give at least one polygon with a CRS")
    flat = sites if sites.crs.is_projected else sites.to_crs(sites.estimate_utm_crs())
    shapes = flat.geometry.to_numpy()
    grown = shapely.buffer(shapes, settings.tolerance_m)
    exact, wide = shapely.STRtree(shapes), shapely.STRtree(grown)
    area = np.zeros(len(shapes))
    visited = _visited(iter_layer(findings, "findings", geometry=False), settings) if planned else None
    changes = false_alarms = inspections = wasted = 0
    for frame in iter_layer(findings, "changes"):
        polygons = frame.to_crs(flat.crs).geometry.to_numpy()
        _add_overlap(area, polygons, shapes, exact)
        false = _is_false(polygons, grown, wide, settings.true_share)
        seen = np.ones(len(frame), bool) if visited is None else frame["change_id"].isin(visited).to_numpy()
        changes += len(frame)
        false_alarms += int(false.sum())
        inspections += int(seen.sum())
        wasted += int((seen & false).sum())
    covered = np.minimum(area / shapely.area(shapes), 1.0)
    return Score(
        sites=len(shapes),
        found=int((covered >= settings.found_share).sum()),
        changes=changes,
        false_alarms=false_alarms,
        inspections=inspections,
        wasted_inspections=wasted,
        covered={str(key): round(float(share), 4) for key, share in zip(flat["site_id"], covered, strict=True)},
    )


def _visited(findings: Iterable[gpd.GeoDataFrame], settings: ScoreSettings) -> set[str]:
    visited: set[str] = set()
    for frame in findings:
        visited.update(frame.loc[frame["status"].isin(settings.visit), "change_id"])
    return visited


def _add_overlap(
    area: NDArray[np.float64], polygons: NDArray[np.object_], shapes: NDArray[np.object_], tree: shapely.STRtree
) -> None:
    change, site = tree.query(polygons, predicate="intersects")
    np.add.at(area, site, shapely.area(shapely.intersection(polygons[change], shapes[site])))


def _is_false(
    polygons: NDArray[np.object_], grown: NDArray[np.object_], tree: shapely.STRtree, share: float
) -> NDArray[np.bool_]:
    """Return which polygons lie on grown sites, which may overlap, with less than `share` of their area."""
    false = np.ones(len(polygons), bool)
    change, site = tree.query(polygons, predicate="intersects")
    for index in np.unique(change):
        near = shapely.union_all(grown[site[change == index]])
        false[index] = shapely.area(shapely.intersection(polygons[index], near)) < share * shapely.area(polygons[index])
    return false
