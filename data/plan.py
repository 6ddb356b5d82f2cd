"""Plans: sets of boundary layers, each with a role, read piece by piece."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import pyproj
from pyproj import CRS

from tuban.data.class_system import ClassSystem, class_system
from tuban.data.geometry_repair import RepairCounts
from tuban.data.plan_dates import parse_date
from tuban.data.plan_schema import LayerSpec, read_spec
from tuban.data.vector import VectorLayer, VectorSettings, layer_names, open_layer, plan_table, require_columns
from tuban.errors import PlanError, VectorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tuban.data.crs_guess import Bounds

logger = logging.getLogger(__name__)

# Columns that every layer gets beside its own, so that rules need not know field names.
STANDARD_COLUMNS = ("plan_id", "plan_class", "plan_name", "plan_from", "plan_to", "plan_number")


@dataclass(frozen=True)
class PlanLayer:
    """One layer of a plan and what its fields mean.

    Attributes:
        role, kind: its meaning; `kind` for permits only.
        source: the opened file, or a GeoDataFrame in memory.
        class_system, class_field, name_field: land-use codes.
        accuracy_m: positional accuracy in metres; `accuracy_stated` is False where it is tuban's default.
        valid_from, valid_to, number, id_field: field names.
        counts: repairs, added to by every read.
    """

    role: str
    source: VectorLayer | gpd.GeoDataFrame
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
    def crs(self) -> CRS:
        """CRS of the layer."""
        return CRS.from_user_input(self.source.crs)

    @property
    def path(self) -> str:
        """File of the layer, or `memory`."""
        return str(self.source.path) if isinstance(self.source, VectorLayer) else "memory"

    @property
    def layer(self) -> str:
        """Name of the layer in its file, or its role."""
        return self.source.layer if isinstance(self.source, VectorLayer) else self.role

    @property
    def name(self) -> str:
        """Short name for messages."""
        return f"{self.role}:{self.layer}" if self.kind is None else f"{self.role}/{self.kind}:{self.layer}"

    def codes(self) -> ClassSystem | None:
        """Return the code table, or None where the layer has no codes."""
        return class_system(self.class_system) if self.class_system and self.class_field else None

    def batches(self, bbox: Bounds | None = None, crs: Any = None) -> Iterator[gpd.GeoDataFrame]:
        """Yield the features that meet a box, batch by batch, with the columns `STANDARD_COLUMNS` added.

        Args:
            bbox: (min_x, min_y, max_x, max_y) in `crs`; None reads the whole layer.
            crs: CRS of the box and of the result; None is the layer's own.

        Raises:
            VectorError: the file became unreadable, or the box has no place in the layer's CRS.
        """
        target = self.crs if crs is None else CRS.from_user_input(crs)
        same = target == self.crs
        box = bbox if bbox is None or same else _box_to(bbox, target, self.crs)
        if isinstance(self.source, VectorLayer):
            frames = self.source.batches(bbox=box, counts=self.counts)
        else:
            frames = iter([self.source if box is None else self.source.cx[box[0] : box[2], box[1] : box[3]]])
        for frame in frames:
            yield self._standard(frame if same else frame.to_crs(target))

    def read(self, bbox: Bounds | None = None, crs: Any = None) -> gpd.GeoDataFrame:
        """Return what `batches` yields as one GeoDataFrame; for boxes that are known to be small."""
        frames = list(self.batches(bbox, crs))
        if not frames:
            target = self.crs if crs is None else CRS.from_user_input(crs)
            return self._standard(gpd.GeoDataFrame({name: [] for name in self._columns()}, geometry=[], crs=target))
        return frames[0] if len(frames) == 1 else gpd.pd.concat(frames)

    def _columns(self) -> list[str]:
        return list(self.source.columns) if isinstance(self.source, VectorLayer) else [
            name for name in self.source.columns if name != "geometry"
        ]  # fmt: skip

    def _standard(self, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        def texts(column: str | None) -> list[str]:
            if column is None:
                return [""] * len(frame)
            return ["" if gpd.pd.isna(value) else str(value).strip() for value in frame[column]]

        ids = texts(self.id_field)
        fallback = [f"#{fid}" for fid in frame.index]
        return frame.assign(
            plan_id=[given or other for given, other in zip(ids, fallback, strict=True)],
            plan_class=texts(self.class_field),
            plan_name=texts(self.name_field),
            plan_from=[parse_date(v) for v in frame[self.valid_from]] if self.valid_from else [None] * len(frame),
            plan_to=[parse_date(v) for v in frame[self.valid_to]] if self.valid_to else [None] * len(frame),
            plan_number=texts(self.number),
        )


@dataclass(frozen=True)
class Plan:
    """A set of layers with roles. `notes` say what was guessed, defaulted or left aside when it was opened."""

    layers: tuple[PlanLayer, ...]
    jurisdiction: str = "cn"
    path: str = "memory"
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path, *, settings: VectorSettings | None = None) -> Plan:
        """Open a `plan.yaml`, or a GeoPackage, File GDB or folder of Shapefiles with recognised layer names.

        Every layer is opened and checked (CRS, columns, not empty); no features are read.

        Raises:
            PlanError: the plan or one of its layers cannot be used; the message names file, key and remedy.
        """
        path, settings = Path(path), settings or VectorSettings()
        if not path.exists():
            raise PlanError(f"no such plan: {path}; give a plan.yaml, a .gpkg, a .gdb or a folder of Shapefiles")
        notes: list[str] = []
        if path.is_file() and path.suffix.lower() in {".yaml", ".yml"}:
            spec = read_spec(path)
            jurisdiction, specs = spec.jurisdiction, spec.layers
        else:
            jurisdiction, specs = "cn", _recognised(path, notes)
        layers = tuple(_open(entry, path, settings, notes) for entry in specs)
        for note in notes:
            logger.info("%s", note)
        return cls(layers=layers, jurisdiction=jurisdiction, path=str(path), notes=tuple(notes))

    def of(self, role: str, kinds: Sequence[str] | None = None) -> tuple[PlanLayer, ...]:
        """Return the layers of a role, of permits only those of some kinds."""
        return tuple(entry for entry in self.layers if entry.role == role and (kinds is None or entry.kind in kinds))

    def repairs(self) -> dict[str, dict[str, int]]:
        """Return the repair counts so far of each layer, JSON-ready."""
        return {entry.name: entry.counts.as_dict() for entry in self.layers}


def _box_to(bbox: Bounds, source: CRS, target: CRS) -> Bounds:
    """Return the box around `bbox` in another CRS, edges densified since straight lines bend."""
    transformer = pyproj.Transformer.from_crs(source, target, always_xy=True)
    box: Bounds = transformer.transform_bounds(*bbox, densify_pts=21)
    if not all(math.isfinite(value) for value in box):
        raise VectorError(f"the box {bbox} in {source.name} has no place in {target.name}; check the CRS of both")
    return box


def _recognised(path: Path, notes: list[str]) -> tuple[LayerSpec, ...]:
    """Return the layers of a file or folder whose names are known."""
    if path.is_dir() and path.suffix.lower() != ".gdb":
        sources = [(entry, name) for entry in sorted(path.glob("*.[sS][hH][pP]")) for name in layer_names(entry)]
    else:
        try:
            sources = [(path, name) for name in layer_names(path)]
        except VectorError as error:
            raise PlanError(str(error)) from error
    table = plan_table()
    roles = {name: role for role, entry in table["roles"].items() for name in entry["layers"]}
    specs, unknown = [], []
    for source, name in sources:
        absolute, upper = str(source.resolve()), name.upper()
        if upper in roles:
            specs.append(LayerSpec(role=roles[upper], path=absolute, layer=name))
        elif upper in table["permit_layers"]:
            specs.append(LayerSpec(role="permit", path=absolute, layer=name, **table["permit_layers"][upper]))
        else:
            unknown.append(name)
    known = ", ".join([*roles, *table["permit_layers"]])
    if not specs:
        raise PlanError(f"{path}: no layer has a recognised name (has {', '.join(unknown) or 'none'}); known: {known}; "
                        "or write a plan.yaml (docs/plans.md)")  # fmt: skip
    if unknown:
        notes.append(f"{path.name}: layers not recognised and not used: {', '.join(unknown)}")
    return tuple(specs)


def _without_absent(spec: LayerSpec, source: VectorLayer, notes: list[str]) -> LayerSpec:
    """Return a recognised layer's spec without the usual fields that this delivery lacks; each is noted."""
    absent = {
        key: name for key in ("number", "valid_from") if (name := getattr(spec, key)) not in {None, *source.columns}
    }
    notes.extend(f"{source.path.name} layer {source.layer}: no {key} column {name}" for key, name in absent.items())
    return spec.model_copy(update=dict.fromkeys(absent))


