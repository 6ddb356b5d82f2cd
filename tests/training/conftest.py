from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from affine import Affine

from tuban.data.place import IGNORE, Place
from tuban.training.settings import SENTINEL2

if TYPE_CHECKING:
    from pathlib import Path


def make_city(name: str = "here", height: int = 96, width: int = 80, *, seed: int = 0, labelled: bool = True) -> Place:
    rng = np.random.default_rng(seed)
    before = rng.uniform(0.05, 0.3, (4, height, width)).astype(np.float32)
    after = before + rng.normal(0, 0.005, before.shape).astype(np.float32)
    change = np.zeros((height, width), dtype=np.uint8)
    change[20:40, 30:50] = 1
    after[:, change == 1] += 0.3
    before[:, :2] = after[:, :2] = np.nan
    change[:2] = IGNORE
    if not labelled:
        change[:] = IGNORE
    cover = rng.integers(0, 3, (2, height, width)).astype(np.uint8)
    weight = np.full((2, height, width), 200, dtype=np.uint8)
    return Place(name, before, after, change, cover[0], cover[1], weight[0], weight[1], {})


@pytest.fixture
def city() -> Place:
    return make_city()


@pytest.fixture
def city_factory():
    return make_city


def write_place(folder: Path, seed: int, *, labelled: bool = True) -> None:
    """A tiny place as OSCD lays it out: smooth texture, some bright new squares."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    side = 96
    texture = rng.integers(600, 3000, (len(SENTINEL2), side // 4, side // 4)).repeat(4, 1).repeat(4, 2)
    before = (texture + rng.integers(0, 40, texture.shape)).astype(np.uint16)
    change = np.zeros((side, side), np.uint8)
    change[20:36, 40:60] = 1
    after = before.copy()
    after[:, change == 1] = 6000
    grid = {
        "driver": "GTiff",
        "height": side,
        "width": side,
        "crs": "EPSG:32650",
        "transform": Affine(10, 0, 5e5 + 2000 * seed, 0, -10, 4e6),  # each on ground of its own
    }
    for name, image in (("before", before), ("after", after)):
        with rasterio.open(folder / f"{name}.tif", "w", count=len(SENTINEL2), dtype="uint16", nodata=0, **grid) as out:
            out.write(image)
            out.descriptions = SENTINEL2
        cover = np.stack([rng.integers(1, 10, (side, side)), np.full((side, side), 200)]).astype(np.uint8)
        with rasterio.open(folder / f"{name}_dynamicworld.tif", "w", count=2, dtype="uint8", **grid) as out:
            out.write(cover)
    if labelled:
        with rasterio.open(folder / "change.tif", "w", count=1, dtype="uint8", **grid) as out:
            out.write(change, 1)
    dates = {"before": "2020-01-01", "after": "2021-01-01", "bands": list(SENTINEL2), "scale": 1e-4, "nodata": 0}
    (folder / "scene.json").write_text(json.dumps(dates))


@pytest.fixture(scope="session")
def place_factory():
    return write_place
