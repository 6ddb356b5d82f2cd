"""One layer of a plan: a role, its features, and what their fields mean."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import pyproj
from pyproj import CRS

from tuban.data.class_system import ClassSystem, class_system
from tuban.data.geometry_repair import RepairCounts
from tuban.data.layer_source import LayerSource, MemoryLayer
from tuban.data.plan_dates import parse_date
from tuban.errors import VectorError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from tuban.data.crs_guess import Bounds

# Columns that every layer gets beside its own, so that rules need not know field names.
STANDARD_COLUMNS = ("plan_id", "plan_class", "plan_name", "plan_from", "plan_to", "plan_number")


@dataclass(frozen=True)
class PlanLayer:
    """One layer of a plan and what its fields mean.

    Attributes:
        role, kind: its meaning; `kind` for permits only.
        source: the opened file or table, or a GeoDataFrame in memory.
        class_system, class_field, name_field: land-use codes.
        accuracy_m: positional accuracy in metres; `accuracy_stated` is False where it is tuban's default.
        valid_from, valid_to, number, id_field: field names.
        counts: repairs, added to by every read.
    """

    role: str
    source: LayerSource | gpd.GeoDataFrame
    kind: str | None = None
    class_system: str | None = None
    class_field: str | None = None
    name_field: str | None = None
    id_field: str | None = None
    accuracy_m: float = 1.0
    accuracy_stated: bool = True
    valid_from: str | None = None
    valid_to: str | None = None
    number: str | None = None
    counts: RepairCounts = field(default_factory=RepairCounts, compare=False)

    @property
    def origin(self) -> LayerSource:
        """Where the features are read from."""
        return MemoryLayer(self.source, self.role) if isinstance(self.source, gpd.GeoDataFrame) else self.source

    @property
    def crs(self) -> CRS:
        """CRS of the layer."""
        return self.origin.crs

    @property
    def bounds(self) -> Bounds:
        """(min_x, min_y, max_x, max_y) of the layer in its CRS."""
        return self.origin.bounds

    @property
    def path(self) -> str:
        """File of the layer, address of its database, or `memory`."""
        return self.origin.address

    @property
    def layer(self) -> str:
        """Name of the layer in its file or database, or its role."""
        return self.origin.layer

    @property
    def name(self) -> str:
        """Short name for messages."""
        return f"{self.role}:{self.layer}" if self.kind is None else f"{self.role}/{self.kind}:{self.layer}"

    def codes(self) -> ClassSystem | None:
        """Return the code table, or None where the layer has no codes."""
        return class_system(self.class_system) if self.class_system and self.class_field else None

    def batches(
        self,
        bbox: Bounds | None = None,
        crs: Any = None,
        *,
        columns: Sequence[str] | None = None,
        counts: RepairCounts | None = None,
    ) -> Iterator[gpd.GeoDataFrame]:
        """Yield the features that meet a box, batch by batch, with the columns `STANDARD_COLUMNS` added.

        Args:
            bbox: (min_x, min_y, max_x, max_y) in `crs`; None reads the whole layer.
            crs: CRS of the box and of the result; None is the layer's own.
            columns: the layer's own fields that are wanted as well, absent ones ignored; None gives all of them.
            counts: repairs are added to it; None adds them to those of the layer.

        Raises:
            VectorError: the file became unreadable, or the box has no place in the layer's CRS.
        """
        source = self.origin
        target = source.crs if crs is None else CRS.from_user_input(crs)
        same = target == source.crs
        box = bbox if bbox is None or same else box_to(bbox, target, source.crs)
        named = (self.id_field, self.class_field, self.name_field, self.valid_from, self.valid_to, self.number)
        read = None if columns is None else [*columns, *(name for name in named if name)]
        for frame in source.batches(bbox=box, columns=read, counts=self.counts if counts is None else counts):
            yield self._standard(frame if same else frame.to_crs(target))

    def read(self, bbox: Bounds | None = None, crs: Any = None) -> gpd.GeoDataFrame:
        """Return what `batches` yields as one GeoDataFrame; for boxes that are known to be small."""
        frames = list(self.batches(bbox, crs))
        if not frames:
            target = self.crs if crs is None else CRS.from_user_input(crs)
            blank: dict[str, list[Any]] = {name: [] for name in self.origin.columns}
            return self._standard(gpd.GeoDataFrame(blank, geometry=[], crs=target))
        return frames[0] if len(frames) == 1 else gpd.pd.concat(frames)

    def _standard(self, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        def texts(column: str | None) -> list[str]:
            return [""] * len(frame) if column is None else [_text(value) for value in frame[column].tolist()]

        def dates(column: str | None) -> list[dt.date | None]:
            return [None] * len(frame) if column is None else [parse_date(value) for value in frame[column]]

        ids = [given or f"#{fid}" for given, fid in zip(texts(self.id_field), frame.index.tolist(), strict=True)]
        return frame.assign(
            plan_id=ids, plan_class=texts(self.class_field), plan_name=texts(self.name_field),
            plan_from=dates(self.valid_from), plan_to=dates(self.valid_to), plan_number=texts(self.number),
        )  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    return "" if gpd.pd.isna(value) else str(value).strip()


def box_to(bbox: Bounds, source: CRS, target: CRS) -> Bounds:
    """Return the box around `bbox` in another CRS, edges densified since straight lines bend."""
    transformer = pyproj.Transformer.from_crs(source, target, always_xy=True)
    box: Bounds = transformer.transform_bounds(*bbox, densify_pts=21)
    if not all(math.isfinite(value) for value in box):
        raise VectorError(f"the box {bbox} in {source.name} has no place in {target.name}; check the CRS of both")
    return box
