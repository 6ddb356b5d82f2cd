"""What clouds hide, end to end: without a mask the cloud alarms, with it nothing does and the unseen land is said."""

from __future__ import annotations

import json

import numpy as np
import pyogrio
import pytest
import rasterio

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


def test_asking_for_a_mask_that_is_not_there_is_one_line(pair, tmp_path):
    result = pair.detect(tmp_path / "out", "pair.clouds.source=own")
    assert result.code == 1
    assert "pair.clouds.mask_before" in result.error
    assert not (tmp_path / "out").exists()
