"""Change polygons (图斑) out of the rasters of a pair: classes, areas, confidence, stable ids.

Everything is counted in the pass that traces the polygons, so that no polygon's pixels are read again.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from pydantic import BaseModel, ConfigDict, Field, model_validator
from rasterio.errors import RasterioError
from rasterio.windows import Window

from tuban.data.classes import classes
from tuban.errors import SceneError
from tuban.postprocess.area import geodesic_area_perimeter, to_mu
from tuban.postprocess.class_raster import grid_of
from tuban.postprocess.generalize import Generalizer
from tuban.postprocess.polygonize import PolygonBatch, iter_polygons, read_classes
from tuban.postprocess.vectorize_settings import VectorizeSettings, tiers

if TYPE_CHECKING:
    import datetime as dt
    from collections import Counter
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

_NODATA = 255
_SCALE = 254  # probability.tif holds probability times this
# Columns of the tally: pixels, changed pixels, pixels on an edge, sum and count of probability, then the
# histograms of land cover before and after.
_PIXELS, _CORE, _EDGE, _SUM, _KNOWN, _FIRST = range(6)

COLUMNS = (
    "change_id", "from_class", "to_class", "area_m2", "area_mu", "confidence", "compactness", "touches_edge",
    "below_mmu", "to_class_assumed", "pixels",
)  # fmt: skip


class ChangeSource(Protocol):
    """The rasters of one pair, on one grid (`inference.change.ChangeRasters`); without land cover, two of them."""

    @property
    def change(self) -> Path:
        """Path of change.tif."""

    @property
    def probability(self) -> Path:
        """Path of probability.tif."""

    @property
    def landcover_before(self) -> Path | None:
        """Path of landcover_before.tif, or None."""

    @property
    def landcover_after(self) -> Path | None:
        """Path of landcover_after.tif, or None."""


class ChangeClasses(Protocol):
    """What a model's change output asserts (`models.bundle.Bundle`)."""

    @property
    def change_to_classes(self) -> tuple[int, ...]:
        """Unified classes a change can lead to."""


