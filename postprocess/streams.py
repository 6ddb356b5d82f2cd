"""Vector layers read as streams, and what every vector output shares: fixed times and clear errors."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from pyproj import CRS

from tuban.errors import OutputError, VectorError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIXED_TIME = "2000-01-01T00:00:00.000Z"
"""The time written wherever a format insists on one, so that a second run gives the same bytes."""


@contextlib.contextmanager
def fixed_times() -> Iterator[None]:
    """Make GDAL write `FIXED_TIME` instead of the clock's time while the block runs."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": FIXED_TIME})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def iter_layer(
    path: str | Path, layer: str | None = None, *, batch: int = 5000, geometry: bool = True
) -> Iterator[gpd.GeoDataFrame]:
    """Yield one layer of a vector file in order, at most `batch` features at a time.

    Args:
        path: any file OGR opens.
        layer: its layer; the default is the first.
        batch: features held in memory at a time.
        geometry: False leaves the geometries unread (every one is None), for sums over attributes.

    Yields:
        Frames in the layer's CRS with a fresh index; nothing for an empty layer.

    Raises:
        VectorError: the file or the layer cannot be read.
    """
    try:
        with pyogrio.open_arrow(
            path, layer=layer, batch_size=batch, use_pyarrow=True, read_geometry=geometry
        ) as source:
            meta, reader = source
            name = meta["geometry_name"] or "wkb_geometry"
            for record in reader:
                frame = record.to_pandas()
                shapes = shapely.from_wkb(frame.pop(name).to_numpy()) if geometry else [None] * len(frame)
                yield gpd.GeoDataFrame(frame, geometry=shapes, crs=meta["crs"])
    except (DataSourceError, DataLayerError) as error:
        where = f"layer {layer!r} of {path}" if layer else str(path)
        raise VectorError(f"cannot read {where}: {error}; give a vector file that OGR opens") from error


def read_info(path: str | Path, layer: str | None = None) -> tuple[int, str]:
    """Return the number of features of a layer, and its CRS as text.

    Raises:
        VectorError: the file or the layer cannot be read.
    """
    info = _info(path, layer, force_feature_count=True)
    return int(info["features"]), str(info["crs"])


def read_columns(path: str | Path, layer: str | None = None) -> dict[str, str]:
    """Return the dtype of each column of a layer, by name, in order.

    Raises:
        VectorError: the file or the layer cannot be read.
    """
    info = _info(path, layer)
    return {str(name): str(kind) for name, kind in zip(info["fields"], info["dtypes"], strict=True)}


def read_extent(path: str | Path, layer: str | None = None) -> tuple[str, tuple[float, float, float, float] | None]:
    """Return the CRS of a layer as text, and its bounds in that CRS (None where it is empty).

    Raises:
        VectorError: the file or the layer cannot be read.
    """
    info = _info(path, layer, force_total_bounds=True)
    bounds = info["total_bounds"]
    known = bounds is not None and all(math.isfinite(value) for value in bounds)
    return str(info["crs"]), tuple(bounds) if known else None


def _info(path: str | Path, layer: str | None, **asked: bool) -> dict[str, Any]:
    try:
        found: dict[str, Any] = pyogrio.read_info(path, layer=layer, **asked)
    except (DataSourceError, DataLayerError) as error:
        where = f"layer {layer!r} of {path}" if layer else str(path)
        raise VectorError(f"cannot read {where}: {error}; give a vector file that OGR opens") from error
    return found


def pyogrio_crs(crs: object) -> str:
    """Return a CRS (rasterio's, pyproj's, a code or text) as the text geopandas and pyogrio take."""
    wkt = getattr(crs, "to_wkt", None)
    parsed = CRS.from_user_input(wkt() if callable(wkt) else crs)
    authority = parsed.to_authority(min_confidence=100)
    return ":".join(authority) if authority else parsed.to_wkt()


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong while `path` is written into one OutputError that names it."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, DataSourceError, DataLayerError, FeatureError) as error:
        reason = " ".join(str(error).split())
        remedy = "free some space, or choose a folder you may write to"
        raise OutputError(f"cannot write {path}: {reason}; {remedy}") from error
