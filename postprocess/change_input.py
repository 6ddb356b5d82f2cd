"""Change polygons from any OGR file that names their classes."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely

from tuban.data.classes import class_by_name, classes
from tuban.data.geometry_repair import RepairCounts
from tuban.data.vector import VectorLayer, VectorSettings, open_layer, require_columns
from tuban.errors import UsageError, VectorError
from tuban.postprocess.area import geodesic_area, to_mu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


logger = logging.getLogger(__name__)

_REQUIRED = ("from_class", "to_class")


def open_changes(path: str | Path, layer: str | None = None, *, settings: VectorSettings | None = None) -> VectorLayer:
    """Open the layer of changes without reading it; one without features is accepted.

    Raises:
        VectorError: the file, layer, CRS or columns do not do.
    """
    source = open_layer(path, layer or _preferred(path), settings=settings, allow_empty=True)
    require_columns(source, _REQUIRED)
    return source


def read_changes(
    path: str | Path, layer: str | None = None, *, settings: VectorSettings | None = None,
    counts: RepairCounts | None = None, notes: list[str] | None = None,
) -> Iterator[gpd.GeoDataFrame]:  # fmt: skip
    """Yield batches of change polygons with the contract's columns `change_id … confidence` filled in.

    Of a file with several layers, `changes` is taken where there is one. Classes may be unified names, their Chinese
    names or raster values. `area_m2` is always measured anew; what else is missing is added and noted.

    Args:
        path: any vector file OGR opens.
        layer: layer in it.
        settings: how it is read.
        counts: repairs are added to it.
        notes: is appended to: what was guessed, added or dropped.

    Raises:
        VectorError: the file, layer, CRS or columns do not do, a class is unknown, a change_id repeats.
    """
    settings = settings or VectorSettings(batch_size=5000)
    notes = [] if notes is None else notes
    counts = RepairCounts() if counts is None else counts
    source = open_changes(path, layer, settings=settings)
    name = source.path.name  # notes are passed on with the report: they name the file, not where it lies
    notes.extend(note.replace(str(source.path), name) for note in source.notes)
    given_id = "change_id" in source.columns
    if not given_id:
        notes.append(f"{name}: no change_id; made from the outline")
    if "confidence" not in source.columns:
        notes.append(f"{name}: no confidence; left empty")
    seen: set[str] = set()
    for frame in source.batches(counts=counts, neighbours=True):
        out = _completed(frame, path, given_id=given_id)
        repeated = [i for i in out["change_id"] if i in seen] or list(out["change_id"][out["change_id"].duplicated()])
        if repeated and given_id:
            raise VectorError(f"{path}: change_id {repeated[0]!r} stands twice; make the ids unique or drop the column")
        if repeated:
            notes.append(f"{name}: {len(repeated)} outlines stand twice and share an id")
            out = out[~out["change_id"].duplicated() & ~out["change_id"].isin(seen)]
        seen.update(out["change_id"])
        yield out
    if line := counts.nonzero():
        notes.append(f"{name}: repaired on load: {line}")


def _preferred(path: Any) -> str | None:
    from pathlib import Path

    from tuban.data.vector import layer_names

    names = layer_names(Path(path))
    return "changes" if len(names) > 1 and "changes" in names else None


def _class_name(value: Any, path: Any, column: str) -> str:
    """Return the unified class that a cell means."""
    text = "" if gpd.pd.isna(value) else str(value).strip()
    if not text:
        # The class before is often not known; the class after is what every rule asks for.
        if column == "from_class":
            return "ignore"
        raise VectorError(f"{path}: an empty {column}; give a unified class name such as building")
    by_zh = {entry.zh: entry.name for entry in classes().values()}
    number = text.removesuffix(".0")
    if number.isdigit() and int(number) in classes():
        return classes()[int(number)].name
    try:
        return class_by_name(by_zh.get(text, text)).name
    except UsageError as error:
        raise VectorError(f"{path}: column {column}: {error}") from error


def _completed(frame: gpd.GeoDataFrame, path: Any, *, given_id: bool) -> gpd.GeoDataFrame:
    geometry = np.asarray(frame.geometry.values, dtype=object)
    names = {column: {v: _class_name(v, path, column) for v in frame[column].unique()} for column in _REQUIRED}
    area = np.round(geodesic_area(geometry, frame.crs), 2)
    added: dict[str, Any] = {column: [names[column][v] for v in frame[column]] for column in _REQUIRED}
    added["area_m2"], added["area_mu"] = area, np.round(to_mu(area), 4)
    if given_id:
        added["change_id"] = frame["change_id"].astype(str)
    else:
        added["change_id"] = [
            hashlib.sha256(shapely.to_wkb(shapely.normalize(g), byte_order=1) + f"{a}{b}".encode()).hexdigest()[:16]
            for g, a, b in zip(geometry, added["from_class"], added["to_class"], strict=True)
        ]
    if "confidence" not in frame.columns:
        added["confidence"] = np.nan
    return frame.assign(**added).reset_index(drop=True)
