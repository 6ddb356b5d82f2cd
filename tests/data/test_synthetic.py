import datetime as dt

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely

from tuban.data.drawing import demo_settings
from tuban.data.plan import Plan
from tuban.data.synthetic import make_demo
from tuban.errors import OutputError
from tuban.postprocess.check import check_changes
from tuban.postprocess.check_context import CheckContext
from tuban.postprocess.rules import load_pack


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("演示 demo"), seed=3)


def test_images_share_one_grid_and_carry_their_bands(pair):
    with rasterio.open(pair.before) as before, rasterio.open(pair.after) as after:
        assert before.profile == after.profile
        assert before.descriptions == ("B02", "B03", "B04", "B08")
        assert (before.crs.to_epsg(), before.res, before.nodata) == (4547, (10, 10), 0)
        assert before.read().min() > 0
        assert after.read().min() > 0
        assert not np.array_equal(before.read(), after.read())


def test_same_seed_same_bytes_and_another_seed_another_image(pair, tmp_path):
    again = make_demo(tmp_path / "a", seed=3)
    for path in sorted(pair.before.parent.iterdir()):
        assert path.read_bytes() == (again.before.parent / path.name).read_bytes(), path.name
    other = make_demo(tmp_path / "a", seed=4)
    assert other.before.read_bytes() == pair.before.read_bytes()
    assert other.after.read_bytes() != pair.after.read_bytes()
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"before.tif", "after.tif", "scene.json", "plan.yaml", "plan.gpkg", "truth.gpkg"}


def test_the_drawn_plan_leaves_nothing_to_be_guessed(pair):
    plan = Plan.load(pair.plan)
    assert plan.notes == ()
    assert all(layer.accuracy_stated for layer in plan.layers)


def test_baseline_covers_the_chip_without_gap_or_overlap(pair):
    baseline = gpd.read_file(pair.before.parent / "plan.gpkg", layer="DLTB")
    with rasterio.open(pair.before) as source:
        chip = shapely.box(*source.bounds)
    assert baseline.is_valid.all()
    # Equal sums with an equal union leave room for neither gap nor overlap.
    assert baseline.area.sum() == pytest.approx(chip.area, rel=1e-9)
    assert shapely.union_all(baseline.geometry.to_numpy()).symmetric_difference(chip).area < 1e-3
    assert set(baseline["DLBM"]) == {"0103", "0301", "0702"}


def test_perfect_outlines_get_the_statuses_the_drawing_promises(pair):
    sites = gpd.read_file(pair.truth, layer="sites")
    changes = sites.assign(
        change_id=sites["site_id"],
        from_class="cropland",
        to_class="built_mixed",
        area_m2=sites.area,
        confidence=0.9,
    )
    dates = demo_settings().dates
    context = CheckContext(date_before=dates["before"], date_after=dates["after"], image_accuracy_m=5.0)
    findings = pd.concat(check_changes([changes], Plan.load(pair.plan), load_pack("cn"), context=context))
    statuses = findings.groupby("change_id")["status"].agg(set)
    for site, expects in zip(sites["site_id"], sites["expects"], strict=True):
        found = statuses.get(site, {"none"})
        assert expects in found, (site, expects, found)
    assert set(findings["status"]) == {"suspected", "inconclusive", "permitted", "compliant", "undetermined"}


def test_sizes_span_what_the_sensor_can_and_cannot_see(pair):
    sites = gpd.read_file(pair.truth, layer="sites")
    assert sites["drawn_m2"].min() <= 400
    assert sites["drawn_m2"].max() >= 20_000
    decoys = gpd.read_file(pair.truth, layer="decoys")
    assert not decoys.union_all().intersects(sites.union_all())


def test_the_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file.*--out"):
        make_demo(tmp_path / "file")


def test_dates_are_in_order():
    dates = demo_settings().dates
    assert dates["before"] < dates["after"] <= dt.date(2025, 12, 31)
