"""Writes the polygons of a class raster to any vector format, in a stream.

Names, areas and the file; `merge.py` merges what is too small, `polygonize.py` makes the polygons, `generalize.py`
simplifies them.
"""

from __future__ import annotations

import json
import logging
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError

from tuban.data.classes import classes
from tuban.errors import OutputError, UsageError
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.class_raster import ClassPixels, raster_grid
from tuban.postprocess.generalize import Generalizer
from tuban.postprocess.merge import merge_small
from tuban.postprocess.polygonize import PolygonBatch, iter_polygons
from tuban.postprocess.vectorize_settings import VectorizeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from tuban.postprocess.generalize import Drift
    from tuban.postprocess.merge import Move

__all__ = ["PolygonBatch", "Summary", "VectorizeSettings", "class_names", "iter_polygons", "vectorize"]

logger = logging.getLogger(__name__)

# A GeoPackage notes when it was written; a fixed time keeps the bytes the same for the same input.
_DATE = "2000-01-01T00:00:00.000Z"


@dataclass
class Summary:
    """What `vectorize` wrote: for run.json.

    `area_m2`: by class. `below_min`: polygons below their minimum mapping unit, flagged in the column of that name (of
    merged layers only those without a neighbour). `merged`: from which class to which how many polygons went, and
    their area. `generalized`: None where borders keep their pixel edges.
    """

    path: str
    polygons: int = 0
    below_min: int = 0
    area_m2: dict[str, float] = field(default_factory=dict)
    merged: list[dict[str, Any]] = field(default_factory=list)
    generalized: Generalized | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return asdict(self)


@dataclass
class Generalized:
    """What simplification did: ellipsoidal area by class before and after, and the largest relative changes.

    `stepped`: polygons that keep pixel edges somewhere, because no simpler line there keeps the areas on both sides.
    """

    area_before_m2: dict[str, float]
    area_after_m2: dict[str, float]
    largest_class_drift: float
    largest_polygon_drift: float
    stepped: int


def vectorize(
    raster: str | Path, out: str | Path, settings: VectorizeSettings | None = None, *, layer: str = "polygons"
) -> Summary:
    """Write a class raster as polygons with columns `class`, `class_id` and `area_m2`, in the raster's CRS.

    With a minimum mapping unit there is also `below_min`: smaller polygons are flagged and stay, or with
    `below_min=merge` each becomes part of the neighbour with the longest shared border; the layer has no gaps either
    way. With `simplify_m` above 0 shared borders are simplified alike for both neighbours, and no polygon changes its
    area.

    Args:
        raster: class raster; its nodata becomes no polygon.
        out: file to write; the suffix names the format (`.gpkg`, `.fgb`, `.geojson`, `.shp`). It replaces an
            older file only once complete.
        settings: defaults where None.
        layer: layer name, for formats that have one.

    Returns:
        Counts and areas.

    Raises:
        SceneError: the raster cannot be read, or has no CRS.
        UsageError: the suffix of `out` is no vector format.
        OutputError: `out` cannot be written.
    """
    settings = settings or VectorizeSettings()
    out = Path(out)
    try:
        pyogrio.detect_write_driver(out)
    except ValueError as error:
        raise UsageError(f"{out}: its suffix names no vector format; use .gpkg, .fgb, .geojson or .shp") from error
    summary = Summary(str(out))
    with _replacing(out) as partial, ExitStack() as opened:
        source = Path(raster)
        crs, grid = raster_grid(source)
        if settings.measures and settings.below_min == "merge":
            source = partial.parent / "merged" / "classes.tif"
            source.parent.mkdir()
            moves = merge_small(raster, source, grid, crs, settings)
            summary.merged = _named(moves, settings.class_names)
        polygons: Iterator[PolygonBatch] = iter_polygons(source, settings=settings)
        generalizer = None
        if settings.simplify_m:
            pixels = opened.enter_context(ClassPixels(source, settings.mask_values))
            generalizer = Generalizer.of(settings, grid, pixels.read, lambda shapes: geodesic_area(shapes, crs))
            polygons = generalizer.run(polygons)
        stream = _Frames(polygons, crs, settings, summary)
        reader = pa.RecordBatchReader.from_batches(stream.schema, stream.batches())
        with _fixed_date():
            try:
                pyogrio.write_arrow(
                    reader, partial, layer=layer, crs=crs, geometry_type="Polygon", geometry_name="geometry"
                )
            except (DataSourceError, DataLayerError, OSError, pa.ArrowException, RuntimeError) as error:
                if stream.failure is not None:
                    raise stream.failure from error
                raise OutputError(f"cannot write {out}: {error}; check the folder and the free space") from error
        if stream.failure is not None:
            raise stream.failure
    logger.info("wrote %d polygons to %s", summary.polygons, out)
    summary.area_m2 = {name: round(area, 2) for name, area in sorted(summary.area_m2.items())}
    if generalizer is not None:
        summary.generalized = _generalized(generalizer.drift, settings)
    return summary


