from __future__ import annotations

import datetime as dt
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio import Affine, features
from scipy import ndimage

from tuban.data.classes import classes
from tuban.errors import SceneError
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.changes import COLUMNS, ChangeSettings, iter_changes
from tuban.postprocess.vectorize import VectorizeSettings

TRANSFORM = Affine(1e-4, 0, 116, 0, -1e-4, 40)
BUNDLE = SimpleNamespace(change_to_classes=(9, 10, 12))
DATES = (dt.date(2020, 1, 1), dt.date(2021, 1, 1))
NAMES = {value: entry.name for value, entry in classes().items()}


def store(folder, **bands):
    paths = {}
    for name, values in bands.items():
        paths[name] = folder / f"{name}.tif"
        nodata = 255 if name in {"change", "probability"} else 0
        with rasterio.open(
            paths[name], "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype="uint8",
            crs="EPSG:4490", transform=TRANSFORM, nodata=nodata,
        ) as sink:  # fmt: skip
            sink.write(values.astype(np.uint8), 1)
    return SimpleNamespace(**paths)


@pytest.fixture
def bands():
    rng = np.random.default_rng(3)
    change = (ndimage.gaussian_filter(rng.random((40, 36)), 1) > 0.55).astype(np.uint8)
    change[10:13, 5:9] = 255
    return {
        "change": change,
        "probability": np.where(change == 255, 255, rng.integers(0, 255, change.shape)),
        "landcover_before": rng.integers(0, 6, change.shape),
        "landcover_after": rng.integers(1, 19, change.shape),
    }


def run(rasters, *, strip=100, counts=None, **options):
    setting = ChangeSettings(vectorize=VectorizeSettings(strip_pixels=strip), **options)
    frames = list(iter_changes(rasters, BUNDLE, settings=setting, dates=DATES, counts=counts))
    return pd.concat(frames).sort_values("change_id").reset_index(drop=True)


def test_each_polygon_against_its_pixels(tmp_path, bands):
    counts = Counter()
    frame = run(store(tmp_path, **bands), counts=counts)
    assert list(frame.columns) == [*COLUMNS, "geometry"]
    label, found = ndimage.label(bands["change"] == 1)
    assert len(frame) == found == counts["polygons"]
    blocked = np.pad(bands["change"] == 255, 1, constant_values=True)
    for row in frame.itertuples():
        inside = features.geometry_mask([row.geometry], label.shape, TRANSFORM, invert=True)
        assert inside.sum() == row.pixels
        assert np.array_equal(inside, label == label[inside][0])
        before = bands["landcover_before"][inside]
        known = np.bincount(before[before > 0], minlength=1)
        assert row.from_class == NAMES[int(known.argmax())]
        hits = [int((bands["landcover_after"][inside] == value).sum()) for value in BUNDLE.change_to_classes]
        assert row.to_class == NAMES[BUNDLE.change_to_classes[int(np.argmax(hits))]]
        assert row.to_class_assumed == (max(hits) == 0)
        assert row.confidence == pytest.approx(bands["probability"][inside].mean() / 254, abs=1e-4)
        touch = ndimage.binary_dilation(np.pad(inside, 1)) & blocked
        assert row.touches_edge == touch.any()
        assert row.below_mmu == (row.area_m2 < 200 if row.to_class in {"building", "road"} else row.area_m2 < 600)
    assert frame["area_m2"].to_numpy() == pytest.approx(geodesic_area(frame.geometry.array, "EPSG:4490"), abs=0.006)
    assert frame["area_mu"].to_numpy() == pytest.approx(frame["area_m2"] * 3 / 2000, abs=1e-4)
    assert frame["compactness"].between(0.01, 1).all()
    assert frame["touches_edge"].any()
    assert not frame["touches_edge"].all()


def test_same_rows_and_ids_for_any_strip(tmp_path, bands):
    rasters = store(tmp_path, **bands)
    frames = [run(rasters, strip=strip) for strip in (36, 250, 10**6)]
    pd.testing.assert_frame_equal(frames[0], frames[1])
    pd.testing.assert_frame_equal(frames[0], frames[2])
    assert frames[0]["change_id"].is_unique


