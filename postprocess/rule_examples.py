"""The worked examples of a rule pack, run: a pack that cannot reproduce its own cases is not to be used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import shapely
from pyproj import CRS

from tuban.data.plan import Plan, PlanLayer
from tuban.postprocess.area import geodesic_area, to_mu
from tuban.postprocess.check import CheckContext, check_changes
from tuban.postprocess.history import history_layer
from tuban.postprocess.rule_parts import PERMIT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tuban.postprocess.rule_cases import Box, Example, Expect, Past, Shape
    from tuban.postprocess.rules import Rule, RulePack

# An equal-area plane in no jurisdiction: near its origin planar and ellipsoidal square metres agree within 1e-8.
_CRS = CRS.from_user_input("+proj=laea +lat_0=35 +lon_0=0 +ellps=WGS84 +type=crs")
_RELATIVE = 1e-3
_AREAS = ("overlap_m2", "permitted_m2", "net_m2", "farmland_net_m2")


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """What an example came to; `problem` is empty where it is as expected."""

    rule: str
    example: str
    kind: str
    problem: str


def _frame(boxes: Iterable[Box], **columns: Any) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=[shapely.box(*box) for box in boxes], crs=_CRS)


def _shapes(shapes: tuple[Shape, ...]) -> gpd.GeoDataFrame:
    names = sorted({name for shape in shapes for name in shape.fields})
    columns: dict[str, Any] = {name: [shape.fields.get(name, "") for shape in shapes] for name in names}
    columns |= {"CODE": [s.code for s in shapes], "ID": [str(i) for i in range(len(shapes))]}
    columns |= {"FROM": [s.valid_from for s in shapes], "TO": [s.valid_to for s in shapes]}
    return _frame((shape.box for shape in shapes), **columns)


def _plan(example: Example, pack: RulePack) -> Plan:
    layers = [
        PlanLayer(role=role, source=_shapes(shapes), class_system=pack.class_system, class_field="CODE", id_field="ID",
                  accuracy_m=0.0)
        for role, shapes in example.zones.items()
    ]  # fmt: skip
    for kind in sorted({shape.kind for shape in example.permits if shape.kind}):
        shapes = tuple(shape for shape in example.permits if shape.kind == kind)
        layers.append(PlanLayer(role=PERMIT, kind=kind, source=_shapes(shapes), id_field="ID", accuracy_m=0.0,
                                valid_from="FROM", valid_to="TO", number="ID"))  # fmt: skip
    return Plan(layers=tuple(layers), jurisdiction=pack.jurisdiction)


def _history(past: tuple[Past, ...]) -> PlanLayer | None:
    if not past:
        return None
    ids = [f"past{index}" for index in range(len(past))]
    columns = {name: [getattr(p, name) for p in past] for name in ("status", "net_m2", "actor", "judgement")}
    columns |= {"finding_id": ids, "change_id": ids, "rule_id": [p.rule for p in past]}
    return history_layer(_frame((p.box for p in past), date_after=[str(p.date) for p in past], **columns))


def _changes(example: Example) -> gpd.GeoDataFrame:
    boxes = [example.box, *(n.box for n in example.neighbours)]
    frame = _frame(
        boxes,
        change_id=["example", *(f"neighbour{i}" for i in range(len(example.neighbours)))],
        from_class=example.from_, to_class=[example.to, *(n.to for n in example.neighbours)],
        confidence=example.confidence, actor=example.actor,
    )  # fmt: skip
    frame["area_m2"] = geodesic_area(frame.geometry.values, _CRS)
    return frame.assign(area_mu=to_mu(frame["area_m2"]))


def _involved(rule: Rule, pack: RulePack, example: Example) -> tuple[Rule, ...]:
    """Return the rules that can change an example's verdict: those that its rule names, and so on."""
    names, todo = {rule.id}, [rule.id, *([example.finding] if example.finding else [])]
    while todo:
        found = [r for r in pack.rules if r.id == todo[-1]]
        todo.pop()
        for r in found:
            more = {r.id, *r.yields_to, *([r.excess_rule] if r.excess_rule else [])}
            more |= {name for limit in r.total.limits for name in limit.of} if r.total else set()
            todo += sorted(more - names)
            names |= more
    return tuple(r for r in pack.rules if r.id in names)


def run_example(pack: RulePack, rule: Rule, example: Example) -> ExampleResult:
    """Return what one example of one rule comes to."""
    small = pack.model_copy(update={"rules": _involved(rule, pack, example)})
    context = CheckContext(
        date_before=example.date_before,
        date_after=example.date,
        image_accuracy_m=example.accuracy_m,
        run_date=example.date,
        history=_history(example.history),
    )
    wanted = example.finding or rule.id
    found = [
        row for frame in check_changes([_changes(example)], _plan(example, pack), small, context=context)
        for row in frame.to_dict("records") if row["rule_id"] == wanted and row["change_id"] == "example"
    ]  # fmt: skip
    return ExampleResult(rule.id, example.name, example.kind, "; ".join(_problems(found, example.expect)))


def _problems(found: list[dict[str, Any]], expect: Expect) -> list[str]:
    """Return how a finding (none, or one) differs from what is expected of it."""
    status = found[0]["status"] if found else "none"
    problems = [f"status {status}, expected {expect.status}"] if status != expect.status else []
    if found and expect.severity and found[0]["severity"] != expect.severity:
        problems.append(f"severity {found[0]['severity']}, expected {expect.severity}")
    for name in _AREAS if found else ():
        wanted = getattr(expect, name)
        if wanted is not None and not math.isclose(wanted, found[0][name], rel_tol=_RELATIVE, abs_tol=0.05):
            problems.append(f"{name} {found[0][name]}, expected {wanted:g}")
    return problems


def run_examples(pack: RulePack) -> list[ExampleResult]:
    """Return what every example of a pack comes to, in the order of the pack."""
    return [run_example(pack, rule, example) for rule in pack.rules for example in rule.examples]
