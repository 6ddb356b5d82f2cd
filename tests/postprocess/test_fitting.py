"""What is said where a model does not fit the images, or tells less than usual."""

from __future__ import annotations

from types import SimpleNamespace

import geopandas as gpd
import pytest
import shapely

from tuban.data.plan_layer import PlanLayer
from tuban.postprocess.fitting import misfits, told_by
from tuban.postprocess.phrases import translated

FRAME = gpd.GeoDataFrame({"DLBM": ["0103"]}, geometry=[shapely.box(500_000, 4_000_000, 500_100, 4_000_100)], crs=4547)


def bundle(**facts):
    usual = {"name": "rgb", "bands": ("B04", "B03"), "gsd_m": (0.3, 1.0), "units": "byte", "classes": ()}
    return SimpleNamespace(**{**usual, "change_to_classes": (9,), **facts})


@pytest.mark.parametrize(
    ("units", "radiometry", "said"),
    [("byte", "reflectance", 1), ("byte", "dn", 0), ("reflectance", "reflectance", 0)],
)
def test_reflectance_in_a_model_of_8_bit_colour_is_said(units, radiometry, said):
    scene = SimpleNamespace(gsd_m=0.5, radiometry=radiometry)
    notes = list(misfits(bundle(units=units), ("B04", "B03"), scene))
    assert [note.split(":")[0] for note in notes] == [
        "rgb was made for 8-bit colour and reads reflectance here, which is darker"
    ][:said]
    assert all(translated(note, "zh")[1] for note in notes)


def test_bands_and_pixels_that_do_not_fit_are_said():
    notes = list(misfits(bundle(), ("B04",), SimpleNamespace(gsd_m=10.0, radiometry="dn")))
    assert [note.split(" ")[0] for note in notes] == ["rgb", "pixels"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"class_system": "cn-survey", "class_field": "DLBM"}, "the class before is that of the plan's baseline layer"),
        ({}, "what the land was before is unknown"),
    ],
)
def test_only_a_baseline_with_codes_stands_in_for_land_cover(facts, said):
    layer = PlanLayer("land_use_baseline", FRAME, **facts)
    (note,) = told_by(bundle(), SimpleNamespace(of=lambda _: (layer,)))
    assert said in note
    assert translated(note, "zh")[1]
