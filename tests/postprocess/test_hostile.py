"""Geometry as bad as deliveries bring it, through load, overlay, area, check, QA: nothing fails or goes uncounted."""

from __future__ import annotations

import sqlite3
import struct

import geopandas as gpd
import numpy as np
import pytest
import shapely
from pyproj import CRS

from tuban.data.geometry_repair import RepairCounts
from tuban.data.plan import Plan, PlanLayer
from tuban.data.vector import open_layer
from tuban.postprocess.area import geodesic_area
from tuban.postprocess.check import CheckContext, CheckStats, check_changes
from tuban.postprocess.overlay import OverlayCounts, collect
from tuban.postprocess.plan_qa import validate_plan
from tuban.postprocess.rules import load_pack

EPSG, EAST, NORTH = 4547, 500_000.0, 3_400_000.0
CURVE, EMPTY, LEFT_OUT, MENDED = "curved", "empty", "left out", "mended"


def at(points):
    return [(EAST + x, NORTH + y) for x, y in points]


def box(x0, y0, x1, y1):
    return shapely.box(EAST + x0, NORTH + y0, EAST + x1, NORTH + y1)


def wkb(*rings, kind=3):
    body = b"".join(struct.pack("<I", len(r)) + b"".join(struct.pack("<2d", *p) for p in r) for r in rings)
    return struct.pack("<BII", 1, kind, len(rings)) + body


def arc(*points):
    return struct.pack("<BII", 1, 8, len(points)) + b"".join(struct.pack("<2d", *p) for p in points)


SQUARE, HOLE = at([(0, 0), (40, 0), (40, 40), (0, 40), (0, 0)]), at([(10, 10), (10, 20), (20, 20), (20, 10), (10, 10)])
CIRCLE = arc(*at([(0, 20), (20, 40), (40, 20), (20, 0), (0, 20)]))
CURVED = struct.pack("<BII", 1, 10, 1) + CIRCLE
nan, inf = float("nan"), float("inf")

# name -> (WKB, area in square metres or None where nothing is left, the count that tells of it or None)
CORPUS = {
    "plain": (wkb(SQUARE), 1600, None),
    "wrong winding": (wkb(SQUARE[::-1]), 1600, None),
    "hole wound as its shell": (wkb(SQUARE, HOLE[::-1]), 1500, None),
    "bow-tie": (wkb(at([(0, 0), (40, 40), (40, 0), (0, 40), (0, 0)])), 800, "invalid"),
    "spike": (wkb(at([(0, 0), (40, 0), (40, 40), (40, 90), (40, 40), (0, 40), (0, 0)])), 1600, "invalid"),
    "duplicate hole": (wkb(SQUARE, HOLE, HOLE), 1500, "invalid"),
    "hole equal to its shell": (wkb(SQUARE, SQUARE), None, "collapsed"),
    "hole outside": (wkb(SQUARE, at([(50, 0), (60, 0), (60, 10), (50, 0)])), 1650, "invalid"),  # GEOS: a shell
    "nested shells": (struct.pack("<BII", 1, 6, 2) + wkb(SQUARE) + wkb(HOLE), 1600, "invalid"),
    "duplicate parts": (struct.pack("<BII", 1, 6, 2) + wkb(SQUARE) + wkb(SQUARE), 1600, "invalid"),
    "touches itself": (wkb(at([(0, 0), (40, 0), (40, 40), (20, 0), (0, 40), (0, 0)])), 800, "invalid"),
    "repeated vertices": (wkb([p for p in SQUARE for _ in range(3)]), 1600, None),
    "open ring": (wkb(SQUARE[:-1]), 1600, "unclosed"),
    "on one line": (wkb(at([(0, 0), (20, 20), (40, 40), (0, 0)])), None, "collapsed"),
    "sliver": (wkb(at([(0, 0), (40, 0), (40, 1e-6), (0, 1e-6), (0, 0)])), 4e-5, None),
    "collection": (struct.pack("<BII", 1, 7, 2) + struct.pack("<BI2d", 1, 1, EAST, NORTH) + wkb(SQUARE), 1600, None),
    "line": (struct.pack("<BII4d", 1, 2, 2, EAST, NORTH, EAST + 40, NORTH + 40), None, "not_polygonal"),
    "point": (struct.pack("<BI2d", 1, 1, EAST, NORTH), None, "not_polygonal"),
    "empty": (struct.pack("<BII", 1, 3, 0), None, "empty"),
    "null": (None, None, "empty"),
    "NaN": (wkb([(EAST, NORTH), (nan, NORTH), (EAST, NORTH + 9), (EAST, NORTH)]), None, "empty"),
    "infinite": (wkb([(EAST, NORTH), (inf, NORTH), (EAST, NORTH + 9), (EAST, NORTH)]), None, "empty"),
    "Z": (shapely.to_wkb(shapely.force_3d(box(0, 0, 40, 40), 7.0)), 1600, "dropped_z"),
    "M": (struct.pack("<BII", 1, 2003, 1) + struct.pack("<I", 5) + b"".join(struct.pack("<3d", *p, 5) for p in SQUARE),
          1600, "dropped_z"),
    "curve polygon": (CURVED, np.pi * 400, "curved"),
    "multi-surface": (struct.pack("<BII", 1, 12, 2) + CURVED + wkb(at([(50, 0), (60, 0), (60, 10), (50, 0)])),
                      np.pi * 400 + 50, "curved"),
}  # fmt: skip


