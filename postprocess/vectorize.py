"""Writes the polygons of a class raster to any vector format, in a stream.

Names, areas, simplification and the file; `polygonize.py` makes the polygons.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyogrio
import rasterio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.errors import RasterioError

from tuban.data.classes import classes
from tuban.errors import OutputError, SceneError, TubanError, UsageError
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.polygonize import PolygonBatch, VectorizeSettings, iter_polygons

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

__all__ = ["PolygonBatch", "Summary", "VectorizeSettings", "class_names", "iter_polygons", "vectorize"]

logger = logging.getLogger(__name__)

# A GeoPackage notes when it was written; a fixed time keeps the bytes the same for the same input.
_DATE = "2000-01-01T00:00:00.000Z"


@dataclass
class Summary:
    """What `vectorize` wrote: for run.json.

    `area_m2` by class name; `below_min`: polygons smaller than asked, flagged in the column of that name;
    `simplify_groups`: groups simplified on their own, whose common borders keep every pixel edge;
    `simplify_drift`: largest relative change of a class's area, measured in the plane of the CRS.
    """

    path: str
    polygons: int = 0
    below_min: int = 0
    area_m2: dict[str, float] = field(default_factory=dict)
    simplify_groups: int = 0
    simplify_drift: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return asdict(self)


def vectorize(
    raster: str | Path, out: str | Path, settings: VectorizeSettings | None = None, *, layer: str = "polygons"
) -> Summary:
    """Write a class raster as polygons with columns `class`, `class_id` and `area_m2`, in the raster's CRS.

    With `min_area_m2` above 0 there is also `below_min`: small polygons are flagged and stay, so that the
    layer has no gaps. With `simplify_m` above 0 shared borders are simplified once for both neighbours.

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
        UsageError: the suffix of `out` is no vector format, or simplification is asked without shared vertices.
        OutputError: `out` cannot be written.
    """
    settings = settings or VectorizeSettings()
    if settings.simplify_m and not settings.noded:
        raise UsageError("simplify_m needs noded=true: only shared vertices let both sides of a border change alike")
    out = Path(out)
    try:
        pyogrio.detect_write_driver(out)
    except ValueError as error:
        raise UsageError(f"{out}: its suffix names no vector format; use .gpkg, .fgb, .geojson or .shp") from error
    summary = Summary(str(out))
    crs, unit_m = _grid(raster)
    stream = _Frames(iter_polygons(raster, settings=settings), crs, unit_m, settings, summary)
    with _replacing(out) as partial:
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
    return summary


class _Frames:
    """Polygon batches as Arrow batches; remembers an error, which would lose its type on the way through Arrow."""

    def __init__(
        self, source: Iterator[PolygonBatch], crs: str, unit_m: float, settings: VectorizeSettings, summary: Summary
    ) -> None:
        self.source, self.crs, self.unit_m, self.settings, self.summary = source, crs, unit_m, settings, summary
        self.failure: TubanError | None = None
        # The layer must be readable by tools that know neither Arrow nor GeoArrow: geometry travels as WKB.
        extension = {"ARROW:extension:name": "geoarrow.wkb", "ARROW:extension:metadata": json.dumps({"crs": crs})}
        flag = [("below_min", pa.bool_())] if settings.min_area_m2 else []
        self.schema = pa.schema([
            pa.field("class", pa.string()), pa.field("class_id", pa.int32()), pa.field("area_m2", pa.float64()),
            *(pa.field(name, kind) for name, kind in flag), pa.field("geometry", pa.binary(), metadata=extension),
        ])  # fmt: skip

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield Arrow batches, filling the summary."""
        try:
            for shapes, values in self._simplified():
                area = geodesic_area(shapes, self.crs).round(2)
                names = class_names(values, self.settings.class_names)
                totals = dict(self.summary.area_m2)
                for name in np.unique(names):
                    totals[name] = totals.get(name, 0.0) + float(area[names == name].sum())
                self.summary.area_m2 = totals
                self.summary.polygons += len(shapes)
                columns = [pa.array(names, pa.string()), pa.array(values.astype(np.int32)), pa.array(area)]
                if self.settings.min_area_m2:
                    small = area < self.settings.min_area_m2
                    self.summary.below_min += int(small.sum())
                    columns.append(pa.array(small))
                columns.append(pa.array(shapely.to_wkb(shapes), pa.binary()))
                yield pa.RecordBatch.from_arrays(columns, schema=self.schema)
        except TubanError as error:
            self.failure = error
            raise

    def _simplified(self) -> Iterator[tuple[npt.NDArray[np.object_], npt.NDArray[Any]]]:
        """Yield polygons and classes, in groups that are simplified together where that is asked."""
        if not self.settings.simplify_m:
            for batch in self.source:
                yield batch.geometry, batch.value
            return
        tolerance = self.settings.simplify_m / self.unit_m
        before: Counter[int] = Counter()
        after: Counter[int] = Counter()
        for shapes, values, alone in self._groups():
            # Where other groups follow or went before, the border of the group is shared with them: it stays.
            simple = shapely.coverage_simplify(shapes, tolerance, simplify_boundary=alone)
            self.summary.simplify_groups += 1
            for value in np.unique(values):
                before[int(value)] += shapely.area(shapes[values == value]).sum()
                after[int(value)] += shapely.area(simple[values == value]).sum()
            yield simple, values
        drift = [abs(after[value] - area) / area for value, area in before.items()]
        self.summary.simplify_drift = float(max(drift, default=0.0))

    def _groups(self) -> Iterator[tuple[npt.NDArray[np.object_], npt.NDArray[Any], bool]]:
        """Yield groups of about `simplify_vertices`, and whether the group is the whole raster."""
        held: list[PolygonBatch] = []
        size, alone = 0, True
        for batch in self.source:
            vertices = int(shapely.get_num_coordinates(batch.geometry).sum())
            if held and size + vertices > self.settings.simplify_vertices:
                alone = False
                yield *_joined(held), alone
                held, size = [], 0
            held.append(batch)
            size += vertices
        if held:
            yield *_joined(held), alone


