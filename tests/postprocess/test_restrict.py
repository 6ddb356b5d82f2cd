from __future__ import annotations

import json
import re
import zipfile
from itertools import pairwise

import geopandas as gpd
import numpy as np
import openpyxl
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tuban.errors import PairError, UsageError
from tuban.postprocess.export import export
from tuban.postprocess.layers import write_layers
from tuban.postprocess.manifest import Manifest
from tuban.postprocess.restrict import Restriction

CRS = "EPSG:4547"
NAMED = {".gpkg": "findings", ".gdb": "findings"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, factory):
    folder = tmp_path_factory.mktemp("run")
    write_layers(
        folder / "findings.gpkg", crs=CRS, changes=[factory.changes_frame(8)], findings=[factory.findings_frame(8)]
    )
    manifest = Manifest("check")
    manifest.set("rule_pack", {"id": "cn", "version": "2026.1"})
    manifest.write(folder)
    return folder


@pytest.fixture(scope="module")
def area(tmp_path_factory):
    """Covers finding 1, cuts 2 (x from 500220 to 500250) in the middle, touches none of the others."""
    path = tmp_path_factory.mktemp("aoi") / "试点 区.gpkg"
    shape = gpd.GeoSeries([shapely.box(500155, 2999000, 500235, 3000000)], crs=CRS).to_crs(4490)
    shape.to_frame("geometry").to_file(path)
    return path


def test_clip_agrees_with_geopandas_and_keeps_areas(run, area, tmp_path):
    result = export(run, "gpkg", tmp_path / "c", clip=area)
    got = pyogrio.read_dataframe(result.path, layer=NAMED.get(result.path.suffix))
    whole = pyogrio.read_dataframe(run / "findings.gpkg", layer="findings")
    truth = gpd.clip(whole, gpd.read_file(area).to_crs(CRS)).sort_values("finding_id")
    assert got["finding_id"].tolist() == truth["finding_id"].tolist() == ["f0001", "f0002"]
    np.testing.assert_allclose(got.area, truth.area, rtol=1e-6)
    assert got["area_m2"].tolist() == [901.0, 902.0]
    assert "clipped to 试点 区.gpkg: 6 outside left out, 1 cut at its edge" in result.notes
    record = json.loads((tmp_path / "c.gpkg.export.json").read_text(encoding="utf-8"))
    assert record["restriction"] == {
        "clip": "试点 区.gpkg",
        "outside": 6,
        "cut": 1,
        "precision_m": 0.0,
        "collapsed": 0,
        "geometry": True,
        "areas": "of the whole finding, as measured before anything was left out",
    }
    assert (record["rows"], record["source"]["name"]) == (2, "findings.gpkg")


def test_centre_of_a_cut_finding_lies_in_the_area(run, area, tmp_path):
    got = pyogrio.read_dataframe(export(run, "gpkg", tmp_path, clip=area).path, layer="findings").iloc[1]
    (inside,) = gpd.GeoSeries(gpd.points_from_xy([got["lon"]], [got["lat"]]), crs=4490).to_crs(CRS)
    assert got.geometry.covers(inside)
    assert got["lat"] != 27.101


def test_area_without_polygons_is_refused(run, tmp_path):
    gpd.GeoSeries([shapely.Point(0, 0)], crs=4326).to_frame("geometry").to_file(tmp_path / "p.gpkg")
    with pytest.raises(PairError, match="holds no polygon"):
        export(run, "geojson", tmp_path / "x", clip=tmp_path / "p.gpkg")
    with pytest.raises(UsageError, match="no grid size"):
        export(run, "geojson", tmp_path / "x", precision_m=-1)
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("fmt", ["gpkg", "shp", "gdb", "geojson", "flatgeobuf", "kml", "geoparquet"])
def test_coarse_outlines_lie_on_the_grid(fmt, run, tmp_path):
    result = export(run, fmt, tmp_path / "c", precision_m=20)
    shown = (
        gpd.read_parquet(result.path)
        if fmt == "geoparquet"
        else pyogrio.read_dataframe(result.path, layer=NAMED.get(result.path.suffix))
    )
    points = shapely.get_coordinates(shown.to_crs(CRS).geometry.to_numpy())
    np.testing.assert_allclose(points, np.round(points / 20) * 20, atol=0.02)
    assert len(shown) == 8
    assert any("snapped to a grid of 20 m" in note for note in result.notes)
    assert (tmp_path / f"{result.path.name}.export.json").exists()


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.floats(1, 999), min_size=1, max_size=6, unique=True),
    bend=st.floats(-200, 200),
    grid=st.sampled_from([0.5, 3.0, 10.0, 40.0]),
)
def test_neighbours_still_share_edges_when_coarse(cuts, bend, grid):
    # Strips between bent lines; both sides of each line have its vertices.
    # Parts narrower than the grid may collapse in one neighbour alone, and are counted or shrink to nothing.
    assume(min(np.diff([-400.0, *sorted(cuts), 1400.0])) > 3 * grid)
    lines = [[(x, 0.0), (x + bend, 500.0), (x, 1000.0)] for x in (-400.0, *sorted(cuts), 1400.0)]
    strips = [shapely.Polygon([*a, *reversed(b)]) for a, b in pairwise(lines)]
    frame = gpd.GeoDataFrame(geometry=strips, crs=CRS)
    restriction = Restriction(precision_m=grid)
    restriction.prepare(CRS, None)
    (got,) = restriction.apply([frame])
    shapes = got.geometry.to_numpy()
    assert shapely.is_valid(shapes).all()
    assert not shapely.is_empty(shapes).any()
    kept = shapes[: len(shapes)]
    if not restriction.collapsed:
        assert shapely.area(kept).sum() == pytest.approx(shapely.union_all(kept).area, rel=1e-9)
        assert shapely.union_all(kept).geom_type == "Polygon"  # no gap opened between neighbours


