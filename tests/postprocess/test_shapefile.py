from __future__ import annotations

import csv
import struct

import pyogrio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuban.postprocess.export import export
from tuban.postprocess.fields import fit, load_fields
from tuban.postprocess.layers import FINDING_COLUMNS, write_layers
from tuban.postprocess.restrict import Restriction
from tuban.postprocess.shapefile import ShapeRows, write_shapefiles

NEUTRAL = load_fields("neutral")


@pytest.fixture(scope="module")
def source(tmp_path_factory, factory):
    path = tmp_path_factory.mktemp("shp") / "findings.gpkg"
    write_layers(path, crs="EPSG:4547", findings=[factory.findings_frame(40)])
    return path


@pytest.mark.parametrize("limit", [3000, 9000, 10**9])
def test_parts_stay_below_the_limit_and_hold_every_row_in_order(source, tmp_path, limit):
    rows = ShapeRows(source, load_fields("neutral"), Restriction(), batch=7)
    paths, notes = write_shapefiles(rows, tmp_path / "台账.shp", part_bytes=limit)
    ids = []
    for path in paths:
        assert path.stat().st_size < limit
        assert path.with_suffix(".dbf").stat().st_size < limit
        assert path.with_suffix(".cpg").read_text() == "GB18030"
        ids += pyogrio.read_dataframe(path)["FIND_ID"].tolist()
    assert ids == [f"f{n:04d}" for n in range(40)]
    assert rows.count == 40
    if len(paths) == 1:
        assert limit == 10**9
        assert [path.name for path in paths] == ["台账.shp"]
    else:
        assert paths[1].name == "台账_2.shp"
        assert f"split into {len(paths)} Shapefiles" in notes[-1]


def test_split_export_is_placed_whole(source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tuban.postprocess.export.write_shapefiles", lambda r, d: write_shapefiles(r, d, part_bytes=9000)
    )
    result = export(source, "shp", tmp_path / "out")
    assert result.path == tmp_path / "out_1.shp"
    assert result.rows == 40
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in result.files}
    assert not (tmp_path / "out.shp").exists()


def test_record_width_is_what_was_measured(source, tmp_path):
    rows = ShapeRows(source, load_fields("neutral"), Restriction())
    (path,), _ = write_shapefiles(rows, tmp_path / "x.shp")
    with path.with_suffix(".dbf").open("rb") as stream:
        _, count, _, width = struct.unpack("<4sIHH", stream.read(12))
    assert (count, width) == (40, rows.record_bytes)


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="gb18030", exclude_categories=["Cs"]), max_size=400))
def test_text_is_cut_between_characters(text):
    rows = object.__new__(ShapeRows)  # the text alone matters here
    rows.cut = {}
    kept = rows._fitting("REASON", text)
    assert text.startswith(kept)
    assert len(kept.encode("gb18030")) <= 254
    following = text[len(kept) : len(kept) + 1]
    assert not following or len((kept + following).encode("gb18030")) > 254
    assert rows.cut.get("REASON", 0) == (kept != text)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(st.text("abcXYZ_0123456789图", min_size=1, max_size=14), unique=True, max_size=12))
def test_further_columns_survive_under_names_that_never_collide(names):
    columns = dict.fromkeys(FINDING_COLUMNS, "object") | dict.fromkeys(names, "float64")
    table = fit(NEUTRAL, columns)
    assert {field.source for field in table.fields} == set(columns)
    short = [field.shp.upper() for field in table.fields]
    assert len(set(short)) == len(short)
    assert all(len(name.encode()) <= 10 for name in short)


@pytest.mark.parametrize("fmt", ["gpkg", "shp", "gdb", "geojson", "flatgeobuf", "kml", "geoparquet"])
def test_unknown_further_columns_survive_exports(fmt, factory, tmp_path):
    import geopandas as gpd

    frame = factory.findings_frame(3).assign(
        farmland_net_m2=[1.25, 2.5, 3.75], overlap_ratio=0.5, guard=[True, False, True]
    )
    write_layers(tmp_path / "findings.gpkg", crs="EPSG:4547", findings=[frame.assign(note="备注 𬭎")])
    path = export(tmp_path, fmt, tmp_path / "out").path
    got = (
        gpd.read_parquet(path)
        if fmt == "geoparquet"
        else pyogrio.read_dataframe(path, layer="findings" if fmt in {"gpkg", "gdb"} else None)
    )
    got = got.sort_values(got.columns[0])  # FlatGeobuf orders by place
    names = {"farmland_net_m2": "FARMNET_M2", "overlap_ratio": "OVERLAP_RA", "guard": "GUARD", "note": "NOTE"}
    columns = [names[name] if fmt == "shp" else name for name in names]
    assert got[columns[0]].astype(float).tolist() == [1.25, 2.5, 3.75]
    assert got[columns[1]].astype(float).tolist() == [0.5] * 3
    assert got[columns[2]].astype(float).tolist() == [1, 0, 1]
    assert got[columns[3]].tolist() == ["备注 𬭎"] * 3
    if fmt == "shp":
        with (tmp_path / "out_fields.csv").open(encoding="utf-8-sig", newline="") as stream:
            rows = {row[0]: row for row in csv.reader(stream)}
        assert rows["FARMNET_M2"][2] == "其中耕地净面积(平方米)"
        assert rows["OVERLAP_RA"][1] == "overlap_ratio"
