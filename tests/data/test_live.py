import datetime as dt
import json

import numpy as np
import pytest
import rasterio
from affine import Affine

from tuban.data.drawing import demo_settings
from tuban.data.live import BANDS, fetch_live_pair
from tuban.errors import MissingExtraError, PairError

SETTINGS = demo_settings().live.model_copy(update={"bbox": (117.001, 29.991, 117.004, 29.994)})
GRID = Affine(10, 0, 500_000, 0, -10, 3_319_000)


def item(folder, name, day, cloud, tile="MGRS-50RMU", value=1234):
    """A STAC item whose assets are ten tiny local GeoTIFFs on one grid."""
    assets = {}
    for band in BANDS:
        path = folder / f"{name}_{band}.tif"
        profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "height": 120, "width": 120, "nodata": 0}
        with rasterio.open(path, "w", crs="EPSG:32650", transform=GRID, **profile) as target:
            target.write(np.full((1, 120, 120), value, np.uint16))
        raster = [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]
        assets[band] = {"href": str(path), "eo:bands": [{"name": band}], "raster:bands": raster}
    facts = {"datetime": f"{day}T03:00:00Z", "eo:cloud_cover": cloud, "grid:code": tile, "platform": "sentinel-2a"}
    return {"type": "Feature", "stac_version": "1.0.0", "id": name, "properties": facts, "assets": assets}


def fake(folder, before, after):
    return lambda settings, span: before if span == settings.before else after


def test_the_least_cloudy_pair_of_one_tile_is_clipped(tmp_path):
    before = [item(tmp_path, "b1", "2019-05-01", 5, value=2000), item(tmp_path, "b2", "2019-05-11", 1, "MGRS-OTHER")]
    after = [item(tmp_path, "a1", "2023-05-01", 9), item(tmp_path, "a2", "2023-05-06", 2, value=3000)]
    found = fetch_live_pair(tmp_path / "out", settings=SETTINGS, search=fake(tmp_path, before, after))
    assert found["items"] == ["b1", "a2"]
    with rasterio.open(found["before"]) as one, rasterio.open(found["after"]) as two:
        assert one.descriptions == BANDS
        assert one.profile == two.profile
        assert 30 <= one.width <= 33  # 0.003 degrees are 289 m; whole pixels around the box
        assert (one.read() == 1000).all()  # 2000 x 0.0001 - 0.1, as reflectance x 10000
        assert (two.read() == 2000).all()
    facts = json.loads((tmp_path / "out" / "scene.json").read_text())
    assert dt.date.fromisoformat(facts["before"]) == dt.date(2019, 5, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["after.tif", "before.tif", "scene.json"]


def test_no_common_tile_is_said(tmp_path):
    before = [item(tmp_path, "b", "2019-05-01", 1, "MGRS-A")]
    after = [item(tmp_path, "a", "2023-05-01", 1, "MGRS-B")]
    with pytest.raises(PairError, match="no tile has an image below 10 % cloud"):
        fetch_live_pair(tmp_path / "out", settings=SETTINGS, search=fake(tmp_path, before, after))
    assert not (tmp_path / "out").exists()


def test_a_box_outside_the_tile_is_said_and_leaves_nothing(tmp_path):
    before, after = [item(tmp_path, "b", "2019-05-01", 1)], [item(tmp_path, "a", "2023-05-01", 1)]
    away = SETTINGS.model_copy(update={"bbox": (110.0, 20.0, 110.01, 20.01)})
    with pytest.raises(PairError, match="does not reach the box"):
        fetch_live_pair(tmp_path / "out", settings=away, search=fake(tmp_path, before, after))
    assert list((tmp_path / "out").iterdir()) == []


def test_without_the_client_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pystac_client", None)
    with pytest.raises(MissingExtraError, match=r"tuban\[stac\]"):
        fetch_live_pair(tmp_path)