def test_findings_smaller_than_the_grid_become_one_square(run, tmp_path):
    result = export(run, "gpkg", tmp_path / "c", precision_m=1000)
    shown = pyogrio.read_dataframe(result.path, layer=NAMED.get(result.path.suffix))
    np.testing.assert_allclose(shown.area, 1000**2)
    assert any("8 smaller than the grid are drawn as one square" in note for note in result.notes)
    # The centre says no more than the outline.
    centres = gpd.GeoSeries(gpd.points_from_xy(shown["lon"], shown["lat"]), crs=4490).to_crs(CRS)
    assert shapely.distance(centres.to_numpy(), shapely.centroid(shown.geometry.to_numpy())).max() < 0.1


def test_a_grid_in_degrees_is_never_finer_than_asked(factory):
    frame = factory.findings_frame(3).to_crs(4490)
    restriction = Restriction(precision_m=100)
    restriction.prepare("EPSG:4490", tuple(frame.total_bounds))
    west, south, *_ = frame.total_bounds
    for step in ((restriction.grid, 0), (0, restriction.grid)):
        _, _, metres = frame.crs.get_geod().inv(west, south, west + step[0], south + step[1])
        assert metres >= 99.5


@pytest.mark.parametrize("fmt", ["gpkg", "gdb", "geojson", "geoparquet", "xlsx", "html", "pdf"])
def test_without_geometry_no_place_is_left(fmt, run, tmp_path):
    result = export(run, fmt, tmp_path / "c", geometry=False)
    assert result.rows == 8
    if fmt == "geoparquet":
        columns = pq.read_schema(result.path).names
        assert b"geo" not in pq.read_schema(result.path).metadata
    elif fmt == "xlsx":
        columns = [cell.value for cell in openpyxl.load_workbook(result.path)["台账"][1]]
    elif fmt in {"html", "pdf"}:
        columns = []
    else:
        frame = pyogrio.read_dataframe(result.path, layer="findings" if fmt != "geojson" else None)
        columns = list(frame.columns)
        assert len(frame) == 8
        if "geometry" in columns:
            assert frame.geometry.isna().all()
            columns.remove("geometry")
    assert not {"lon", "lat", "geometry", "中心经度", "中心纬度"} & set(columns)
    raw = result.path.read_bytes() if result.path.is_file() else b"".join(p.read_bytes() for p in result.path.iterdir())
    if fmt == "xlsx":
        with zipfile.ZipFile(result.path) as book:
            raw = b"".join(book.read(name) for name in book.namelist())
    assert not re.search(rb"114\.001|27\.101|500100|2999500", raw)


@pytest.mark.parametrize("fmt", ["shp", "kml", "flatgeobuf"])
def test_formats_that_are_places_are_refused_without(fmt, run, tmp_path):
    with pytest.raises(UsageError, match="use one of: gpkg, gdb, geojson"):
        export(run, fmt, tmp_path / "x", geometry=False)


def test_lonlat_column_goes_with_the_places(run, tmp_path):
    book = openpyxl.load_workbook(export(run, "xlsx", tmp_path, profile="cn-weipian", geometry=False).path)
    assert "中心经纬度" not in [cell.value for cell in book["台账"][1]]
    assert "已去除图形与坐标" in [cell.value for (cell,) in book["说明"].iter_rows(max_row=4, max_col=1)]


def test_coarse_report_has_no_pictures_of_the_place(run, tmp_path, factory):
    result = export(run, "html", tmp_path, precision_m=50, pair=factory.Pixels())
    assert "data:image" not in result.path.read_text(encoding="utf-8")
    assert "坐标按 50 米格网概化" in result.path.read_text(encoding="utf-8")


def test_geoparquet_and_gpkg_carry_what_was_left_out(run, tmp_path):
    path = export(run, "geoparquet", tmp_path, precision_m=20).path
    assert json.loads(pq.read_metadata(path).metadata[b"tuban:restriction"])["precision_m"] == 20
    gpkg = export(run, "gpkg", tmp_path, precision_m=20).path
    table = pyogrio.read_dataframe(gpkg, sql="SELECT description FROM gpkg_contents", sql_dialect="SQLITE")
    assert "snapped to a grid of 20 m" in "".join(table["description"].astype(str))
