from __future__ import annotations

import json
import struct

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tuban.data.geometry_repair import RepairCounts, decode_wkb, repair
from tuban.data.vector import VectorSettings, layer_names, open_layer, require_columns
from tuban.errors import VectorError

NAMES = ["水田", "农村宅基地", "张家村果园"]


def frame(crs="EPSG:4490", **columns):
    boxes = [shapely.box(116 + i, 40, 116.5 + i, 40.5) for i in range(3)]
    return gpd.GeoDataFrame({"DLBM": ["0101", "0702", "0201"], "DLMC": NAMES, **columns}, geometry=boxes, crs=crs)


def polygon_wkb(points):
    return struct.pack("<BIII", 1, 3, 1, len(points)) + b"".join(struct.pack("<2d", *p) for p in points)


def write_geojson(path, rings, properties=None):
    features = [
        {
            "type": "Feature",
            "properties": properties or {"a": 1},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }
        for ring in rings
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


@pytest.mark.parametrize("encoding", ["GBK", "GB18030", "UTF-8"])
@pytest.mark.parametrize("cpg", ["right", "none", "wrong"])
def test_shapefile_text_survives_any_cpg(tmp_path, encoding, cpg):
    path = tmp_path / "图 斑" / "地类 图斑.shp"
    path.parent.mkdir()
    frame().to_file(path, encoding=encoding)
    if cpg == "none":
        path.with_suffix(".cpg").unlink()
        # OGR writes the code page into the header as well; old software does not.
        blob = bytearray(path.with_suffix(".dbf").read_bytes())
        blob[29] = 0
        path.with_suffix(".dbf").write_bytes(bytes(blob))
    if cpg == "wrong":
        path.with_suffix(".cpg").write_text("UTF-8" if encoding != "UTF-8" else "ASCII", encoding="ascii")
    layer = open_layer(path)
    assert list(layer.read()["DLMC"]) == NAMES
    assert bool(layer.notes) == (cpg != "right")
    if cpg != "right":
        assert layer.encoding in layer.notes[0]


def test_text_cut_within_a_character_is_counted_not_fatal(tmp_path):
    path = tmp_path / "a.shp"
    frame(NAME=["水" * 3] * 3).to_file(path, encoding="GBK")
    blob = path.with_suffix(".dbf").read_bytes()
    path.with_suffix(".dbf").write_bytes(blob.replace("水水水".encode("gbk"), "水水".encode("gbk") + b"\xcb "))
    counts = RepairCounts()
    assert list(open_layer(path).read(counts=counts)["NAME"]) == ["水水"] * 3
    assert counts.undecodable_text == 3


def test_chinese_field_names(tmp_path):
    path = tmp_path / "a.shp"
    frame(权属=["国有", "集体", "集体"]).to_file(path, encoding="GBK")
    path.with_suffix(".cpg").unlink()
    layer = open_layer(path)
    require_columns(layer, ["权属"])
    assert list(layer.read()["权属"]) == ["国有", "集体", "集体"]


def test_personal_fields_are_never_loaded(tmp_path):
    path = tmp_path / "a.gpkg"
    frame(ZRRMC=["张三"] * 3, lxdh=["1"] * 3).to_file(path)
    layer = open_layer(path)
    assert layer.dropped == ("ZRRMC", "lxdh")
    assert not {"ZRRMC", "lxdh"} & set(layer.read().columns)
    assert any("personal" in note for note in layer.notes)


def test_batches_are_the_whole_layer(tmp_path):
    path = tmp_path / "a.gpkg"
    boxes = [shapely.box(i, 0, i + 1, 1) for i in range(10)]
    gpd.GeoDataFrame({"n": range(10)}, geometry=boxes, crs=4490).to_file(path)
    layer = open_layer(path, settings=VectorSettings(batch_size=3))
    batches = list(layer.batches())
    assert [len(b) for b in batches] == [3, 3, 3, 1]
    assert [n for b in batches for n in b["n"]] == list(range(10))
    assert sorted(layer.read(bbox=(2.5, 0.2, 4.5, 0.8))["n"]) == [2, 3, 4]


def test_neighbours_come_together(tmp_path):
    """A file in random order, read along a curve: the same features, each batch in a small place."""
    side = 20
    order = np.random.default_rng(0).permutation(side * side)
    boxes = [shapely.box(i // side, i % side, i // side + 1, i % side + 1) for i in order]
    path = tmp_path / "a.gpkg"
    gpd.GeoDataFrame({"n": order, "名": [f"图{i}" for i in order]}, geometry=boxes, crs=4490).to_file(path)
    layer = open_layer(path, settings=VectorSettings(batch_size=40))
    plain, near = list(layer.batches()), list(layer.batches(neighbours=True))
    assert sorted(n for f in near for n in f["n"]) == list(range(side * side))
    assert all(f"图{n}" == name for f in near for n, name in zip(f["n"], f["名"], strict=True))
    assert all((f.bounds["minx"] * side + f.bounds["miny"] == f["n"]).all() for f in near)

    def spread(frames):
        return np.mean([np.prod(f.total_bounds[2:] - f.total_bounds[:2]) for f in frames])

    assert spread(near) < 0.3 * spread(plain)
    again = list(layer.batches(neighbours=True))
    assert [f["n"].tolist() for f in again] == [f["n"].tolist() for f in near]


def test_only_wanted_fields_are_read(tmp_path):
    path = tmp_path / "a.shp"
    frame(权属=["国有", "集体", "集体"], ZRRMC=["张三"] * 3).to_file(path, encoding="GBK")
    layer = open_layer(path)
    (got,) = layer.batches(columns=("权属", "ZRRMC", "none"))
    assert list(got.columns) == ["权属", "geometry"]
    assert list(got["权属"]) == ["国有", "集体", "集体"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "no such.gpkg", "no such file"),
        (lambda p: _text(p / "a.gpkg", "not a database"), "not vector data"),
        (lambda p: _empty(p / "a.gpkg"), "no features"),
        (lambda p: _no_crs(p / "a.shp"), "has no CRS"),
        (lambda p: _truncated(p / "a.shp"), "truncated"),
    ],
)
def test_bad_files_say_what_and_how(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(VectorError, match=message) as caught:
        open_layer(path)
    assert path.stem in str(caught.value)
    assert "\n" not in str(caught.value)


def _text(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def _empty(path):
    frame().iloc[:0].to_file(path)
    return path


def _no_crs(path):
    frame().to_file(path)
    path.with_suffix(".prj").unlink()
    return path


def _truncated(path):
    frame().to_file(path)
    path.with_suffix(".dbf").write_bytes(b"\x03")
    return path


def test_missing_layer_lists_those_present(tmp_path):
    path = tmp_path / "a.gpkg"
    frame().to_file(path, layer="DLTB")
    frame().to_file(path, layer="STBHHX")
    assert set(layer_names(path)) == {"DLTB", "STBHHX"}
    with pytest.raises(VectorError, match=r"no layer 'CZKFBJ'; it has DLTB, STBHHX"):
        open_layer(path, "CZKFBJ")
    with pytest.raises(VectorError, match="name one of them"):
        open_layer(path)


@pytest.mark.parametrize(
    ("epsg", "meridian"),
    [(4513, None), (4526, None), (4533, None), (4491, None), (4534, 75), (4547, 114), (4490, None)],
)
def test_guessed_crs_is_the_true_one_and_is_said(tmp_path, epsg, meridian):
    lon = {4513: 75, 4526: 114, 4533: 135, 4491: 75, 4534: 75, 4547: 114, 4490: 114}[epsg]
    square = gpd.GeoSeries([shapely.box(lon + 0.1, 35, lon + 0.2, 35.1)], crs=4490).to_crs(epsg)
    path = tmp_path / "a.shp"
    gpd.GeoDataFrame({"a": [1]}, geometry=square).to_file(path)
    path.with_suffix(".prj").unlink()
    with pytest.raises(VectorError, match="guess_crs"):
        open_layer(path)
    layer = open_layer(path, settings=VectorSettings(guess_crs=True, central_meridian=meridian))
    assert layer.crs.to_epsg() == epsg
    assert f"EPSG:{epsg}" in layer.notes[0]


def test_six_digits_need_a_meridian(tmp_path):
    path = tmp_path / "a.shp"
    gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.box(500_000, 3.4e6, 500_100, 3.4001e6)], crs=4547).to_file(path)
    path.with_suffix(".prj").unlink()
    with pytest.raises(VectorError, match="central_meridian"):
        open_layer(path, settings=VectorSettings(guess_crs=True))
    with pytest.raises(VectorError, match="75, 78"):
        open_layer(path, settings=VectorSettings(guess_crs=True, central_meridian=100))


@pytest.mark.parametrize(("true", "declared"), [("EPSG:4526", "EPSG:4490"), ("EPSG:4490", "EPSG:4526")])
def test_wrong_crs_is_refused(tmp_path, true, declared):
    square = gpd.GeoSeries([shapely.box(114.1, 35, 114.2, 35.1)], crs=4490).to_crs(true)
    path = tmp_path / "a.gpkg"
    gpd.GeoDataFrame({"a": [1]}, geometry=square).set_crs(declared, allow_override=True).to_file(path)
    with pytest.raises(VectorError, match="declares"):
        open_layer(path)
    layer = open_layer(path, settings=VectorSettings(guess_crs=True))
    assert layer.crs.to_epsg() == int(true[5:])
    assert "declares" in layer.notes[0]


def test_self_intersecting_and_unclosed_rings_are_mended_and_counted(tmp_path):
    bow_tie = [[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]
    unclosed = [[2, 0], [3, 0], [3, 1], [2, 1]]
    path = write_geojson(tmp_path / "a.geojson", [bow_tie, unclosed, [[4, 0], [5, 0], [5, 1], [4, 1], [4, 0]]])
    counts = RepairCounts()
    got = open_layer(path).read(counts=counts)
    assert got.geometry.is_valid.all()
    assert np.allclose(shapely.area(got.geometry.values), [0.5, 1.0, 1.0])
    assert (counts.read, counts.invalid, counts.unclosed) == (3, 1, 1)
    assert dict(counts.problems)[1] == "ring not closed"


def test_unclosed_wkb_in_geopackage(tmp_path):
    import sqlite3

    path = tmp_path / "a.gpkg"
    gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4490).to_file(path, SPATIAL_INDEX="NO")
    with sqlite3.connect(path) as db:
        (blob,) = db.execute("select geom from a").fetchone()
        header = blob[: len(blob) - len(shapely.to_wkb(shapely.box(0, 0, 1, 1)))]
        triggers = [row[0] for row in db.execute("select name from sqlite_master where type='trigger'")]
        for name in triggers:
            db.execute(f'drop trigger "{name}"')
        db.execute("update a set geom = ?", (header + polygon_wkb([(0, 0), (1, 0), (1, 1), (0, 1)]),))
    db.close()
    counts = RepairCounts()
    assert shapely.area(open_layer(path).read(counts=counts).geometry.values).tolist() == [1.0]
    assert counts.unclosed == 1


def test_hostile_geometry():
    square = shapely.box(0, 0, 4, 4)
    hole = [(1, 1), (2, 1), (2, 2), (1, 2)]
    shapes = [
        shapely.force_3d(square, 5.0),
        shapely.Polygon(square.exterior.coords, [hole, hole]),
        shapely.MultiPolygon([square, shapely.box(1, 1, 2, 2)]),
        shapely.GeometryCollection([square, shapely.LineString([(9, 9), (10, 10)]), shapely.Point(0, 0)]),
        shapely.Polygon([(0, 0), (4, 0), (4, 4), (4, 9), (4, 4), (0, 4)]),
        shapely.LineString([(0, 0), (1, 1)]),
        shapely.Polygon(),
        None,
        decode_wkb(np.array([polygon_wkb([(0, 0), (float("nan"), 1), (1, 1), (0, 0)])], dtype=object), RepairCounts())[
            0
        ],
        shapely.Polygon([(0, 0), (1, 1), (2, 2), (0, 0)]),
    ]
    counts = RepairCounts()
    got = repair(np.array(shapes, dtype=object), counts)
    areas = [None if g is None else g.area for g in got]
    assert areas == [16, 15, 16, 16, 16, None, None, None, None, None]
    assert counts.dropped_z == 1
    assert counts.empty == 3
    assert counts.not_polygonal in {1, 2}
    assert all(g is None or (g.is_valid and not g.has_z) for g in got)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=9))
def test_repair_gives_valid_polygons_within_the_hull(points):
    ring = shapely.Polygon(points)
    got = repair(np.array([ring], dtype=object), RepairCounts())[0]
    if got is not None:
        assert got.is_valid
        assert got.geom_type in {"Polygon", "MultiPolygon"}
        assert ring.convex_hull.buffer(1e-9).covers(got)
    elif ring.is_valid:
        assert ring.area == 0
