"""Which layers a vector file holds, and GDAL's warnings kept from the screen."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pyogrio
from pyogrio.errors import DataSourceError

from tuban.errors import VectorError

if TYPE_CHECKING:
    from pathlib import Path


class gdal_warnings(warnings.catch_warnings):  # noqa: N801 - used as a function
    """Collect GDAL's warnings (reported by pyogrio as RuntimeWarning) instead of showing them."""

    def __init__(self) -> None:
        super().__init__(record=True)

    def __enter__(self) -> Any:
        log = super().__enter__()
        warnings.simplefilter("always")
        return log


def layer_names(path: Path) -> tuple[str, ...]:
    """Return the names of the layers of `path` that hold geometry.

    Raises:
        VectorError: the file is missing, or OGR cannot open it.
    """
    if not path.exists():
        raise VectorError(f"no such file: {path}; check the path (relative paths start at the file that names them)")
    try:
        with gdal_warnings():
            listed = pyogrio.list_layers(path)
    except DataSourceError as error:
        raise VectorError(
            f"{path}: not vector data that OGR opens ({error}); give GPKG, GDB, SHP or GeoJSON"
        ) from error
    return tuple(str(name) for name, kind in listed if kind is not None)


def pick_layer(path: Path, layer: str | None) -> str:
    """Return the name of the layer that is meant: `layer`, or the only one where that is None.

    Raises:
        VectorError: the file cannot be opened, there is no such layer, or several and none is named.
    """
    names = layer_names(path)
    if not names:
        raise VectorError(f"{path}: holds no layer with geometry; export polygons into it")
    if layer is None:
        if len(names) > 1:
            raise VectorError(f"{path}: holds {len(names)} layers, name one of them: {', '.join(names)}")
        return names[0]
    if layer not in names:
        raise VectorError(f"{path}: no layer {layer!r}; it has {', '.join(names)}")
    return layer
