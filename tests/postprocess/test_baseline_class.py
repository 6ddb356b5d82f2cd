"""The class before, out of the plan's baseline layer, where a model tells none."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files

import geopandas as gpd
import pytest
import shapely
import yaml

from tuban.data.class_system import class_system
from tuban.data.classes import classes
from tuban.data.plan_layer import PlanLayer
from tuban.postprocess.baseline_class import _value, tells_classes, with_baseline

CRS = "EPSG:4547"
LEFT = shapely.box(500_000, 4_000_000, 500_060, 4_000_100)
RIGHT = shapely.box(500_060, 4_000_000, 500_100, 4_000_100)


class _Plan:
    def __init__(self, *layers: PlanLayer) -> None:
        self.layers = layers

    def of(self, role: str) -> tuple[PlanLayer, ...]:
        return tuple(layer for layer in self.layers if layer.role == role)


def baseline(codes: list[str]) -> PlanLayer:
    frame = gpd.GeoDataFrame({"DLBM": codes}, geometry=[LEFT, RIGHT], crs=CRS)
    return PlanLayer("land_use_baseline", frame, class_system="cn-survey", class_field="DLBM")


def changes(*shapes: shapely.Geometry) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame({"from_class": ["ignore"] * len(shapes)}, geometry=list(shapes), crs=CRS)


def test_the_class_under_the_largest_part_counts():
    whole = shapely.box(500_000, 4_000_000, 500_100, 4_000_010)
    right = shapely.box(500_050, 4_000_020, 500_090, 4_000_030)
    beyond = shapely.box(600_000, 4_000_000, 600_010, 4_000_010)
    counts = Counter(from_class_unknown=3)
    (frame,) = with_baseline([changes(whole, right, beyond)], _Plan(baseline(["0103", "1104K"])), counts)
    assert list(frame["from_class"]) == ["cropland", "pond", "ignore"]
    assert counts == {"from_class_unknown": 1, "from_class_baseline": 2}


def test_without_a_baseline_nothing_is_known():
    counts = Counter(from_class_unknown=1)
    for plan in (None, _Plan()):
        (frame,) = with_baseline([changes(LEFT)], plan, counts)
        assert list(frame["from_class"]) == ["ignore"]
    assert counts["from_class_unknown"] == 1


def test_a_layer_without_known_codes_tells_nothing():
    coded = baseline(["0103", "1104"])
    frame = gpd.GeoDataFrame(geometry=[LEFT], crs=CRS)
    silent = (PlanLayer("land_use_baseline", frame), PlanLayer("land_use_baseline", frame, class_system="cn-survey"))
    assert tells_classes(_Plan(*silent, coded)) == (coded,)
    assert tells_classes(None) == ()


def test_a_parcel_that_crosses_itself_in_the_grid_of_the_images_is_cut_all_the_same():
    # A notch that ends 111 m above a parallel; in the projection the parallel's chord lies 476 m higher.
    parcel = shapely.Polygon([(113, 40), (115, 40), (115, 41), (114.01, 41), (114, 40.001), (113.99, 41), (113, 41)])
    layer = gpd.GeoDataFrame({"DLBM": ["0103"]}, geometry=[parcel], crs="EPSG:4326")
    assert parcel.is_valid
    assert not layer.to_crs(CRS).is_valid.any()
    place = gpd.GeoSeries([shapely.Point(114, 40).buffer(0.01), shapely.box(113.95, 39.99, 114.05, 40.3)], crs=4326)
    frame = gpd.GeoDataFrame({"from_class": ["ignore"] * 2}, geometry=place.to_crs(CRS).values, crs=CRS)
    plan = _Plan(PlanLayer("land_use_baseline", layer, class_system="cn-survey", class_field="DLBM"))
    (judged,) = with_baseline([frame], plan, Counter(from_class_unknown=2))
    assert list(judged["from_class"]) == ["cropland", "cropland"]


@pytest.mark.parametrize(("code", "value"), [("3", 4), ("33", 7), ("35", 0), ("32", 0), ("49", 0), ("50", 0)])
def test_a_code_of_one_digit_is_no_group_of_codes(code, value):
    table = yaml.safe_load(files("tuban.configs").joinpath("baseline_classes.yaml").read_text(encoding="utf-8"))
    assert _value(code, table["br-mapbiomas"]) == value


@pytest.mark.parametrize(("code", "value"), [("0101", 1), ("0602", 13), ("0601", 18), ("1104A", 8), ("99", 0), ("", 0)])
def test_the_longest_known_beginning_of_a_code_counts(code, value):
    assert _value(code, {"01": 1, "06": 18, "0602": 13, "11": 7, "1104": 8}) == value


def test_every_code_is_of_its_table_and_every_class_is_unified():
    table = yaml.safe_load(files("tuban.configs").joinpath("baseline_classes.yaml").read_text(encoding="utf-8"))
    for system, codes in table.items():
        known = class_system(system).classes
        assert set(codes.values()) <= set(classes()) - {0}
        assert [code for code in codes if not any(one.startswith(code) or code.startswith(one) for one in known)] == []
