"""A plan that lies elsewhere is refused or said, never taken for one that finds nothing."""

from __future__ import annotations

import re

import geopandas as gpd
import pytest
import shapely

from tuban.data.plan import Plan, PlanLayer
from tuban.errors import PlanError
from tuban.postprocess.coverage import unreached

HERE = (114.0, 27.0, 114.1, 27.1)


def layer(role, box, crs="EPSG:4490"):
    shape = gpd.GeoSeries([shapely.box(*box)], crs="EPSG:4490").to_crs(crs)
    return PlanLayer(role=role, source=gpd.GeoDataFrame(geometry=shape))


NEAR, FAR = (114.05, 27.05, 114.3, 27.3), (117.0, 27.0, 117.1, 27.1)


@pytest.mark.parametrize("crs", ["EPSG:4490", "EPSG:4547", "EPSG:4526", "EPSG:3857", "EPSG:32650"])
def test_layers_are_compared_across_crs(crs):
    plan = Plan((layer("near", NEAR, crs), layer("far", FAR, crs)))
    (said,) = unreached(plan, HERE)
    assert "far" in said
    assert re.search(r"lon 11(6\.9|7\.0)", said)


def test_a_plan_of_another_place_is_refused_with_both_places():
    with pytest.raises(PlanError, match=r"lon 114\.0000\.\.114\.1000.*lon 117") as caught:
        unreached(Plan((layer("far", FAR),)), HERE)
    assert "\n" not in str(caught.value)


def test_no_layers_say_nothing():
    assert unreached(Plan(()), HERE) == []


def test_a_box_over_the_date_line_is_not_refused():
    around = gpd.GeoSeries([shapely.box(600000, 7_400_000, 1_000_000, 7_500_000)], crs="EPSG:32601")  # 177 W
    west = gpd.GeoSeries([shapely.box(100_000, 7_400_000, 600_000, 7_500_000)], crs="EPSG:32601")
    plan = Plan(
        (PlanLayer(role="over", source=gpd.GeoDataFrame(geometry=gpd.pd.concat([around, west], ignore_index=True))),)
    )
    assert unreached(plan, (-179.5, 66.9, -179.0, 67.1)) == []