def write(path, blobs, layer="DLTB"):
    """A GeoPackage with geometries no library would write."""
    count = len(blobs)
    frame = gpd.GeoDataFrame(
        {"BSM": [f"b{i}" for i in range(count)], "DLBM": ["0101"] * count, "DLMC": ["水田"] * count},
        geometry=[box(0, 0, 1, 1)] * count, crs=EPSG,
    )  # fmt: skip
    frame.to_file(path, layer=layer, geometry_type="Unknown", SPATIAL_INDEX="NO")
    header = b"GP\x00\x01" + struct.pack("<i", EPSG)
    with sqlite3.connect(path) as db:
        for (name,) in db.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            db.execute(f'drop trigger "{name}"')
        for fid, blob in enumerate(blobs, start=1):
            db.execute(f"update {layer} set geom = ? where fid = ?", (blob and header + blob, fid))  # noqa: S608
    db.close()
    return path


@pytest.mark.parametrize("name", CORPUS)
def test_each_is_mended_or_left_out_and_counted(tmp_path, name):
    blob, area, told = CORPUS[name]
    layer = open_layer(write(tmp_path / "a.gpkg", [blob, wkb(SQUARE)]))
    counts = RepairCounts()
    frame = layer.read(counts=counts)
    assert shapely.is_valid(np.asarray(frame.geometry)).all()
    assert counts.read == 2
    assert len(frame) == 2 - (area is None)
    if area is not None:
        assert frame.geometry.iloc[0].area == pytest.approx(area, rel=2e-2 if told == CURVE else 1e-3, abs=1e-6)
        assert geodesic_area(frame.geometry, frame.crs)[0] == pytest.approx(
            area, rel=2e-2 if told == CURVE else 1e-3, abs=1e-6
        )
    if told is not None:
        assert getattr(counts, told) == 1, counts
    assert (told is None) == (not counts.nonzero())


def test_all_of_it_through_the_whole_way(tmp_path):
    """Layers of hostile features above hostile changes: areas are conserved and everything is accounted for."""
    blobs = [entry[0] for entry in CORPUS.values()]
    path = write(tmp_path / "计划.gpkg", blobs)
    write(tmp_path / "zones.gpkg", blobs, layer="YJJBNTTB")
    (tmp_path / "plan.yaml").write_text(
        "jurisdiction: cn\nlayers:\n"
        "  - {role: land_use_baseline, path: 计划.gpkg, layer: DLTB}\n"
        "  - {role: permanent_basic_farmland, path: zones.gpkg, layer: YJJBNTTB}\n",
        encoding="utf-8",
    )
    plan = Plan.load(tmp_path / "plan.yaml")
    changes = open_layer(path).read().reset_index(drop=True)
    kept = sum(entry[1] is not None for entry in CORPUS.values())
    assert len(changes) == kept
    shapes = np.asarray(changes.geometry, dtype=object)
    pieces = collect(plan.of("land_use_baseline"), shapes, CRS.from_epsg(EPSG), OverlayCounts())
    union = pieces.union(len(shapes), "all")
    whole = geodesic_area(shapes, EPSG)
    assert geodesic_area(union, EPSG) == pytest.approx(
        whole, rel=1e-6, abs=1e-6
    )  # every change lies on itself at least

    changes = changes.assign(
        change_id=[f"c{i}" for i in range(kept)], from_class="cropland", to_class="building", confidence=0.9,
        area_m2=whole, area_mu=whole * 3 / 2000,
    )  # fmt: skip
    stats = CheckStats()
    findings = list(check_changes([changes], plan, load_pack("cn"), context=CheckContext(), stats=stats))
    assert stats.changes == kept
    found = gpd.pd.concat(findings)
    farmland = found[found["rule_id"] == "P1"]
    large = set(changes["change_id"][whole > 1])  # a sliver rounds to nothing, and that is no finding
    assert large <= set(farmland["change_id"])
    assert np.isfinite(farmland["overlap_m2"]).all()

    quality = validate_plan(plan)
    repairs = quality.summary["repairs"]["land_use_baseline:DLTB"]
    gone = repairs["empty"] + repairs["not_polygonal"] + repairs["collapsed"]
    assert repairs["read"] == len(CORPUS)
    assert gone == len(CORPUS) - kept
    geometry = quality.problems[quality.problems["check"] == "geometry"]
    assert geometry["message"].str.startswith("left out").sum() == 2 * gone
    assert (quality.problems["check"] == "overlap").any()


def test_antimeridian_is_cut_and_counted(tmp_path):
    ring = shapely.Polygon([(179.9, 10), (-179.9, 10), (-179.9, 10.1), (179.9, 10.1)])
    path = tmp_path / "a.geojson"
    gpd.GeoDataFrame({"a": [1, 2]}, geometry=[ring, shapely.box(-180, -90, 180, 90)], crs=4326).to_file(path)
    counts = RepairCounts()
    frame = open_layer(path).read(counts=counts)
    assert counts.antimeridian == 1
    first = frame.geometry.iloc[0]
    assert first.geom_type == "MultiPolygon"
    assert first.area == pytest.approx(0.02)
    assert geodesic_area([first], 4326)[0] == pytest.approx(geodesic_area([ring], 4326)[0], rel=1e-5)
    layer = PlanLayer(role="zone", source=frame.iloc[:1])
    probe = np.array([shapely.box(-179.95, 10, -179.92, 10.05), shapely.box(0, 10, 1, 10.05)], dtype=object)
    pieces = collect((layer,), probe, CRS.from_epsg(4326), OverlayCounts())
    assert pieces.patch.tolist() == [0]  # on the plane as it stood it would have covered the second, not the first
