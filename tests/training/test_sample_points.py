import json

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine
from pyproj import Geod
from typer.testing import CliRunner

from tuban.cli import app
from tuban.errors import UsageError, VectorError
from tuban.training import class_raster, sample_points
from tuban.training.interpreted import estimate, read_interpreted
from tuban.training.sample_points import count_strata, draw
from tuban.training.sampling_design import Stratum, allocate, sample_size, with_points

NAMES = {0: "unchanged", 1: "changed"}


@pytest.fixture
def change(tmp_path):
    """A change map with a rare class and a border of nodata; 2 % of `changed` and 1 % of `unchanged` are wrong."""
    rng = np.random.default_rng(0)
    truth = np.zeros((120, 100), np.uint8)
    truth[20:40, 30:50] = 1
    mapped = np.where(rng.random(truth.shape) < 0.01, 1 - truth, truth).astype(np.uint8)
    mapped[:3] = 255
    path = tmp_path / "变化 map.tif"
    grid = {"crs": "EPSG:32650", "transform": Affine(10, 0, 5e5, 0, -10, 4e6)}
    with rasterio.open(
        path, "w", driver="GTiff", height=120, width=100, count=1, dtype="uint8", nodata=255, **grid
    ) as out:
        out.write(mapped, 1)
    return path, mapped, truth


def interpret(path, truth):
    """Fill in the truth, as a person would in QGIS: only the pixel's place is known."""
    frame = gpd.read_file(path, layer="samples")
    inverse = ~Affine(10, 0, 5e5, 0, -10, 4e6)
    centre = frame.geometry.centroid
    col, row = (np.floor(v).astype(int) for v in inverse @ (centre.x.to_numpy(), centre.y.to_numpy()))
    frame["reference"] = [NAMES[int(v)] for v in truth[row, col]]
    pyogrio.write_dataframe(frame, path, layer="samples", driver="GPKG")


def test_strata_are_counted_and_measured(change):
    path, mapped, _ = change
    strata = count_strata(path, NAMES)
    assert [(s.name, s.pixels) for s in strata] == [(NAMES[v], int((mapped == v).sum())) for v in (0, 1)]
    with rasterio.open(path) as source:
        left, _, right, top = source.bounds
        x, y = rasterio.warp.transform(
            source.crs, "EPSG:4326", [left, right, right, left], [top, top, top - 1170, top - 1170]
        )
    whole = abs(Geod(ellps="WGS84").polygon_area_perimeter(x, y)[0])
    assert sum(s.area_m2 for s in strata) == pytest.approx(whole, rel=1e-4)


def test_a_draw_is_reproducible_and_does_not_depend_on_the_strips(change, tmp_path, monkeypatch):
    path, mapped, _ = change
    strata = with_points(count_strata(path, NAMES), [40, 30])
    assert draw(path, strata, tmp_path / "a.gpkg", seed=1) == 70
    monkeypatch.setattr(class_raster, "STRIP_PX", 700)
    draw(path, strata, tmp_path / "b.gpkg", seed=1)
    draw(path, strata, tmp_path / "c.gpkg", seed=2)
    design = {n: pyogrio.read_dataframe(tmp_path / f"{n}.gpkg", layer="design") for n in "abc"}
    assert design["a"].equals(design["b"])
    assert not design["a"].equals(design["c"])
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    table = design["a"]
    assert (mapped[table["row"], table["col"]] == table["stratum"]).all()
    assert not table.duplicated(["row", "col"]).any()
    # The interpreter sees neither class nor order.
    assert set(pyogrio.read_info(tmp_path / "a.gpkg", layer="samples")["fields"]) == {
        "sample_id",
        *sample_points.FILL_IN,
    }
    assert not table["stratum"].is_monotonic_increasing


