"""Plans through the command line: bad ones are refused in one line, odd but usable ones give the right findings."""

from __future__ import annotations

import shutil

import numpy as np
import pyogrio
import pytest
import shapely
import shapely.affinity


# Each maker writes a plan with something wrong into a folder and returns its path.
def no_plan(small, folder):
    return folder / "plan.yaml"


def not_yaml(small, folder):
    path = folder / "plan.yaml"
    path.write_text("layers: [", encoding="utf-8")
    return path


def unknown_key(small, folder):
    return small.write_plan_yaml(folder / "plan.yaml", ecological_red_line={"path": "x.gpkg", "colour": "red"})


def layer_missing(small, folder):
    small.write_plan(folder / "plan.gpkg")
    return small.write_plan_yaml(folder / "plan.yaml", ecological_red_line={"path": "plan.gpkg", "layer": "STBHHX_2"})


def layer_empty(small, folder):
    layers = small.plan_layers()
    layers["STBHHX"] = layers["STBHHX"].iloc[:0]
    return small.write_plan(folder / "plan.gpkg", layers)


def plan_file_missing(small, folder):
    return small.write_plan_yaml(folder / "plan.yaml", ecological_red_line={"path": "gone.gpkg"})


def unrecognised_names(small, folder):
    layers = {"红线": small.plan_layers()["STBHHX"]}
    return small.write_plan(folder / "plan.gpkg", layers)


def metres_called_degrees(small, folder):
    layers = {"STBHHX": small.plan_layers()["STBHHX"].set_crs("EPSG:4490", allow_override=True)}
    return small.write_plan(folder / "plan.gpkg", layers)


def next_zone(small, folder):
    """Every layer declares the neighbouring Gauss-Krueger zone: 300 km away, and otherwise plausible."""
    layers = {name: layer.set_crs("EPSG:4548", allow_override=True) for name, layer in small.plan_layers().items()}
    return small.write_plan(folder / "plan.gpkg", layers)


def plan_without_crs(small, folder):
    layers = {"STBHHX": small.plan_layers()["STBHHX"].set_crs(None, allow_override=True)}
    with pytest.warns(UserWarning, match="crs"):
        return small.write_plan(folder / "plan.gpkg", layers)


def unknown_code_table(small, folder):
    small.write_plan(folder / "plan.gpkg")
    entry = {"path": "plan.gpkg", "layer": "DLTB", "class_system": "mars-survey", "class_field": "DLBM"}
    return small.write_plan_yaml(folder / "plan.yaml", land_use_baseline=entry)


def code_column_missing(small, folder):
    small.write_plan(folder / "plan.gpkg")
    entry = {"path": "plan.gpkg", "layer": "DLTB", "class_system": "cn-survey", "class_field": "KODE"}
    return small.write_plan_yaml(folder / "plan.yaml", land_use_baseline=entry)


PLANS = [
    (no_plan, "no such plan"),
    (not_yaml, "YAML"),
    (unknown_key, "colour"),
    (layer_missing, "no layer 'STBHHX_2'"),
    (layer_empty, "has no features"),
    (plan_file_missing, "no such file"),
    (unrecognised_names, "红线"),
    (metres_called_degrees, "not in degrees"),
    (next_zone, "define the right projection"),
    (plan_without_crs, "has no CRS"),
    (unknown_code_table, "mars-survey"),
    (code_column_missing, "KODE"),
]


@pytest.mark.parametrize(("make", "says"), PLANS, ids=lambda value: getattr(value, "__name__", None))
def test_bad_plan_is_refused_and_an_earlier_run_stays(pair, small, out, tmp_path, make, says):
    was = small.contents(out)
    result = pair.detect(out, plan=make(small, tmp_path))
    assert (result.code, result.out) == (1, ""), result.err
    assert says in result.error
    assert small.contents(out) == was


def statuses(small, out):
    """The findings as a set that does not depend on ids."""
    found = small.findings(out)
    return {(row.rule_id, row.status, round(row.lon, 4), round(row.lat, 4)) for row in found.itertuples()}


def test_a_layer_the_plan_does_not_have_gives_undetermined_and_is_said(pair, small, tmp_path, earlier_run):
    layers = small.plan_layers()
    del layers["STBHHX"]
    result = pair.detect(tmp_path / "out", plan=small.write_plan(tmp_path / "plan.gpkg", layers))
    assert result.code == 0, result.err
    assert any("no layer of role ecological_red_line" in note["text"] for note in result.record["notes"])
    before, now = statuses(small, earlier_run), statuses(small, tmp_path / "out")
    assert {row for row in before if row[0] != "E1"} <= now
    assert {row[1] for row in now if row[0] == "E1"} == {"undetermined"}


def test_a_layer_that_lies_elsewhere_is_said(pair, small, tmp_path):
    layers = small.plan_layers()
    layers["STBHHX"] = layers["STBHHX"].set_crs("EPSG:4548", allow_override=True)
    result = pair.detect(tmp_path / "out", plan=small.write_plan(tmp_path / "plan.gpkg", layers))
    assert result.code == 0, result.err
    notes = [note["text"] for note in result.record["notes"] if "away from what is judged" in note["text"]]
    assert len(notes) == 1
    assert "STBHHX" in notes[0]