class ChangeSettings(BaseModel):
    """How change rasters become change polygons."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_pixels: int = Field(default=1, ge=1, description="smaller polygons are dropped, and counted")
    grow_to: float | None = Field(
        default=None, ge=0, le=1, description="grow changes over adjacent pixels of at least this probability"
    )
    mmu_m2: dict[str, float] = Field(
        default_factory=lambda: tiers("cn"),
        description="minimum mapping unit by to_class, m2; smaller changes are flagged, never dropped",
    )
    mmu_default_m2: float = Field(default=600.0, ge=0, description="minimum mapping unit of other classes, m2")
    vectorize: VectorizeSettings = VectorizeSettings()

    @model_validator(mode="after")
    def _consistent(self) -> ChangeSettings:
        """Refuse what could only be ignored: a change has no neighbour to join, and no class while it is traced."""
        if self.vectorize.measures or self.vectorize.square_classes:
            raise ValueError(
                "changes take their minimum mapping units from mmu_m2 and mmu_default_m2 and are not squared; "
                "leave vectorize.mmu, vectorize.min_area_m2 and vectorize.square_classes as they are"
            )
        return self


def iter_changes(
    rasters: ChangeSource,
    bundle: ChangeClasses,
    *,
    settings: ChangeSettings | None = None,
    dates: tuple[dt.date | None, dt.date | None] = (None, None),
    counts: Counter[str] | None = None,
) -> Iterator[gpd.GeoDataFrame]:
    """Turn the change map of a pair into change polygons, in batches.

    Args:
        rasters: paths of the rasters.
        bundle: tells which classes a change can lead to.
        settings: defaults where None.
        dates: dates of both scenes; part of `change_id`.
        counts: filled with `polygons`, `dropped_min_pixels`, `below_mmu`, `to_class_assumed`, `from_class_unknown`
            and `touches_edge`, and where outlines are simplified with `stepped`: those that keep pixel edges
            somewhere. For run.json.

    Yields:
        Frames in the rasters' CRS with `COLUMNS` and `geometry`. `from_class`: most frequent known land cover
        before (`ignore` where none is known). `to_class`: of `change_to_classes`, the most frequent one after;
        where none occurs, the first of them, and `to_class_assumed` is true; without any, `ignore`. `area_m2`:
        ellipsoidal, two decimals. `confidence`: mean probability of its pixels. `compactness`: 4 pi area /
        perimeter2, at most 1. `touches_edge`: next to nodata or at the scene's edge, so perhaps larger in truth.
        `below_mmu`: smaller than the minimum mapping unit of its `to_class`. `change_id`: 16 hex digits out of
        outline and dates; of the outline along pixel edges, so that simplification does not change it.

    Raises:
        SceneError: a raster cannot be read, or the rasters are not on one grid.
    """
    settings = settings or ChangeSettings()
    with ExitStack() as stack:
        try:
            paths = (rasters.change, rasters.probability, rasters.landcover_before, rasters.landcover_after)
            change, *others = [stack.enter_context(rasterio.open(path)) for path in paths if path is not None]
            for other in others:
                if (other.shape, other.transform, other.crs) != (change.shape, change.transform, change.crs):
                    raise SceneError(
                        f"{other.name} is not on the grid of {change.name}; write all of a pair in one run"
                    )
            crs = change.crs
            reader = _Reader(change, others, settings.grow_to)
            generalizer = None
            if settings.vectorize.simplify_m:
                generalizer = Generalizer.of(settings.vectorize, grid_of(change)[1], reader.pixels)
            for batch in iter_polygons(
                rasters.change, mask_values=(0,), settings=settings.vectorize, prepare=reader.prepare
            ):
                drawn, stepped = batch, None
                if generalizer is not None:
                    drawn, stepped = generalizer.simplified(batch)
                frame = _frame(batch, drawn.geometry, stepped, crs, bundle.change_to_classes, settings, dates, counts)
                if len(frame):
                    yield frame
        except RasterioError as error:
            raise SceneError(f"cannot read a change raster: {error}; run the detection again") from error


class _Reader:
    """Reads what belongs to a window and counts it by component."""

    def __init__(self, change: Any, others: Sequence[Any], grow_to: float | None) -> None:
        self.change, self.others, self.grow_to = change, others, grow_to

    def prepare(self, window: Window, values: npt.NDArray[Any], keep: BoolArray) -> tuple[Any, BoolArray, Any]:
        """Return the classes to trace, which pixels form polygons, and the tally over them."""
        core = keep & (values != _NODATA)
        probability, *covers = (source.read(1, window=window) for source in self.others)
        keep = self._grown(core, values, probability)
        rim = self._rim(window)
        size = len(_names())
        for source, cover in zip(self.others[1:], covers, strict=True):
            if cover.max(initial=0) >= size:
                raise SceneError(
                    f"{source.name}: class {cover.max()} is not a unified class; use values 0 to {size - 1}"
                )

        def tally(labels: npt.NDArray[np.int32], count: int) -> IntArray:
            at = np.flatnonzero(labels >= 0)
            label = labels.ravel()[at].astype(np.int64)
            chance = probability.ravel()[at]
            known = chance != _NODATA
            sums = np.zeros((count, _FIRST + 2 * size), dtype=np.int64)
            for column, weight in (
                (_PIXELS, None), (_CORE, core.ravel()[at]), (_EDGE, rim.ravel()[at]),
                (_SUM, np.where(known, chance, 0)), (_KNOWN, known),
            ):  # fmt: skip
                sums[:, column] = np.bincount(label, weights=weight, minlength=count)
            # Without land cover nothing is counted, which is what nothing known of a class means.
            for start, cover in zip((_FIRST, _FIRST + size), covers, strict=False):
                key = label * size + cover.ravel()[at]
                sums[:, start : start + size] = np.bincount(key, minlength=count * size).reshape(count, size)
            return sums

        return np.where(keep, np.uint8(1), np.uint8(0)), keep, tally

    def pixels(self, top: int, bottom: int, left: int, right: int) -> tuple[Any, BoolArray]:
        """Return the classes that are traced, and which pixels form polygons, in some rows and columns."""
        window = Window(left, top, right - left, bottom - top)
        values, keep = read_classes(self.change, 1, window, (0,))
        probability = None if self.grow_to is None else self.others[0].read(1, window=window)
        keep = self._grown(keep & (values != _NODATA), values, probability)
        return keep.view(np.uint8), keep

    def _grown(self, core: BoolArray, values: npt.NDArray[Any], probability: npt.NDArray[Any] | None) -> BoolArray:
        """Return changed pixels, and where growing is asked those that are probable enough."""
        if self.grow_to is None or probability is None:
            return core
        valid = (values != _NODATA) & (probability != _NODATA)
        grown: BoolArray = core | (valid & (probability >= np.ceil(self.grow_to * _SCALE)))
        return grown

    def _rim(self, window: Window) -> BoolArray:
        """Return which pixels lie at the scene's edge or next to nodata."""
        row, rows, width = int(window.row_off), int(window.height), int(window.width)
        top, bottom = max(row - 1, 0), min(row + rows + 1, self.change.height)
        read = self.change.read(1, window=Window(0, top, width, bottom - top)) == _NODATA
        nodata = np.ones((rows + 2, width + 2), dtype=bool)  # outside of the scene nothing is known
        nodata[top - row + 1 : bottom - row + 1, 1:-1] = read
        rim: BoolArray = nodata[:-2, 1:-1] | nodata[2:, 1:-1] | nodata[1:-1, :-2] | nodata[1:-1, 2:]
        return rim


