"""The area of interest: polygons of any vector file, as one geometry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError

from tuban.errors import PairError

if TYPE_CHECKING:
    from rasterio.crs import CRS
    from shapely.geometry.base import BaseGeometry


def read_aoi(path: str | os.PathLike[str], crs: CRS) -> BaseGeometry:
    """Read the polygons of a vector file's first layer and unite them.

    Args:
        path: any file OGR opens, with a CRS.
        crs: CRS wanted.

    Raises:
        PairError: missing, unreadable, no CRS, or no polygon.
    """
    text = os.fspath(path)
    if not text.startswith("/vsi") and not Path(text).exists():
        raise PairError(f"area of interest {text}: no such file; check the path")
    try:
        layer = pyogrio.list_layers(text)[0][0]
        frame = pyogrio.read_dataframe(text, layer=layer, columns=[])
    except (DataSourceError, DataLayerError, IndexError) as error:
        raise PairError(
            f"area of interest {text}: cannot be read as a vector layer ({' '.join(str(error).split())})"
        ) from error
    if getattr(frame, "crs", None) is None:
        raise PairError(
            f"area of interest {text}: has no CRS; assign one, for instance with `ogr2ogr -a_srs EPSG:4490 OUT IN`"
        )
    shapes = shapely.make_valid(frame.to_crs(crs.to_wkt()).geometry.dropna().to_numpy())
    area = shapely.union_all([shape for shape in shapes if shape.area > 0])
    if area.is_empty:
        raise PairError(f"area of interest {text}: holds no polygon with an area; give at least one polygon")
    return area