def _open(spec: LayerSpec, plan_path: Path, settings: VectorSettings, notes: list[str]) -> PlanLayer:
    overrides = {key: getattr(spec, key) for key in ("encoding", "guess_crs", "central_meridian")}
    settings = settings.model_copy(update={key: value for key, value in overrides.items() if value is not None})
    defaults = plan_table()["roles"].get(spec.role, {})
    try:
        source = open_layer((plan_path.parent / spec.path), spec.layer, settings=settings)
        if plan_path.suffix.lower() not in {".yaml", ".yml"}:
            spec = _without_absent(spec, source, notes)
        stated = ("class_field", "name_field", "id_field", "valid_from", "valid_to", "number")
        require_columns(source, [name for key in stated if (name := getattr(spec, key))])
    except VectorError as error:
        raise PlanError(f"{plan_path}: role {spec.role}: {error}") from error
    present = {name.upper(): name for name in source.columns}
    class_field = spec.class_field or present.get(str(defaults.get("class_field", "")).upper())
    system = spec.class_system or (defaults.get("class_system") if class_field else None)
    if spec.role == "land_use_baseline" and class_field is None:
        raise PlanError(f"{plan_path}: role {spec.role}: {source.path} has no column DLBM; name the column of land-use "
                        f"codes with class_field (it has {', '.join(source.columns)})")  # fmt: skip
    if system is not None:
        class_system(system)
    said = list(source.notes)
    if spec.class_field and not spec.class_system and system:
        said.append(f"{source.path} layer {source.layer}: class_system not stated, taken as {system}")
    if spec.accuracy_m is None:
        said.append(f"{source.path} layer {source.layer}: accuracy_m not stated, taken as "
                    f"{plan_table()['default_accuracy_m']} m")  # fmt: skip
    if spec.role not in plan_table()["roles"]:
        said.append(f"{source.path} layer {source.layer}: role {spec.role!r} is used only by rules that name it")
    # Notes end in run.json and the report, which are passed on: they name the file, not where it lies.
    notes.extend(note.replace(str(source.path), source.path.name) for note in said)
    ids = [present[name] for name in defaults.get("id_fields", ()) if name in present]
    return PlanLayer(
        role=spec.role, source=source, kind=spec.kind, class_system=system, class_field=class_field,
        name_field=spec.name_field or present.get(str(defaults.get("name_field", "")).upper()),
        id_field=spec.id_field or (ids[0] if ids else None),
        accuracy_m=plan_table()["default_accuracy_m"] if spec.accuracy_m is None else spec.accuracy_m,
        accuracy_stated=spec.accuracy_m is not None,
        valid_from=spec.valid_from, valid_to=spec.valid_to, number=spec.number,
    )  # fmt: skip
