"""From a path to opened plan layers: what a plan names, or which layer names are recognised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuban.data.class_system import class_system
from tuban.data.plan_layer import PlanLayer
from tuban.data.plan_schema import LayerSpec, PlanSpec, read_spec
from tuban.data.plan_table import jurisdictions, plan_defaults, plan_table
from tuban.data.postgis import is_database, open_table
from tuban.data.vector import VectorSettings, layer_names, open_layer
from tuban.errors import PlanError, VectorError

if TYPE_CHECKING:
    from pathlib import Path

    from tuban.data.layer_source import LayerSource
    from tuban.data.plan_table import RoleDefaults

_FIELDS = ("class_field", "name_field", "id_field", "valid_from", "valid_to", "number")


def plan_spec(path: Path, notes: list[str]) -> PlanSpec:
    """Return what a plan consists of.

    Args:
        path: a `plan.yaml`, a GeoPackage, a File GDB or a folder of Shapefiles.
        notes: is appended to: layers that are not recognised.

    Raises:
        PlanError: no such file, not a plan, or no layer with a recognised name.
    """
    if not path.exists():
        raise PlanError(f"no such plan: {path}; give a plan.yaml, a .gpkg, a .gdb or a folder of Shapefiles")
    if path.is_file() and path.suffix.lower() in {".yaml", ".yml"}:
        return read_spec(path)
    return _recognised(path, notes)


def open_spec(spec: LayerSpec, plan: Path, jurisdiction: str, settings: VectorSettings, notes: list[str]) -> PlanLayer:
    """Open one layer of a plan.

    Args:
        spec: what the plan says about it.
        plan: file of the plan, from which relative paths start.
        jurisdiction: whose names and fields are usual.
        settings: how layers are read.
        notes: is appended to: what was guessed, defaulted or left out.

    Raises:
        PlanError: the layer cannot be used.
    """
    usual = plan_table(jurisdiction).role(spec.role)
    stated = {
        key: value for key in ("encoding", "guess_crs", "central_meridian") if (value := getattr(spec, key)) is not None
    }
    try:
        source = _source(spec, plan, settings.model_copy(update=stated))
        if plan.suffix.lower() not in {".yaml", ".yml"}:
            spec = _without_absent(spec, source, notes)
        _require(source, [name for key in _FIELDS if (name := getattr(spec, key))])
    except VectorError as error:
        raise PlanError(f"{plan}: role {spec.role}: {error}") from error
    present = {name.upper(): name for name in source.columns}
    class_field = spec.class_field or present.get(str(usual.class_field).upper())
    if usual.class_required and class_field is None:
        raise PlanError(
            f"{plan}: role {spec.role}: {source.address} has no column {usual.class_field}; name the column of "
            f"land-use codes with class_field (it has {', '.join(source.columns)})"
        )
    system = spec.class_system or (usual.class_system if class_field else None)
    if system is not None:
        class_system(system)
    said = [*source.notes, *_defaulted(spec, source, system, known=spec.role in plan_table(jurisdiction).roles)]
    # Notes end in run.json and the report, which are passed on: they name the source, not where it lies.
    notes.extend(note.replace(source.address, source.name) for note in said)
    return _layer(spec, source, usual, present, class_field, system)


def _layer(
    spec: LayerSpec, source: LayerSource, usual: RoleDefaults, present: dict[str, str], class_field: str | None,
    system: str | None,
) -> PlanLayer:  # fmt: skip
    ids = [present[name.upper()] for name in usual.id_fields if name.upper() in present]
    accuracy = plan_defaults().default_accuracy_m if spec.accuracy_m is None else spec.accuracy_m
    return PlanLayer(
        role=spec.role, source=source, kind=spec.kind, class_system=system, class_field=class_field,
        name_field=spec.name_field or present.get(str(usual.name_field).upper()),
        id_field=spec.id_field or (ids[0] if ids else None),
        accuracy_m=accuracy, accuracy_stated=spec.accuracy_m is not None,
        valid_from=spec.valid_from, valid_to=spec.valid_to, number=spec.number,
    )  # fmt: skip


def _source(spec: LayerSpec, plan: Path, settings: VectorSettings) -> LayerSource:
    if is_database(spec.path):
        return open_table(spec.path, spec.layer, settings=settings, id_field=spec.id_field)
    return open_layer(plan.parent / spec.path, spec.layer, settings=settings)


def _require(source: LayerSource, names: list[str]) -> None:
    missing = [name for name in names if name not in source.columns]
    if missing:
        raise VectorError(
            f"{source.address} layer {source.layer}: no column {', '.join(missing)}; "
            f"it has {', '.join(source.columns) or 'none'}"
        )


def _defaulted(spec: LayerSpec, source: LayerSource, system: str | None, *, known: bool) -> list[str]:
    """Say what was taken because the plan does not state it."""
    where, said = f"{source.address} layer {source.layer}", []
    if spec.class_field and not spec.class_system and system:
        said.append(f"{where}: class_system not stated, taken as {system}")
    if spec.accuracy_m is None:
        said.append(f"{where}: accuracy_m not stated, taken as {plan_defaults().default_accuracy_m} m")
    if not known:
        said.append(f"{where}: role {spec.role!r} is used only by rules that name it")
    return said


def _without_absent(spec: LayerSpec, source: LayerSource, notes: list[str]) -> LayerSpec:
    """Return a recognised layer's spec without the usual fields that this delivery lacks; each is noted."""
    usual = ("number", "valid_from", "valid_to")
    absent = {key: name for key in usual if (name := getattr(spec, key)) not in {None, *source.columns}}
    notes.extend(f"{source.name} layer {source.layer}: no {key} column {name}" for key, name in absent.items())
    return spec.model_copy(update=dict.fromkeys(absent))


def _recognised(path: Path, notes: list[str]) -> PlanSpec:
    """Return the layers of a file or folder whose names are known, of the jurisdiction that knows most of them."""
    if path.is_dir() and path.suffix.lower() != ".gdb":
        sources = [(entry, name) for entry in sorted(path.glob("*.[sS][hH][pP]")) for name in layer_names(entry)]
    else:
        try:
            sources = [(path, name) for name in layer_names(path)]
        except VectorError as error:
            raise PlanError(str(error)) from error
    known = {entry: _names(entry) for entry in jurisdictions()}
    present = {name.upper() for _, name in sources}
    order = [plan_defaults().jurisdiction, *known]
    best = max(known, key=lambda entry: (len(present & set(known[entry])), -order.index(entry)))
    specs = [
        LayerSpec(path=str(source.resolve()), layer=name, **known[best][name.upper()])
        for source, name in sources
        if name.upper() in known[best]
    ]
    unknown = [name for _, name in sources if name.upper() not in known[best]]
    if not specs:
        names = ", ".join(name for entry in known.values() for name in entry)
        raise PlanError(
            f"{path}: no layer has a recognised name (has {', '.join(unknown) or 'none'}); known: {names}; "
            "or write a plan.yaml (docs/plans.md)"
        )
    if unknown:
        notes.append(f"{path.name}: layers not recognised and not used: {', '.join(unknown)}")
    return PlanSpec(jurisdiction=best, layers=tuple(specs))


def _names(jurisdiction: str) -> dict[str, dict[str, Any]]:
    """Return what each recognised layer name means, as keys of a `LayerSpec`."""
    table = plan_table(jurisdiction)
    roles = {name: {"role": role} for role, entry in table.roles.items() for name in entry.layers}
    permits = {name: {"role": "permit", **entry.model_dump()} for name, entry in table.permit_layers.items()}
    return {**roles, **permits}
