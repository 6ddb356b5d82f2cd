"""The worked examples of a rule pack, run: a pack that cannot reproduce its own cases is not to be used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import shapely

from tuban.data.plan import Plan, PlanLayer
from tuban.postprocess.area import geodesic_area, to_mu
from tuban.postprocess.check import CheckContext, check_changes

if TYPE_CHECKING:
    from tuban.postprocess.rules import Example, RulePack, Shape

# A CGCS2000 zone near its central meridian, where a planar and an ellipsoidal square metre agree within 1e-6.
_CRS, _EAST, _NORTH = "EPSG:4547", 500_000.0, 3_400_000.0
_RELATIVE = 1e-3


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """What an example came to; `problem` is empty where it is as expected."""

    rule: str
    example: str
    kind: str
    problem: str


def _box(box: tuple[float, float, float, float]) -> Any:
    return shapely.box(_EAST + box[0], _NORTH + box[1], _EAST + box[2], _NORTH + box[3])


def _frame(shapes: tuple[Shape, ...]) -> gpd.GeoDataFrame:
    names = sorted({name for shape in shapes for name in shape.fields})
    columns: dict[str, Any] = {name: [shape.fields.get(name, "") for shape in shapes] for name in names}
    columns |= {"DLBM": [s.code for s in shapes], "ID": [str(i) for i in range(len(shapes))]}
    columns |= {"FROM": [s.valid_from for s in shapes], "TO": [s.valid_to for s in shapes]}
    return gpd.GeoDataFrame(columns, geometry=[_box(shape.box) for shape in shapes], crs=_CRS)


def _plan(example: Example, pack: RulePack) -> Plan:
    layers = [
        PlanLayer(role=role, source=_frame(shapes), class_system=pack.class_system, class_field="DLBM", id_field="ID",
                  accuracy_m=0.0)
        for role, shapes in example.zones.items()
    ]  # fmt: skip
    for kind in sorted({shape.kind for shape in example.permits if shape.kind}):
        shapes = tuple(shape for shape in example.permits if shape.kind == kind)
        layers.append(PlanLayer(role="permit", kind=kind, source=_frame(shapes), id_field="ID", accuracy_m=0.0,
                                valid_from="FROM", valid_to="TO", number="ID"))  # fmt: skip
    return Plan(layers=tuple(layers), jurisdiction=pack.jurisdiction)


def _differs(expected: float | None, got: float) -> bool:
    return expected is not None and not math.isclose(expected, got, rel_tol=_RELATIVE, abs_tol=0.05)


def run_example(pack: RulePack, rule_id: str, example: Example) -> ExampleResult:
    """Return what one example of one rule comes to."""
    patch = _box(example.box)
    area = float(geodesic_area([patch], _CRS)[0])
    change = gpd.GeoDataFrame(
        {"change_id": ["example"], "from_class": [example.from_], "to_class": [example.to], "area_m2": [area],
         "area_mu": [float(to_mu(area))], "confidence": [1.0]}, geometry=[patch], crs=_CRS,
    )  # fmt: skip
    # Only the rule, and the one it hands excesses on to: the others cannot change its verdict.
    rule = pack.rule(rule_id)
    pack = pack.model_copy(update={"rules": tuple(r for r in pack.rules if r.id in {rule_id, rule.excess_rule})})
    context = CheckContext(
        date_before=example.date_before,
        date_after=example.date,
        image_accuracy_m=example.accuracy_m,
        run_date=example.date,
    )
    found = [
        row for frame in check_changes([change], _plan(example, pack), pack, context=context)
        for row in frame.to_dict("records") if row["rule_id"] == rule_id
    ]  # fmt: skip
    expect = example.expect
    status = found[0]["status"] if found else "none"
    problems = [f"status {status}, expected {expect.status}"] if status != expect.status else []
    if found and expect.severity and found[0]["severity"] != expect.severity:
        problems.append(f"severity {found[0]['severity']}, expected {expect.severity}")
    problems += [
        f"{name} {found[0][name]}, expected {getattr(expect, name)}"
        for name in ("overlap_m2", "permitted_m2")
        if found and _differs(getattr(expect, name), found[0][name])
    ]
    return ExampleResult(rule_id, example.name, example.kind, "; ".join(problems))


def run_examples(pack: RulePack) -> list[ExampleResult]:
    """Return what every example of a pack comes to, in the order of the pack."""
    return [run_example(pack, rule.id, example) for rule in pack.rules for example in rule.examples]