@cache
def _names() -> npt.NDArray[np.object_]:
    """Return the names of the unified classes by value."""
    table = classes()
    return np.array(
        [table[value].name if value in table else str(value) for value in range(max(table) + 1)], dtype=object
    )


def _frame(
    batch: PolygonBatch,
    shapes: npt.NDArray[np.object_],
    stepped: BoolArray | None,
    crs: Any,
    to_classes: Sequence[int],
    settings: ChangeSettings,
    dates: tuple[dt.date | None, dt.date | None],
    counts: Counter[str] | None,
) -> gpd.GeoDataFrame:
    """Turn traced polygons, the shapes they are drawn with and their tallies into a frame of `COLUMNS`."""
    sums = batch.sums
    real = sums[:, _CORE] > 0  # grown over: pixels that no change reaches are none
    large = sums[:, _PIXELS] >= settings.min_pixels
    sums, shapes, traced = sums[real & large], shapes[real & large], batch.geometry[real & large]
    names = _names()
    size = len(names)
    before, after = sums[:, _FIRST : _FIRST + size], sums[:, _FIRST + size :]
    from_class = np.where(before[:, 1:].any(axis=1), before[:, 1:].argmax(axis=1) + 1, 0)
    asserted = np.array(to_classes or (0,))
    to_class = asserted[after[:, asserted].argmax(axis=1)]
    assumed = (to_class > 0) & ~after[:, asserted].any(axis=1)
    area, perimeter = geodesic_area_perimeter(shapes, crs)
    mmu = np.array([settings.mmu_m2.get(name, settings.mmu_default_m2) for name in names])
    area_m2 = area.round(2)
    frame = gpd.GeoDataFrame(
        {
            "change_id": [change_id(wkb, dates) for wkb in shapely.to_wkb(traced, byte_order=1)],
            "from_class": names[from_class],
            "to_class": names[to_class],
            "area_m2": area_m2,
            "area_mu": to_mu(area_m2).round(4),
            "confidence": (sums[:, _SUM] / np.maximum(sums[:, _KNOWN], 1) / _SCALE).round(4),
            "compactness": np.minimum(4 * np.pi * area / np.maximum(perimeter, 1e-9) ** 2, 1.0).round(4),
            "touches_edge": sums[:, _EDGE] > 0,
            "below_mmu": area_m2 < mmu[to_class],
            "to_class_assumed": assumed,
            "pixels": sums[:, _PIXELS],
        },
        geometry=shapes,
        crs=crs,
    )
    if counts is not None:
        counts["polygons"] += len(frame)
        counts["dropped_min_pixels"] += int((real & ~large).sum())
        if stepped is not None:
            counts["stepped"] += int(stepped[real & large].sum())
        counts["from_class_unknown"] += int((from_class == 0).sum())
        if not to_classes:
            counts["to_class_unknown"] += len(frame)
        for name in ("below_mmu", "to_class_assumed", "touches_edge"):
            counts[name] += int(frame[name].sum())
    return frame


def change_id(wkb: bytes, dates: tuple[dt.date | None, dt.date | None]) -> str:
    """Return the id of a change: 16 hex digits of SHA-256 over its outline and both dates.

    Args:
        wkb: little-endian WKB of the polygon in the rasters' CRS.
        dates: before and after; None where unknown.

    Example:
        >>> change_id(b"", (None, None))
        '8a5edab282632443'
    """
    digest = hashlib.sha256(wkb)
    digest.update("/".join(date.isoformat() if date else "" for date in dates).encode())
    return digest.hexdigest()[:16]