def test_from_plan_to_estimate_by_the_command_line(change, tmp_path):
    path, _, truth = change
    cli = CliRunner()
    plan, samples, out = tmp_path / "plan.json", tmp_path / "points.gpkg", tmp_path / "out"
    made = cli.invoke(
        app, ["sample", "plan", str(path), "--out", str(plan), "--minimum", "150", "--expect", "changed=0.7", "--json"]
    )
    assert made.exit_code == 0, made.output
    assert {s["name"]: s["points"] for s in json.loads(made.stdout)["strata"]}["changed"] == 150
    drawn = cli.invoke(app, ["sample", "draw", str(plan), "--out", str(samples)])
    assert drawn.exit_code == 0, drawn.output
    assert isinstance(cli.invoke(app, ["sample", "draw", str(plan), "--out", str(samples)]).exception, UsageError)
    interpret(samples, truth)
    done = cli.invoke(app, ["sample", "estimate", str(samples), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    share = result["classes"]["changed"]["share"]
    true_share = truth[3:].mean()
    assert share["low"] <= true_share <= share["high"]
    area = result["classes"]["changed"]["area_m2"]
    assert area["low"] <= true_share * result["total_area_m2"] <= area["high"]
    assert "| changed |" in (out / "estimate.md").read_text()


def test_another_map_is_judged_by_the_same_points(change, tmp_path):
    """Strata are then not the map's classes; a map that is the truth has no error."""
    path, _, truth = change
    samples, other = tmp_path / "points.gpkg", tmp_path / "other.tif"
    draw(path, with_points(count_strata(path, NAMES), [60, 60]), samples)
    interpret(samples, truth)
    with rasterio.open(path) as source, rasterio.open(other, "w", **source.profile) as out:
        out.write(truth, 1)
    result = estimate(samples, mapped=other)
    assert result["overall"]["value"] == 1
    assert result["overall"]["flags"] == ["no variation seen"]
    assert result["overall"]["low"] < 0.99
    assert estimate(samples)["overall"]["value"] < 1


def test_what_was_left_blank_is_said_and_nonsense_is_refused(change, tmp_path):
    path, _, truth = change
    samples = tmp_path / "points.gpkg"
    draw(path, with_points(count_strata(path, NAMES), [60, 60]), samples)
    with pytest.raises(UsageError, match="no interpreted point"):
        read_interpreted(samples)
    interpret(samples, truth)
    frame = gpd.read_file(samples, layer="samples")
    frame.loc[:4, "reference"] = None
    pyogrio.write_dataframe(frame, samples, layer="samples", driver="GPKG")
    assert read_interpreted(samples)[1]["blank"] == 5
    frame.loc[7, "reference"] = "castle"
    pyogrio.write_dataframe(frame, samples, layer="samples", driver="GPKG")
    with pytest.raises(UsageError, match="'castle' is unknown; use one of: 0 unchanged, 1 changed"):
        read_interpreted(samples)
    pyogrio.write_dataframe(frame.iloc[1:], samples, layer="samples", driver="GPKG")
    with pytest.raises(VectorError, match="added, removed"):
        read_interpreted(samples)


def test_sample_size_of_the_paper():
    """Olofsson et al. 2014, section 5.1: 641 points."""
    assert sample_size([0.02, 0.015, 0.32, 0.645], [0.7, 0.6, 0.9, 0.95], 0.01) == 641


def strata(*pixels, expected=0.9):
    return [Stratum(i, str(i), p, p * 100.0, expected) for i, p in enumerate(pixels)]


def test_allocations():
    """Of the paper's map: 75 points for each rare class, the rest by area."""
    paper = strata(200_000, 150_000, 3_200_000, 6_450_000)
    assert allocate(paper, 640, allocation="minimum", minimum=75) == [75, 75, 162, 328]
    assert allocate(paper, 640, allocation="proportional", minimum=2) == [13, 9, 205, 413]
    assert allocate(paper, 640, allocation="equal", minimum=2) == [160] * 4
    assert sum(allocate(paper, 641, allocation="optimal", minimum=50)) == 641
    assert allocate(strata(10, 1_000_000), 200, allocation="proportional") == [10, 190]
    certain = [*strata(1000), Stratum(1, "1", 1000, 1e5, 0.5)]
    neyman = allocate(certain, 160, allocation="optimal", minimum=2)
    assert neyman == [60, 100]  # deviations 0.3 and 0.5
