"""Clouds predicted by ukis-csmask: the streamed mask against the package's own, run on the whole array."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from tuban.data.scene import Scene
from tuban.errors import MissingExtraError, OutputError, SceneError
from tuban.inference import clouds
from tuban.inference.clouds import CsMask

csmask = pytest.importorskip("ukis_csmask.mask", reason="needs `pip install tuban[clouds]`")
SIX = ("B02", "B03", "B04", "B08", "B11", "B12")
WORDS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "B11": "swir16", "B12": "swir22"}


def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "clouds.py"
    spec = importlib.util.spec_from_file_location("benchmark_clouds", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def scenery(height, width, seed=0, bands=6):
    """Smooth vegetation under painted clouds and their shadows."""
    rng = np.random.default_rng(seed)
    land = np.array([0.10, 0.09, 0.08, 0.28, 0.20, 0.12])[:bands, None, None]
    relief = gaussian_filter(rng.normal(size=(height, width)), 3)
    image = land * (1 + 0.15 * relief / relief.std())
    painted = benchmark().paint(image.astype("float32"), SIX[:bands], seed, cover=0.25, size=12, offset=(-8, -3))
    return painted.values.clip(0.001, 1.5)


def write(path, image, *, names=SIX, gsd=30.0, nodata=0, tags=None, scale=1e-4):
    with rasterio.open(
        path, "w", driver="GTiff", count=len(image), height=image.shape[1], width=image.shape[2], dtype="uint16",
        crs="EPSG:32650", transform=Affine(gsd, 0, 500000, 0, -gsd, 4000000), nodata=nodata,
    ) as target:  # fmt: skip
        target.write(np.round(image * 1e4).astype("uint16"))
        target.descriptions = names
        if scale is not None:
            target.scales = [scale] * len(image)
        target.update_tags(**({"PLATFORM": "Sentinel-2A L1C"} if tags is None else tags))
    return path


def predicted(path, folder, window=None, **options):
    with Scene.open(path) as scene:
        ref = CsMask(folder, **options)(scene, window or Window(0, 0, scene.width, scene.height), "after")
    with rasterio.open(ref.path) as dataset:
        return ref, dataset.read(1), dataset.transform


def reference(image, names=SIX):
    return csmask.CSmask(
        np.moveaxis(image, 0, -1).astype("float32"), [WORDS[name] for name in names], product_level="l1c",
        providers=["CPUExecutionProvider"],
    ).csm[..., 0]  # fmt: skip


def test_equals_the_package_on_the_whole_array(tmp_path):
    image = np.round(scenery(300, 470) * 1e4) / np.float32(1e4)
    path = write(tmp_path / "after.tif", image)
    ref, mask, _ = predicted(path, tmp_path)
    theirs = reference(image)
    assert set(np.unique(theirs)) >= {0, 1}  # else nothing is compared
    assert (theirs == 1).mean() > 0.02
    assert (mask == theirs).mean() > 0.9999  # sums of floats in another order
    assert ref.notes == ()
    assert "1.0.0-6BL1C" in ref.found


def test_a_part_is_a_crop_of_the_whole_and_bytes_repeat(tmp_path):
    path = write(tmp_path / "after.tif", scenery(260, 300))
    _, whole, transform = predicted(path, tmp_path / "whole")
    _, part, moved = predicted(path, tmp_path / "part", Window(90, 130, 160, 100))
    np.testing.assert_array_equal(part, whole[130:230, 90:250])
    assert moved == transform @ Affine.translation(90, 130)
    first = (tmp_path / "part" / "clouds_after.tif").read_bytes()
    predicted(path, tmp_path / "part", Window(90, 130, 160, 100))
    assert (tmp_path / "part" / "clouds_after.tif").read_bytes() == first
    assert [file.name for file in (tmp_path / "part").iterdir()] == ["clouds_after.tif"]


def test_ten_metres_are_averaged_to_thirty(tmp_path, monkeypatch):
    fine = scenery(300, 400)
    path = write(tmp_path / "after.tif", fine[:, :298, :395], gsd=10.0)
    stored = np.round(fine * 1e4) / np.float32(1e4)
    monkeypatch.setattr(clouds, "_MAX_SOURCE_PX", 30_000)  # read in several pieces
    _, mask, transform = predicted(path, tmp_path)
    assert mask.shape == (100, 132)
    assert transform.a == 30
    means = stored[:, :297, :393].reshape(6, 99, 3, 131, 3).mean(axis=(2, 4))
    with Scene.open(path) as scene:
        pooled, valid = clouds._Pooled.of(scene, SIX).read(clouds._Part(0, 0, 100, 132))
    assert valid.all()
    np.testing.assert_allclose(pooled[:, :99, :131], means, rtol=1e-5)
    last = stored[:, 297:298, 393:395].mean(axis=(1, 2))  # two pixels are left of the last nine
    np.testing.assert_allclose(pooled[:, 99, 131], last, rtol=1e-5)


def test_no_data_is_no_data_and_no_shadow(tmp_path):
    image = np.full((6, 120, 120), 0.1, "float32") * np.array([1, 1, 1, 3, 2, 1])[:, None, None]
    image[:, :, :50] = 0
    _, mask, _ = predicted(write(tmp_path / "after.tif", image), tmp_path)
    assert (mask[:, :50] == 255).all()
    assert not mask[:, 50:].any()


def test_four_bands_do(tmp_path):
    image = np.round(scenery(256, 256, bands=4) * 1e4) / np.float32(1e4)
    path = write(tmp_path / "after.tif", image, names=SIX[:4])
    ref, mask, _ = predicted(path, tmp_path)
    assert "4BL1C" in ref.found
    assert (mask == reference(image, SIX[:4])).mean() > 0.9999


@pytest.mark.parametrize(
    ("tags", "options", "version", "notes"),
    [
        ({"PLATFORM": "Sentinel-2 L1C"}, {}, "6BL1C", 0),
        ({"PLATFORM": "Sentinel-2 L2A"}, {}, "6BL2A", 0),
        ({"PLATFORM": "Sentinel-2A"}, {}, "6BL1C", 1),
        ({"PLATFORM": "Sentinel-2A"}, {"level": "l2a"}, "6BL2A", 0),
        ({"PLATFORM": "SkySat"}, {"level": "l1c"}, "6BL1C", 1),
    ],
)
def test_level_is_read_or_guessed_and_said(tmp_path, tags, options, version, notes):
    path = write(tmp_path / "a.tif", scenery(20, 20), tags=tags)
    ref, _, _ = predicted(path, tmp_path, **options)
    assert version in ref.found
    assert len(ref.notes) == notes


def test_what_cannot_be_predicted_is_said(tmp_path, monkeypatch):
    names = ("B02", "B03", "B04", "x", "B11", "B12")
    with pytest.raises(SceneError, match=r"without B08.*source=none"):
        predicted(write(tmp_path / "three.tif", scenery(20, 20), names=names), tmp_path)
    words = ("blue", "green", "red", "nir")  # say nothing of the sensor, and so of the scale
    path = write(tmp_path / "dn.tif", scenery(20, 20, bands=4), names=words, scale=None, tags={})
    with pytest.raises(SceneError, match="scale"):
        predicted(path, tmp_path)
    path = write(tmp_path / "a.tif", scenery(20, 20))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="clouds_after"):
        predicted(path, tmp_path / "file")
    monkeypatch.setattr(clouds, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"tuban\[clouds\]"):
        predicted(path, tmp_path)


@pytest.mark.data
def test_real_clouds_of_paris_are_found_and_clear_land_is_not(data_root, tmp_path):
    """OSCD's second date of Paris has two clouds and a shadow; boxes around them were drawn by eye."""
    found = benchmark().predicted(data_root / "oscd" / "paris" / "after.tif", tmp_path)
    codes = found.grown[0]
    boxes = {1: [(0, 65, 295, 365), (325, 400, 145, 245)], 3: [(165, 240, 110, 215)]}
    for code, areas in boxes.items():
        inside = np.zeros(codes.shape, dtype=bool)
        for top, bottom, left, right in areas:
            assert (codes[top:bottom, left:right] == code).mean() > 0.3
            inside[top:bottom, left:right] = True
        assert not (codes[~inside] == code).any()


@pytest.mark.data
def test_painted_clouds_are_found(data_root, tmp_path):
    paint = benchmark()
    source = data_root / "oscd" / "saclay_e" / "after.tif"
    truth = paint.write_painted(source, tmp_path / "after.tif", seed=3)
    found = paint.predicted(tmp_path / "after.tif", tmp_path).grown[0] == 1
    cloud = truth.cloud > 0.3
    assert (found & cloud).sum() / (found | cloud).sum() > 0.75
    clear = paint.predicted(source, tmp_path)
    assert np.isin(clear.grown[0], (1, 3)).mean() < 0.001
