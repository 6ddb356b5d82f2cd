"""What every source of plan features offers, be it a file, a database table or a frame in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pyproj import CRS

from tuban.data.geometry_repair import RepairCounts, repair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import geopandas as gpd

    from tuban.data.crs_guess import Bounds


class LayerSource(Protocol):
    """One layer of polygons, opened and checked; its features are read in batches."""

    @property
    def address(self) -> str:
        """Path of the file, or address of the database without anything secret."""

    @property
    def name(self) -> str:
        """Short name for notes that are passed on: it does not say where the layer lies."""

    @property
    def layer(self) -> str:
        """Name of the layer in it."""

    @property
    def crs(self) -> CRS:
        """CRS of the layer."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields that may be read."""

    @property
    def features(self) -> int:
        """How many features it holds."""

    @property
    def bounds(self) -> Bounds:
        """(min_x, min_y, max_x, max_y) of all features."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed or left out when it was opened."""

    def batches(
        self, *, bbox: Bounds | None = None, columns: Sequence[str] | None = None, counts: RepairCounts | None = None
    ) -> Iterator[gpd.GeoDataFrame]:
        """Yield valid polygons in the layer's CRS, indexed by feature id.

        Args:
            bbox: only features that meet it, in the layer's CRS.
            columns: fields to read, absent ones ignored; None reads all.
            counts: repairs are added to it.
        """


@dataclass(frozen=True)
class MemoryLayer:
    """A GeoDataFrame as a source."""

    frame: gpd.GeoDataFrame
    layer: str = "memory"
    notes: tuple[str, ...] = ()
    address: str = field(default="memory", init=False)
    name: str = field(default="memory", init=False)

    @property
    def crs(self) -> CRS:
        """CRS of the frame."""
        return CRS.from_user_input(self.frame.crs)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns beside the geometry."""
        return tuple(str(name) for name in self.frame.columns if name != self.frame.geometry.name)

    @property
    def features(self) -> int:
        """Rows of the frame."""
        return len(self.frame)

    @property
    def bounds(self) -> Bounds:
        """Extent of the frame."""
        west, south, east, north = (float(value) for value in self.frame.total_bounds)
        return west, south, east, north

    def batches(
        self, *, bbox: Bounds | None = None, columns: Sequence[str] | None = None, counts: RepairCounts | None = None
    ) -> Iterator[gpd.GeoDataFrame]:
        """Yield the frame, or what of it meets the box, once, its geometry repaired."""
        frame = self.frame if bbox is None else self.frame.cx[bbox[0] : bbox[2], bbox[1] : bbox[3]]
        if columns is not None:
            kept = [name for name in self.columns if name in columns]
            frame = frame[[*kept, frame.geometry.name]]
        counts = RepairCounts() if counts is None else counts
        shapes: Any = repair(frame.geometry.to_numpy(), counts)
        frame = frame.set_geometry(shapes, crs=frame.crs)
        # As an array: an empty list would choose no columns.
        yield frame[np.array([shape is not None for shape in shapes], dtype=bool)]
