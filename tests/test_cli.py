"""Bad input through the command line: one line, the right exit code, and nothing of an earlier run touched."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def out(earlier_run, tmp_path):
    """A folder with the results of an earlier run."""
    return shutil.copytree(earlier_run, tmp_path / "结果 folder")


# Each maker writes one bad AFTER image into a folder and returns its path.
def missing(small, folder):
    return folder / "gone.tif"


def not_a_raster(small, folder):
    path = folder / "after.tif"
    path.write_text("no image")
    return path


def truncated(small, folder):
    path = small.write_image(folder / "after.tif", small.pixels()[1])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


def damaged_inside(small, folder):
    """The corners are whole; a tile in the middle is rubbish."""
    values = np.tile(small.pixels()[1], (1, 2, 2))
    path = small.write_image(folder / "after.tif", values, compress="deflate")
    with rasterio.open(path) as source:
        at = int(source.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[at : at + 600] = bytes(600)
    path.write_bytes(data)
    return path


def without_crs(small, folder):
    return small.write_image(folder / "after.tif", small.pixels()[1], crs=None)


def elsewhere(small, folder):
    from affine import Affine

    far = small.TRANSFORM @ Affine.translation(5000, 0)
    return small.write_image(folder / "after.tif", small.pixels()[1], transform=far)


def all_nodata(small, folder):
    return small.write_image(folder / "after.tif", np.zeros((2, 128, 128), np.uint16))


def all_nan(small, folder):
    return small.write_image(folder / "after.tif", np.full((2, 128, 128), np.nan, np.float32), nodata=None)


def all_infinite(small, folder):
    return small.write_image(folder / "after.tif", np.full((2, 128, 128), np.inf, np.float32), nodata=None)


def another_place(small, folder):
    """Nothing in common with BEFORE: noise."""
    noise = np.random.default_rng(1).integers(1, 10_000, (2, 128, 128)).astype(np.uint16)
    return small.write_image(folder / "after.tif", noise)


def other_bands(small, folder):
    return small.write_image(folder / "after.tif", small.pixels()[1], bands=("B11", "B12"))


IMAGES = [
    (missing, 1, "gone.tif: no such file"),
    (not_a_raster, 1, "not a raster"),
    (truncated, 1, "damaged"),
    (damaged_inside, 1, "damaged or cut short"),
    (without_crs, 1, "has no CRS"),
    (elsewhere, 1, "do not overlap"),
    (all_nodata, 1, "no valid pixel"),
    (all_nan, 1, "no valid pixel"),
    (all_infinite, 1, "no valid pixel"),
    (another_place, 1, "check that both show the same place"),
    (other_bands, 1, "no common band"),
]


@pytest.mark.parametrize(("make", "code", "says"), IMAGES, ids=lambda value: getattr(value, "__name__", None))
def test_bad_image_is_refused_and_an_earlier_run_stays(pair, small, out, tmp_path, make, code, says):
    was = small.contents(out)
    result = pair.detect(out, after=make(small, tmp_path))
    assert result.code == code, result.err
    assert says in result.error
    assert result.out == ""
    assert small.contents(out) == was
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(("make", "says"), [(missing, "no such file"), (without_crs, "no CRS")])
def test_a_refused_run_leaves_no_folder_behind(pair, small, tmp_path, make, says):
    result = pair.detect(tmp_path / "a" / "b", before=make(small, tmp_path))
    assert (result.code, says in result.error) == (1, True)
    assert not (tmp_path / "a").exists()


OPTIONS = [
    (("--date-before", "2025-01-01", "--date-after", "2024-01-01"), 1, "dates are reversed"),
    (("--date-before", "yesterday"), 2, "YYYY-MM-DD"),
    (("--model", "no-such-model"), 2, "no-such-model"),
    (("--rules", "atlantis"), 2, "atlantis"),
    (("--lang", "xx"), 2, "xx"),
    (("--backend", "abacus"), 2, "abacus"),
    (("pair.registration.window=9",), 2, "window"),
    (("inference.batch=0",), 2, "inference.batch = 0"),
    (("inference.batch=many",), 2, "many"),
    (("no equals sign",), 2, "no equals sign"),
    (("inference.tile=16",), 2, "tile"),
    (("--aoi", "gone.gpkg"), 1, "gone.gpkg"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "says"), OPTIONS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None
)
def test_bad_option_is_refused(pair, small, out, arguments, code, says):
    was = small.contents(out)
    result = pair.detect(out, *arguments)
    assert result.code == code, result.err
    assert says in result.error
    assert small.contents(out) == was


def test_unknown_option_and_command_are_usage_errors(pair, out):
    assert pair.detect(out, "--colour", "red").code == 2
    assert pair.tuban("detekt").code == 2
    assert pair.tuban("detect").code == 2


def test_one_band_where_ten_are_needed_names_what_is_missing(pair, small, tmp_path, out):
    was = small.contents(out)
    images = [
        small.write_image(tmp_path / f"{n}.tif", v[:1], bands=("B04",))
        for n, v in zip("ab", small.pixels(), strict=True)
    ]
    result = pair.tuban("detect", *images, "--out", out)
    assert result.code == 2
    assert "s2-change" in result.error
    assert "lacks" in result.error
    assert small.contents(out) == was


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


def test_pixels_that_are_nan_or_infinite_take_no_part(pair, small, tmp_path):
    before, after = (values.astype(np.float32) / 10_000 for values in small.pixels())
    row, column, height, width = small.SITES["farmland"]
    after[0, row : row + height, column : column + width] = NAN
    row, column, height, width = small.SITES["red line"]
    after[1, row : row + height, column : column + width] = INF
    images = [small.write_image(tmp_path / f"{n}.tif", v, nodata=None) for n, v in (("b", before), ("a", after))]
    result = pair.detect(tmp_path / "out", before=images[0], after=images[1])
    assert result.code == 0, result.err
    lost = 12 * 10 + 10 * 12
    assert result.record["counts"]["nodata_px"] == lost
    changes = small.findings(tmp_path / "out", "changes")
    assert len(changes) == len(small.SITES) - 2
    for site in ("farmland", "red line"):
        assert not changes.intersects(small.box_of(site)).any()


@pytest.mark.parametrize("make", ["a file in its place", "a file on the way", "no permission"])
def test_output_folder_that_cannot_be_written(pair, small, tmp_path, make, monkeypatch):
    target = tmp_path / "out"
    if make == "a file in its place":
        target.write_text("mine")
    elif make == "a file on the way":
        target.write_text("mine")
        target = target / "sub" / "deeper"
    else:  # root may write anywhere, so the refusal is made here

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.mkdtemp", refuse)
    result = pair.detect(target)
    assert (result.code, result.out) == (1, "")
    assert "cannot write into" in result.error
    if make == "no permission":
        assert not target.exists()
    else:
        assert (tmp_path / "out").read_text() == "mine"


def test_full_disk_at_every_stage(pair, small, out):
    """A limit on file size stands in for the full disk; lower ones stop the rasters, higher ones layers and report."""
    was = small.contents(out)
    script = """
        import resource, signal, sys
        from pathlib import Path
        from tuban.cli import app
        from tuban.console import run
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for limit in (1_000, 40_000, 250_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            code = run(lambda: app(sys.argv[1:], standalone_mode=True))
            print(limit, code, flush=True)
    """
    command = ["detect", pair.folder / "before.tif", pair.folder / "after.tif", "--out", out, "--model", pair.model]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, command), "--plan", str(pair.folder / "plan.gpkg")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["1000", "1", "40000", "1", "250000", "1"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "Traceback" not in done.stderr
    assert small.contents(out) == was
