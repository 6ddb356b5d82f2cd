"""The land that could not be judged: what clouds hide as a raster, and all of it as polygons with their areas."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import geopandas as gpd
import numpy as np
import rasterio
from rasterio.windows import Window

from tuban.data.mask_kinds import mask_table
from tuban.data.unseen import UnseenCounts, count_unseen
from tuban.errors import ReadError
from tuban.inference.cog import BLOCK, CogSpec, write_cog
from tuban.postprocess.area import geodesic_area, to_mu
from tuban.postprocess.polygonize import iter_polygons

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tuban.data.grid import Grid
    from tuban.data.pair import Pair
    from tuban.inference.reading import Damage

# Classes while polygons are traced: code before + 8 x code after of what clouds hide, and these.
_CODES = 8
_NO_DATA, _UNREADABLE = _CODES**2, _CODES**2 + 1
_NODATA = 255  # of change.tif


class Judged(Protocol):
    """What is known of a change map (`inference.change.ChangeRasters`)."""

    @property
    def change(self) -> Path:
        """Path of change.tif; what was not judged is nodata."""

    @property
    def damage(self) -> Sequence[Damage]:
        """Blocks that could not be read."""


def write_unseen(pair: Pair, target: Path) -> UnseenCounts | None:
    """Write what hides each pixel that has data at both dates.

    Blocks in which no mask hides anything cost no reading of the images.

    Args:
        pair: the pair.
        target: a COG of two bands, before and after: 0 not hidden at that date, else the code of the cause.

    Returns:
        The counts; `seen_px` counts only the blocks that hide something. None, and no file, where there is no mask.

    Raises:
        ReadError: an image or mask cannot be read.
        OutputError: the raster cannot be written.
    """
    if pair.masks == (None, None):
        return None
    total = [UnseenCounts()]
    legend = ", ".join(f"{code} {name}" for name, code in mask_table().causes.items())
    spec = CogSpec(("hidden before", "hidden after"), tags={"TUBAN_CAUSES": legend})
    write_cog(target, pair.grid, spec, _blocks(pair, total))
    return total[0]


def unseen_record(counts: UnseenCounts, valid_px: int) -> dict[str, object]:
    """Return the entry `unseen` of run.json.

    Args:
        counts: from `write_unseen`.
        valid_px: pixels seen at both dates, from the change map.
    """
    return replace(counts, seen_px=valid_px).summary()


def _hides(pair: Pair, grid: Grid) -> bool:
    """Whether a mask hides anything of a block; one that cannot be read and need not be is no result, not unseen."""
    try:
        return bool(pair.hidden(grid).any())
    except ReadError:
        if not pair.tolerate_damage:
            raise
        return False


def _blocks(pair: Pair, total: list[UnseenCounts]) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """Yield the blocks that hide something; the others stay 0. Adds up what they hide in `total`."""
    first = pair.radiometry_names[:1]  # one band tells where there are data
    for row in range(0, pair.height, BLOCK):
        for col in range(0, pair.width, BLOCK):
            window = Window(col, row, min(BLOCK, pair.width - col), min(BLOCK, pair.height - row))
            grid = pair.grid.window(window)
            if not _hides(pair, grid):
                continue
            got = pair.sample(window, first)
            total[0] += count_unseen(got.valid, got.causes, grid)
            yield window, got.causes


class Unjudged:
    """Polygons of all that could not be judged inside the area of interest, and their areas.

    Args:
        pair: tells the area of interest.
        rasters: the change map, on the pair's grid.
        hidden: `unseen.tif`; None where there is no cloud mask.
    """

    def __init__(self, pair: Pair, rasters: Judged, hidden: Path | None) -> None:
        self.pair, self.rasters, self.hidden = pair, rasters, hidden
        self.polygons = 0
        self.area_m2: Counter[str] = Counter()

    def frames(self) -> Iterator[gpd.GeoDataFrame]:
        """Yield the polygons in batches, in the pair's CRS: pixels of equal causes that share an edge are one polygon.

        `cause`: `cloud` … `unknown` as in `unseen.tif`, of both dates the one that stands first there; `no_data`
        where a date has no image; `unreadable` where it is damaged. `cause_before`, `cause_after`: the causes of
        each date, empty where that date shows the land. `area_m2` on the ellipsoid, two decimals; `area_mu`.

        Raises:
            SceneError: a raster cannot be read.
        """
        names = {0: "", **{code: name for name, code in mask_table().causes.items()}}
        for batch in iter_polygons(self.rasters.change, prepare=self._classes):
            area = geodesic_area(batch.geometry, self.pair.crs).round(2)
            cause, before, after = zip(*(_causes(int(value), names) for value in batch.value), strict=True)
            self.polygons += len(area)
            for name, size in zip(cause, area.tolist(), strict=True):
                self.area_m2[name] += size
            columns = {"cause": cause, "cause_before": before, "cause_after": after}
            yield gpd.GeoDataFrame(
                {**columns, "area_m2": area, "area_mu": to_mu(area).round(4)},
                geometry=batch.geometry,
                crs=self.pair.crs,
            )

    def summary(self) -> dict[str, object]:
        """Return the entry `unjudged` of run.json; complete once `frames` is drawn."""
        by_cause = {name: round(area, 2) for name, area in sorted(self.area_m2.items())}
        return {"polygons": self.polygons, "area_m2": round(sum(self.area_m2.values()), 2), "by_cause_m2": by_cause}

    def _classes(self, window: Window, change: NDArray[Any], _: NDArray[np.bool_]) -> tuple[Any, Any, None]:
        """Return the class of each pixel of a window, and which were not judged."""
        classes = np.full(change.shape, _NO_DATA, np.uint8)
        for block in self.rasters.damage:
            top, left = block.row - int(window.row_off), block.col - int(window.col_off)
            rows = slice(max(top, 0), max(top + block.height, 0))
            classes[rows, max(left, 0) : max(left + block.width, 0)] = _UNREADABLE
        if self.hidden is not None:
            with rasterio.open(self.hidden) as source:
                before, after = source.read(window=window)
            cloudy = (before > 0) | (after > 0)
            classes[cloudy] = (before + _CODES * after)[cloudy]
        return classes, (change == _NODATA) & self.pair.inside(window), None


def _causes(value: int, names: dict[int, str]) -> tuple[str, str, str]:
    """Return the cause of a traced class, and that of each date."""
    if value in {_NO_DATA, _UNREADABLE}:
        return ("no_data" if value == _NO_DATA else "unreadable", "", "")
    before, after = value % _CODES, value // _CODES
    return names[min(code for code in (before, after) if code)], names[before], names[after]
