import json

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from tuban.errors import SceneError, UsageError
from tuban.postprocess import demo
from tuban.postprocess.demo import label_sites, report_lines, run_demo
from tuban.postprocess.layers import CHANGE_COLUMNS, write_layers


def detector_that_finds(shapes_of):
    """A stand-in for `detect`: writes the polygons it is told to."""

    def detect(before, after, *, out, plan, **options):
        with rasterio.open(before) as source:
            crs = source.crs
        shapes = shapes_of(before.parent)
        blank = {"str": "", "float": 0.0, "int": 0, "bool": False}
        values = {name: [blank[kind]] * len(shapes) for name, kind in CHANGE_COLUMNS.items()}
        values["change_id"] = [f"c{number}" for number in range(len(shapes))]
        write_layers(out / "findings.gpkg", crs=crs, changes=[gpd.GeoDataFrame(values, geometry=shapes, crs=crs)])
        return {"plan": str(plan), "options": sorted(options)}

    return detect


def truth_and_one_decoy(folder):
    sites = gpd.read_file(folder / "truth.gpkg", layer="sites").geometry
    decoys = gpd.read_file(folder / "truth.gpkg", layer="decoys").geometry
    return [*sites[:-1], decoys[0]]


def test_built_in_pair_is_scored_against_what_was_painted(tmp_path):
    summary = run_demo(tmp_path / "演示 out", detector=detector_that_finds(truth_and_one_decoy), rules="cn")
    sites = summary["score"]["sites"]
    assert (summary["mode"], sites) == ("built-in", 13)
    assert (summary["score"]["found"], summary["score"]["changes"], summary["score"]["false_alarms"]) == (12, 13, 1)
    assert summary["detect"]["plan"].endswith("plan.yaml")
    assert summary["detect"]["options"] == ["rules"]
    assert list(summary["files"]) == ["findings.gpkg"]
    assert json.dumps(summary)
    lines = "\n".join(report_lines(summary))
    assert "Found 12 of 13 painted sites" in lines
    assert "13 change polygons, 1 of them false alarms" in lines
    assert "Not seen at all: S13." in lines
    assert str(tmp_path) in lines


@pytest.fixture
def folder(tmp_path):
    place = {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 10, 0, -1e-4, 50)}
    grid = {"driver": "GTiff", "height": 20, "width": 20, **place}
    for name in ("before", "after"):
        with rasterio.open(tmp_path / f"{name}.tif", "w", dtype="uint16", count=1, **grid) as target:
            target.write(np.ones((1, 20, 20), np.uint16))
    label = np.zeros((1, 20, 20), np.uint8)
    label[0, 2:6, 2:6] = 1
    label[0, 6:8, 6:8] = 1  # touches the first by a corner only
    with rasterio.open(tmp_path / "change.tif", "w", dtype="uint8", count=1, **grid) as target:
        target.write(label)
    return tmp_path


def test_labelled_folder_is_scored_and_has_no_plan(folder, tmp_path):
    found = detector_that_finds(lambda _: [label_sites(folder / "change.tif").geometry.iloc[0]])
    summary = run_demo(tmp_path / "out", scene=folder, detector=found)
    assert (summary["mode"], summary["drawn"], summary["detect"]["plan"]) == ("scene", "nothing", "None")
    assert (summary["score"]["sites"], summary["score"]["found"]) == (2, 1)
    assert summary["score"]["inspections"] == 1
    assert "labelled places" in report_lines(summary)[1]


def test_unlabelled_folder_is_not_scored(folder, tmp_path):
    (folder / "change.tif").unlink()
    summary = run_demo(tmp_path / "out", scene=folder, detector=detector_that_finds(lambda _: []))
    assert summary["score"] is None
    assert "nothing is scored" in report_lines(summary)[1]


def test_label_sites_are_the_connected_places(folder):
    sites = label_sites(folder / "change.tif")
    pixels = shapely.area(sites.geometry.to_numpy()) / 1e-8
    assert sorted(round(value) for value in pixels) == [4, 16]
    assert sites.crs.to_epsg() == 4326


def test_live_fetches_into_the_output_folder(folder, tmp_path, monkeypatch):
    fetched = {"before": folder / "before.tif", "after": folder / "after.tif", "items": ["S2A_x", "S2B_y"]}
    monkeypatch.setattr(demo, "fetch_live_pair", lambda where: fetched | {"where": where})
    summary = run_demo(tmp_path / "out", live=True, detector=detector_that_finds(lambda _: []))
    assert summary["mode"] == "live"
    assert "S2A_x, S2B_y" in summary["real"]


def test_wrong_combinations_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="exclude one another"):
        run_demo(tmp_path, scene=tmp_path, live=True)
    with pytest.raises(UsageError, match="own drawn plan"):
        run_demo(tmp_path, plan=tmp_path / "plan.yaml")


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(SceneError, match=r"before\.tif does not exist"):
        run_demo(tmp_path / "out", scene=tmp_path)