def test_damaged_polygons_are_mended_and_counted(pair, small, tmp_path, earlier_run):
    """A bow-tie and an open ring: the zone is what the mended outline encloses, and plan_qa names both."""
    layers = small.plan_layers()
    west, south, east, north = small.box_of("outside").bounds
    bow_tie = shapely.Polygon([(west, south), (east, north), (east, south), (west, north)])
    assert not bow_tie.is_valid
    red_line = layers["STBHHX"].geometry.iloc[0]
    layers["STBHHX"] = small.frame([bow_tie, red_line])
    plan = small.write_plan(tmp_path / "plan.gpkg", layers)
    _open_ring(plan, "STBHHX", fid=2)
    result = pair.detect(tmp_path / "out", plan=plan)
    assert result.code == 0, result.err
    quality = small.findings(tmp_path / "out", "plan_qa")
    said = " ".join(quality["message"][quality["layer"].str.contains("STBHHX")])
    assert "Self-intersection" in said
    assert "not closed" in said
    found = small.findings(tmp_path / "out")
    red = found[found["rule_id"] == "E1"].set_index("change_id")["overlap_m2"]
    was = small.findings(earlier_run)
    (whole,) = was[was["rule_id"] == "E1"]["overlap_m2"]
    # The bow-tie's two triangles are half of its box; the closed ring is the whole red line again.
    half = _half_of_change(was, bow_tie)
    assert sorted(red) == pytest.approx(sorted([whole, half]), rel=0.005)


def _half_of_change(found, bow_tie):
    touched = [g for g in found.drop_duplicates("change_id").geometry if g.intersects(bow_tie.buffer(0))]
    return shapely.make_valid(bow_tie).intersection(touched[0]).area


def _open_ring(path, layer, fid):
    """Take the last point off the outer ring of a feature, inside the GeoPackage's blob."""
    import sqlite3
    import struct

    with sqlite3.connect(path) as base:
        # The triggers of the spatial index call functions that plain SQLite lacks.
        for (name,) in base.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            base.execute(f'drop trigger "{name}"')
        (blob,) = base.execute(f"select geom from {layer} where fid = ?", (fid,)).fetchone()  # noqa: S608 - our own
        head = 8 + {0: 0, 1: 32}[(blob[3] >> 1) & 7]
        ring = head + 9 + 9  # multipolygon: order, type, count; polygon: order, type, rings
        (count,) = struct.unpack_from("<I", blob, ring)
        broken = blob[:ring] + struct.pack("<I", count - 1) + blob[ring + 4 : ring + 4 + 16 * (count - 1)]
        base.execute(f"update {layer} set geom = ? where fid = ?", (broken, fid))  # noqa: S608 - our own
    base.close()


def test_unknown_land_use_code_is_reported_and_not_taken_for_farmland(pair, small, tmp_path):
    layers = small.plan_layers()
    layers["DLTB"]["DLBM"] = ["9999", "0702"]
    result = pair.detect(tmp_path / "out", plan=small.write_plan(tmp_path / "plan.gpkg", layers))
    assert result.code == 0, result.err
    quality = small.findings(tmp_path / "out", "plan_qa")
    assert any("'9999' is not a code of cn-survey" in message for message in quality["message"])
    found = small.findings(tmp_path / "out")
    assert set(found[found["rule_id"] == "F1"]["status"]) <= {"undetermined", "inconclusive"}


def test_gbk_shapefiles_under_chinese_and_spaced_paths(pair, small, tmp_path, earlier_run):
    """Folder of Shapefiles in GBK without .cpg, images and results under such names: the same findings."""
    folder = tmp_path / "规划 数据" / "图层 1"
    folder.mkdir(parents=True)
    for name, layer in small.plan_layers().items():
        pyogrio.write_dataframe(layer, folder / f"{name}.shp", encoding="GBK")
        (folder / f"{name}.cpg").unlink()
    images = shutil.copytree(pair.folder, tmp_path / "影像 二〇二四")
    out = tmp_path / "结果 out"
    result = pair.detect(out, plan=folder, before=images / "before.tif", after=images / "after.tif")
    assert result.code == 0, result.err
    assert statuses(small, out) == statuses(small, earlier_run)
    reasons = " ".join(small.findings(out)["reason"])
    assert "0103 旱地" in reasons
    assert "批〔2023〕1号" in reasons
    assert pair.tuban("audit", "verify", out).code == 0


def test_plan_in_another_crs_gives_the_same_findings(pair, small, tmp_path, earlier_run):
    layers = {name: layer.to_crs("EPSG:4490") for name, layer in small.plan_layers().items()}
    result = pair.detect(tmp_path / "out", plan=small.write_plan(tmp_path / "plan.gpkg", layers))
    assert result.code == 0, result.err
    keys = ["change_id", "rule_id"]
    now, was = (small.findings(f).set_index(keys).sort_index() for f in (tmp_path / "out", earlier_run))
    assert list(now["status"]) == list(was["status"])
    assert list(now["finding_id"]) == list(was["finding_id"])
    np.testing.assert_allclose(now["overlap_m2"], was["overlap_m2"], rtol=1e-5)


def test_problems_far_from_the_pair_are_left_to_plan_validate(pair, small, tmp_path):
    """A bow-tie 30 km away decides nothing here, so the run does not name it."""
    layers = small.plan_layers()
    west, south, east, north = small.box_of("outside").bounds
    far = shapely.Polygon([(west, south), (east, north), (east, south), (west, north)])
    away = shapely.affinity.translate(far, 30_000, 0)
    layers["STBHHX"] = small.frame([away, layers["STBHHX"].geometry.iloc[0]])
    plan = small.write_plan(tmp_path / "plan.gpkg", layers)
    result = pair.detect(tmp_path / "out", plan=plan)
    assert result.code == 0, result.err
    assert not small.findings(tmp_path / "out", "plan_qa")["message"].str.contains("Self-intersection").any()
    whole = pair.tuban("plan", "validate", plan)
    assert "Self-intersection" in whole.out
