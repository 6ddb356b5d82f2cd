"""What clouds hide, end to end: without a mask the cloud alarms, with it nothing does and the unseen land is said."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import geometry_mask, rasterize

from tuban.inference.reading import Damage
from tuban.postprocess.layers import LayerWriter
from tuban.postprocess.unseen import Unjudged

CLOUD = (slice(10, 34), slice(14, 36))  # rows and columns; covers the site "farmland" and more


@pytest.fixture
def cloudy(small, tmp_path):
    """The small pair with a cloud over one site of AFTER, and the SCL that knows it."""
    folder = small.write_pair(tmp_path / "in")
    _, after = small.pixels()
    after[(slice(None), *CLOUD)] = 2500
    small.write_image(folder / "after.tif", after)
    scl = np.full((1, small.SIDE, small.SIDE), 4, np.uint8)
    scl[(0, *CLOUD)] = 9
    small.write_image(folder / "mask.tif", scl, bands=("SCL",))
    return folder


def changed(out):
    with rasterio.open(out / "change.tif") as dataset:
        return dataset.read(1)


def test_a_hidden_site_raises_no_alarm_and_is_said(pair, small, cloudy, tmp_path):
    scenes = {"before": cloudy / "before.tif", "after": cloudy / "after.tif", "plan": cloudy / "plan.gpkg"}
    bare = pair.detect(tmp_path / "bare", **scenes)
    (cloudy / "mask.tif").rename(cloudy / "after_SCL.tif")
    masked = pair.detect(tmp_path / "masked", "pair.clouds.dilate_m=20", **scenes)
    assert (bare.code, masked.code) == (0, 0), masked.err
    assert "unseen" not in bare.record
    assert any("no cloud mask was found" in json.dumps(note) for note in bare.record["notes"])
    assert (changed(tmp_path / "bare")[CLOUD] == 1).any()
    assert (changed(tmp_path / "masked")[CLOUD] == 255).all()

    site = small.box_of("farmland")
    layers = {
        name: pyogrio.read_dataframe(tmp_path / name / "findings.gpkg", layer="changes") for name in ("bare", "masked")
    }
    assert layers["bare"].intersects(site).any()
    assert not layers["masked"].intersects(site).any()
    assert layers["masked"].intersects(small.box_of("village")).any()

    said = masked.record["unseen"]
    # 24 x 22 pixels and 2 pixels around them; of each corner only the pixel on the diagonal is within 20 m.
    assert said["unseen_px"] == 24 * 22 + 2 * 2 * (24 + 22) + 4 * 1
    assert said["unseen_m2"] == pytest.approx(100 * said["unseen_px"], rel=1e-3)
    assert said["by_cause"] == {"before": {}, "after": {"cloud": said["unseen_px"]}}
    valid = masked.record["counts"]["valid_px"]
    assert said["share"] == pytest.approx(said["unseen_px"] / (said["unseen_px"] + valid), abs=1e-6)
    with rasterio.open(tmp_path / "masked" / "unseen.tif") as dataset:
        before, after = dataset.read()
        assert dataset.transform == small.TRANSFORM
    assert not before.any()
    assert (after == 1).sum() == said["unseen_px"]
    assert masked.record["pair"]["clouds"]["after"]["kind"] == "scl"

    (row,) = small.findings(tmp_path / "masked", "unseen").itertuples()
    assert (row.cause, row.cause_before, row.cause_after) == ("cloud", "", "cloud")
    assert row.area_m2 == pytest.approx(said["unseen_m2"], rel=1e-4)
    assert row.geometry.area == 100 * said["unseen_px"]
    assert masked.record["layers"]["unseen"] == masked.record["unjudged"]["polygons"] == 1
    assert masked.record["unjudged"]["by_cause_m2"] == {"cloud": row.area_m2}
    assert bare.record["unjudged"] == {"polygons": 0, "area_m2": 0, "by_cause_m2": {}}
    assert small.findings(tmp_path / "bare", "unseen").empty


def test_asking_for_a_mask_that_is_not_there_is_one_line(pair, tmp_path):
    result = pair.detect(tmp_path / "out", "pair.clouds.source=own")
    assert result.code == 1
    assert "pair.clouds.mask_before" in result.error
    assert not (tmp_path / "out").exists()


class Area:
    """The part of a pair that tells the area of interest: a triangle."""

    crs = "EPSG:4547"
    transform = Affine(10.0, 0.0, 590400.0, 0.0, -10.0, 3000600.0)
    triangle = shapely.Polygon([(590400, 3000600), (590800, 3000600), (590400, 3000300)])

    def inside(self, window):
        moved = self.transform @ Affine.translation(window.col_off, window.row_off)
        return geometry_mask([self.triangle], (window.height, window.width), moved, invert=True)


def raster(path, values, nodata=None):
    profile = {"driver": "GTiff", "crs": Area.crs, "transform": Area.transform, "dtype": "uint8", "nodata": nodata}
    with rasterio.open(path, "w", count=len(values), height=30, width=40, **profile) as target:
        target.write(values)
    return path


def test_each_pixel_that_was_not_judged_lies_in_a_polygon_of_its_cause(tmp_path):
    """Oracle: the polygons burnt again are the classes, pixel by pixel."""
    rng = np.random.default_rng(3)
    hidden = np.kron(rng.integers(0, 3, (2, 6, 8)), np.ones((5, 5), int)).astype(np.uint8)
    hidden[:, :, 25:] = 0
    change = rng.integers(0, 2, (1, 30, 40)).astype(np.uint8)
    change[0][hidden.any(axis=0)] = 255
    change[0, :7, 30:] = 255
    damage = (Damage(8, 24, 4, 5, "cut short"),)
    change[0, 8:12, 24:29] = 255
    wanted = np.where(change[0] == 255, "no_data", "").astype(object)
    wanted[8:12, 24:29] = "unreadable"
    first, second = hidden
    least = np.where((first == 0) | ((second > 0) & (second < first)), second, first)
    wanted[least == 1], wanted[least == 2] = "cloud", "cirrus"
    wanted[~Area().inside(SimpleNamespace(row_off=0, col_off=0, height=30, width=40))] = ""

    rasters = SimpleNamespace(change=raster(tmp_path / "change.tif", change, 255), damage=damage)
    unjudged = Unjudged(Area(), rasters, raster(tmp_path / "unseen.tif", hidden))
    with LayerWriter(tmp_path / "f.gpkg", crs=Area.crs, layers=("unseen",)) as writer:
        for frame in unjudged.frames():
            writer.append("unseen", frame)
    made = pyogrio.read_dataframe(tmp_path / "f.gpkg", layer="unseen")
    assert set(made["cause"]) == {"cloud", "cirrus", "no_data", "unreadable"}
    for cause in set(made["cause"]):
        burnt = rasterize(made.geometry[made["cause"] == cause], (30, 40), transform=Area.transform)
        assert (burnt.astype(bool) == (wanted == cause)).all(), cause
    assert (made.geometry.area.sum() / 100) == (wanted != "").sum()
    both = made[(made["cause_before"] == "cirrus") & (made["cause_after"] == "cloud")]
    assert (both["cause"] == "cloud").all()
    assert unjudged.summary()["polygons"] == len(made)
    assert unjudged.summary()["area_m2"] == pytest.approx(made["area_m2"].sum())
