from __future__ import annotations

import json

import geopandas as gpd
import numpy as np
import pytest
import shapely
from PIL import Image, ImageDraw

from tuban.postprocess.figure import make_overlay
from tuban.postprocess.legend import fonts, is_zone, known_roles, role_colors, role_name
from tuban.postprocess.report import write_report
from tuban.postprocess.unfold import unfold
from tuban.postprocess.view import PlainGrid, View, svg_path

CRS = "EPSG:4547"
PATCH = shapely.box(500100, 2999500, 500160, 2999540)


class Layer:
    """A plan layer in memory, with class codes."""

    def __init__(self, role, shapes, codes=None, kind=None):
        self.role, self.kind = role, kind
        self.frame = gpd.GeoDataFrame({"plan_class": codes or [""] * len(shapes)}, geometry=shapes, crs=CRS)

    def batches(self, bbox=None, crs=None):
        frame = self.frame if crs is None else self.frame.to_crs(crs)
        yield frame if bbox is None else frame[frame.intersects(shapely.box(*bbox))]


def view(shape=PATCH, crs=CRS):
    return View.around(PlainGrid.around(shape, crs), shape, context=2.0, min_px=64, max_px=900)


def painted(path, height):
    """The pixels inside an SVG path of ours, by PIL: even-odd over its rings."""
    mask = np.zeros((round(height), 1000), bool)
    for ring in filter(None, path.split("Z")):
        image = Image.new("1", (1000, round(height)))
        points = [tuple(map(float, pair.split(","))) for pair in ring.removeprefix("M").split()]
        ImageDraw.Draw(image).polygon(points, fill=1)
        mask ^= np.array(image)
    return mask


def test_zone_covers_the_share_of_the_patch_that_it_covers_on_the_ground():
    zone = Layer("permanent_basic_farmland", [shapely.box(500000, 2999000, 500145, 3000000)])
    figure = make_overlay(view(), PATCH, [zone])
    (layer,) = figure.layers
    patch, inside = painted(figure.outline, figure.height), painted(layer.path, figure.height)
    assert (patch & inside).sum() / patch.sum() == pytest.approx(45 / 60, abs=0.01)
    assert layer.filled


def test_holes_in_zones_stay_open():
    ring = shapely.box(499000, 2998000, 501000, 3001000).difference(PATCH.buffer(5))
    figure = make_overlay(view(), PATCH, [Layer("wetland", [ring])])
    patch, inside = painted(figure.outline, figure.height), painted(figure.layers[0].path, figure.height)
    assert not (patch & inside).any()
    assert inside.any()


def test_scale_bar_is_true_and_the_figure_deterministic():
    first, second = (make_overlay(view(), PATCH, []) for _ in range(2))
    assert first == second
    west, *_, east = np.sort([float(p.split(",")[0]) for p in first.outline.strip("MZ").split()])
    metres_per_unit = 60 / (east - west)
    assert first.scale_units * metres_per_unit == pytest.approx(first.scale_m, rel=0.01)
    assert first.layers == ()


def test_parcels_are_outlined_labelled_and_counted_where_too_many():
    parcels = [shapely.box(500000 + 20 * n, 2999400, 500020 + 20 * n, 2999700) for n in range(20)]
    baseline = Layer("land_use_baseline", parcels, ["0103"] * 20)
    permit = Layer("permit", [PATCH], kind="temporary")
    figure = make_overlay(view(), PATCH, [baseline, permit])
    assert [layer.role for layer in figure.layers] == ["permit/temporary", "land_use_baseline"]  # fills lie beneath
    assert not figure.layers[1].filled
    assert {code for *_, code in figure.labels} == {"0103"}
    many = Layer("land_use_baseline", [PATCH] * 450)
    assert make_overlay(view(), PATCH, [many]).hidden == 50


def test_geographic_coordinates_keep_the_grounds_proportions():
    shape = gpd.GeoSeries([PATCH], crs=CRS).to_crs(4490).iloc[0]
    figure = make_overlay(view(shape, "EPSG:4490"), shape, [])
    points = np.array([p.split(",") for p in figure.outline.strip("MZ").split()], float)
    across, down = np.ptp(points, axis=0)
    assert across / down == pytest.approx(60 / 40, rel=0.02)


def test_legend_knows_roles_of_any_pack():
    assert role_name("permit/temporary", "zh") == "临时用地批复"
    assert role_name("not:urban_development_boundary", "en") == "outside urban development boundary"
    roles = [f"role_{n}" for n in range(6)]
    assert len(set(role_colors(roles).values())) == 6
    assert role_colors(roles) == role_colors(reversed(roles))
    assert not is_zone("permit/temporary")
    assert is_zone("landscape_feature")
    assert set(known_roles()) > {"permanent_basic_farmland"}
    assert fonts()


def test_report_draws_the_overlay_without_imagery(tmp_path, factory):
    run = {"versions": {}, "inputs": [{"role": "plan", "name": "plan.gpkg", "sha256": "cd" * 32}]}
    zone = Layer("permanent_basic_farmland", [shapely.box(499900, 2999000, 500200, 3000400)])
    write_report(
        tmp_path / "r.html",
        run=run,
        findings=[factory.findings_frame(2).assign(trace='{"rule": "P1", "net": 1.5}')],
        zones=[zone],
    )
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.count('class="plain"') == 2
    assert "套合示意图" in text
    assert "cd" * 32 in text
    assert "扣除批准后" in text


def test_trace_is_unfolded_into_rows():
    permits = [{"number": "批〔2024〕1号", "valid": True}, {"number": "x"}]
    trace = json.dumps({"permits": permits, "missing": [], "odd": {"a": None}, "n": 2.0})
    rows = dict(unfold(trace, {"permits": "审批"}, yes="是", no="否"))
    assert rows["审批"] == ["number 批〔2024〕1号; valid 是", "number x"]
    assert rows["n"] == ["2"]
    assert "missing" not in rows
    assert unfold("not json", {}) == [("", ["not json"])]
    assert unfold(None, {}) == []
    assert svg_path(shapely.GeometryCollection([shapely.box(0, 0, 1, 1), shapely.Point(0, 0)])).count("Z") == 1