def test_ids_depend_on_dates(tmp_path, bands):
    rasters = store(tmp_path, **bands)
    other = pd.concat(iter_changes(rasters, BUNDLE, dates=(DATES[0], None)))
    assert not set(run(rasters)["change_id"]) & set(other["change_id"])


def test_small_ones_are_counted_when_dropped(tmp_path, bands):
    rasters = store(tmp_path, **bands)
    counts = Counter()
    everything, large = run(rasters), run(rasters, min_pixels=3, counts=counts)
    assert len(everything) - len(large) == counts["dropped_min_pixels"] == (everything["pixels"] < 3).sum() > 0


def test_growing_keeps_only_what_a_change_reaches(tmp_path, bands):
    frame = run(store(tmp_path, **bands), grow_to=0.6)
    core = bands["change"] == 1
    able = core | ((bands["change"] == 0) & (bands["probability"] >= 0.6 * 254))
    label, _ = ndimage.label(able)
    reached = set(np.unique(label[core]))
    assert len(frame) == len(reached)
    assert frame["pixels"].sum() == np.isin(label, list(reached)).sum()


def test_unknown_land_cover_is_named(tmp_path, bands):
    bands["landcover_before"][:] = 0
    bands["landcover_after"][:] = 1
    counts = Counter()
    frame = run(store(tmp_path, **bands), counts=counts)
    assert set(frame["from_class"]) == {"ignore"}
    assert set(frame["to_class"]) == {"building"}
    assert frame["to_class_assumed"].all()
    assert counts["from_class_unknown"] == counts["to_class_assumed"] == len(frame)


def test_compactness_of_a_square(tmp_path):
    change = np.zeros((12, 12), np.uint8)
    change[4:8, 4:8] = 1
    same = np.ones_like(change)
    frame = run(store(tmp_path, change=change, probability=same * 127, landcover_before=same, landcover_after=same * 9))
    ratio = np.cos(np.radians(40))
    assert frame["compactness"][0] == pytest.approx(4 * np.pi * ratio / (2 + 2 * ratio) ** 2, abs=2e-3)
    assert frame["confidence"][0] == 0.5
    assert not frame["touches_edge"][0]


def test_simplified_outlines_keep_ids_and_areas(tmp_path, bands):
    rasters, counts = store(tmp_path, **bands), Counter()
    setting = ChangeSettings(grow_to=0.6, vectorize=VectorizeSettings(simplify_m=10, strip_pixels=100))
    frames = pd.concat(iter_changes(rasters, BUNDLE, settings=setting, dates=DATES, counts=counts))
    frames = frames.sort_values("change_id").reset_index(drop=True)
    plain = run(rasters, grow_to=0.6)
    assert frames["change_id"].tolist() == plain["change_id"].tolist()
    assert frames["area_m2"].to_numpy() == pytest.approx(plain["area_m2"], rel=1e-4)
    assert frames.geometry.count_coordinates().sum() < plain.geometry.count_coordinates().sum()
    assert frames.geometry.is_valid.all()
    assert 0 < counts["stepped"] <= len(frames)


def test_settings_without_effect_are_refused():
    with pytest.raises(ValueError, match="mmu_m2"):
        ChangeSettings(vectorize=VectorizeSettings(min_area_m2=100))


def test_no_change_gives_no_frames(tmp_path, bands):
    bands["change"][:] = 0
    assert list(iter_changes(store(tmp_path, **bands), BUNDLE)) == []


def test_rasters_that_do_not_belong_together(tmp_path, bands):
    rasters = store(tmp_path, **bands)
    (tmp_path / "other").mkdir()
    rasters.probability = store(tmp_path / "other", probability=bands["probability"][:-1]).probability
    with pytest.raises(SceneError, match="grid"):
        list(iter_changes(rasters, BUNDLE))
    bands["landcover_after"][0, 0] = 77
    with pytest.raises(SceneError, match="class 77"):
        list(iter_changes(store(tmp_path, **bands), BUNDLE))
    rasters.landcover_after = tmp_path / "none.tif"
    with pytest.raises(SceneError, match="cannot read"):
        list(iter_changes(rasters, BUNDLE))