def _named(moves: list[Move], kind: str) -> list[dict[str, Any]]:
    """Name the classes of what was merged."""
    names = class_names(np.array([[move.value, move.into] for move in moves], dtype=np.int64).ravel(), kind)
    return [
        {"from": names[2 * k], "to": names[2 * k + 1], "polygons": move.polygons, "area_m2": move.area_m2}
        for k, move in enumerate(moves)
    ]


def _generalized(drift: Drift, settings: VectorizeSettings) -> Generalized:
    """Name the classes of a drift."""
    values = sorted(drift.before)
    names = class_names(np.array(values, dtype=np.int64), settings.class_names)
    before, after = ([float(total[value]) for value in values] for total in (drift.before, drift.after))
    return Generalized(
        {name: round(area, 2) for name, area in zip(names, before, strict=True)},
        {name: round(area, 2) for name, area in zip(names, after, strict=True)},
        max((abs(b - a) / a for a, b in zip(before, after, strict=True)), default=0.0),
        drift.largest,
        drift.stepped,
    )


class _Frames:
    """Polygon batches as Arrow batches; remembers an error, which would lose its type on the way through Arrow."""

    def __init__(self, source: Iterator[PolygonBatch], crs: str, settings: VectorizeSettings, summary: Summary) -> None:
        self.source, self.crs, self.settings, self.summary = source, crs, settings, summary
        self.failure: Exception | None = None
        # The layer must be readable by tools that know neither Arrow nor GeoArrow: geometry travels as WKB.
        extension = {"ARROW:extension:name": "geoarrow.wkb", "ARROW:extension:metadata": json.dumps({"crs": crs})}
        flag = [("below_min", pa.bool_())] if settings.measures else []
        self.schema = pa.schema([
            pa.field("class", pa.string()), pa.field("class_id", pa.int64()), pa.field("area_m2", pa.float64()),
            *(pa.field(name, kind) for name, kind in flag), pa.field("geometry", pa.binary(), metadata=extension),
        ])  # fmt: skip

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield Arrow batches, filling the summary."""
        try:
            for shapes, values, _ in self.source:
                area = geodesic_area(shapes, self.crs).round(2)
                names = class_names(values, self.settings.class_names)
                totals = dict(self.summary.area_m2)
                for name in np.unique(names):
                    totals[name] = totals.get(name, 0.0) + float(area[names == name].sum())
                self.summary.area_m2 = totals
                self.summary.polygons += len(shapes)
                columns = [pa.array(names, pa.string()), pa.array(values.astype(np.int64)), pa.array(area)]
                if self.settings.measures:
                    known, index = np.unique(values, return_inverse=True)
                    small = area < np.array([self.settings.unit_of(value) for value in known.tolist()])[index]
                    self.summary.below_min += int(small.sum())
                    columns.append(pa.array(small))
                columns.append(pa.array(shapely.to_wkb(shapes), pa.binary()))
                yield pa.RecordBatch.from_arrays(columns, schema=self.schema)
        except Exception as error:  # of whatever type: Arrow would only tell GDAL that there was one
            self.failure = error
            raise


def class_names(values: npt.NDArray[Any], kind: str = "unified") -> npt.NDArray[np.object_]:
    """Return unified class names of raster values, `(n,)`; a value without a name is its number as text."""
    table = classes() if kind == "unified" else {}
    known, index = np.unique(values, return_inverse=True)
    names = [table[int(value)].name if int(value) in table else str(int(value)) for value in known]
    return np.array(names, dtype=object)[index]


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Give a path in a temporary folder beside `out`; move what was written there over it once all is well."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.stem}.", dir=out.parent) as folder:
            yield Path(folder) / out.name
            # A Shapefile is several files; the one the user named comes last.
            written = (path for path in Path(folder).iterdir() if path.is_file())
            for path in sorted(written, key=lambda item: (item.name == out.name, item.name)):
                path.replace(out.parent / path.name)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {out}: {error}; check that the folder exists, is writable and has space"
        ) from error


@contextmanager
def _fixed_date() -> Iterator[None]:
    """Let GDAL write a fixed time into files that note one."""
    old = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _DATE})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": old})