def _joined(batches: list[PolygonBatch]) -> tuple[npt.NDArray[np.object_], npt.NDArray[Any]]:
    return np.concatenate([batch.geometry for batch in batches]), np.concatenate([batch.value for batch in batches])


def class_names(values: npt.NDArray[Any], kind: str = "unified") -> npt.NDArray[np.object_]:
    """Return unified class names of raster values, `(n,)`; a value without a name is its number as text."""
    table = classes() if kind == "unified" else {}
    known, index = np.unique(values, return_inverse=True)
    names = [table[int(value)].name if int(value) in table else str(int(value)) for value in known]
    return np.array(names, dtype=object)[index]


def _grid(raster: str | Path) -> tuple[str, float]:
    """Return the raster's CRS as WKT and the metres in one CRS unit at its centre."""
    try:
        with rasterio.open(raster) as source:
            crs, transform, shape = source.crs, source.transform, source.shape
    except RasterioError as error:
        raise SceneError(
            f"cannot read {raster}: {error}; check the path and that the file is a complete raster"
        ) from error
    if not crs:
        raise SceneError(
            f"{raster} has no CRS, so areas cannot be measured; set it, for instance with `rio edit-info --crs`"
        )
    wkt = str(crs.to_wkt())
    a, b, c, d, e, f = tuple(transform)[:6]
    col, row = (np.array(shape[::-1]) // 2)[:, None] + [[0, 1, 1, 0], [0, 0, 1, 1]]
    pixel = shapely.Polygon(np.stack([a * col + b * row + c, d * col + e * row + f], axis=1))
    return wkt, float(np.sqrt(geodesic_area([pixel], wkt)[0] / pixel.area))


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Give a path in a temporary folder beside `out`; move what was written there over it once all is well."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.stem}.", dir=out.parent) as folder:
            yield Path(folder) / out.name
            # A Shapefile is several files; the one the user named comes last.
            for path in sorted(Path(folder).iterdir(), key=lambda item: (item.name == out.name, item.name)):
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
