from __future__ import annotations

import csv
import json
import resource
import shutil
import zipfile
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import openpyxl
import pyogrio
import pytest
import shapely

from tuban.errors import OutputError, UsageError, VectorError
from tuban.postprocess.export import FORMATS, export
from tuban.postprocess.fields import convert, fit, load_fields, profiles
from tuban.postprocess.layers import FINDING_COLUMNS, write_layers
from tuban.postprocess.ledger import write_ledger
from tuban.postprocess.manifest import Manifest
from tuban.postprocess.restrict import Restriction
from tuban.postprocess.rows import Rows

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = {"geoparquet": ".parquet", "flatgeobuf": ".fgb"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, factory):
    """A finished run with 12 findings."""
    folder = tmp_path_factory.mktemp("运行 1")
    write_layers(
        folder / "findings.gpkg",
        crs="EPSG:4547",
        changes=[factory.changes_frame(12)],
        findings=[factory.findings_frame(12)],
    )
    manifest = Manifest("check")
    manifest.set("rule_pack", {"id": "cn", "version": "2025.10"})
    manifest.write(folder)
    return folder


def read(path: Path, fmt: str) -> gpd.GeoDataFrame:
    if fmt == "geoparquet":
        return gpd.read_parquet(path)
    return pyogrio.read_dataframe(path, layer="findings" if fmt in {"gpkg", "gdb"} else None)


@pytest.mark.parametrize("fmt", ["gpkg", "shp", "gdb", "geojson", "flatgeobuf", "kml", "geoparquet"])
def test_vector_formats_round_trip(fmt, run, tmp_path, factory):
    result = export(run, fmt, tmp_path / "导出 2", batch=5)
    assert result.path == tmp_path / f"导出 2{SUFFIX.get(fmt, '.' + fmt)}"
    assert result.rows == 12
    got = read(result.path, fmt)
    truth = factory.findings_frame(12)
    rename = {f.shp if fmt == "shp" else f.name: f.source for f in load_fields("neutral").fields}
    got = got.rename(columns={"Name": "finding_id"} | rename)
    truth = truth if got.crs == truth.crs else truth.to_crs(got.crs)
    assert got.crs == ("EPSG:4326" if fmt in {"geojson", "kml"} else "EPSG:4547")
    got = got.sort_values("finding_id").reset_index(drop=True)  # FlatGeobuf orders by place
    for name in ("finding_id", "reason", "status", "date_after"):
        # GDAL reads GeoJSON's dates as dates.
        assert got[name].astype(str).str[:200].tolist() == truth[name].tolist()
    for name, kind in FINDING_COLUMNS.items():
        if kind == "float":
            np.testing.assert_allclose(got[name].astype(float), truth[name], atol=5e-3, equal_nan=True)
    # RFC 7946 keeps 7 decimals of a degree: about 1 cm.
    tolerance = 2e-7 if fmt == "geojson" else 1e-9
    ours, theirs = shapely.normalize(got.geometry.to_numpy()), shapely.normalize(truth.geometry.to_numpy())
    # Compared by distance between outlines: vertex order differs between formats.
    assert (shapely.hausdorff_distance(ours, theirs) <= tolerance).all()


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt not in {"gdb", "postgis"}])
def test_second_export_gives_the_same_bytes(fmt, run, tmp_path):
    files = [export(run, fmt, tmp_path / name / "out").files for name in ("a", "b")]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_neutral_gpkg_keeps_every_layer_and_style(run, tmp_path):
    path = export(run, "gpkg", tmp_path / "copy").path
    assert path.read_bytes() == (run / "findings.gpkg").read_bytes()


def test_shapefile_names_encoding_and_dictionary(run, tmp_path, factory):
    result = export(run, "shp", tmp_path)
    dbf = tmp_path / "findings.dbf"
    assert (tmp_path / "findings.cpg").read_text() == "GB18030"
    assert factory.REASON.encode("gb18030") in dbf.read_bytes()
    names = list(pyogrio.read_info(result.path)["fields"])
    assert len(set(names)) == len(FINDING_COLUMNS)
    assert max(map(len, names)) <= 10
    with (tmp_path / "findings_fields.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.reader(stream))
    assert [row[0] for row in rows[1:]] == names
    assert [row[1] for row in rows[1:]] == list(FINDING_COLUMNS)


def test_text_too_long_for_dbf_is_cut_between_characters_and_said(tmp_path, factory):
    write_layers(
        tmp_path / "findings.gpkg", crs="EPSG:4547", findings=[factory.findings_frame(2, reason="a" + "田" * 200)]
    )
    result = export(tmp_path / "findings.gpkg", "shp", tmp_path / "out.shp")
    assert result.notes == ("REASON: 2 texts cut to 254 bytes",)
    assert read(result.path, "shp")["REASON"][0] == "a" + "田" * 126


def test_geojson_is_rfc7946(run, tmp_path):
    path = export(run, "geojson", tmp_path / "x.json").path
    document = json.loads(path.read_text(encoding="utf-8"))
    assert "crs" not in document
    ring = shapely.geometry.shape(document["features"][0]["geometry"]).geoms[0].exterior
    assert ring.is_ccw


def test_geoparquet_metadata(run, tmp_path):
    import pyarrow.parquet as pq

    path = export(run, "geoparquet", tmp_path).path
    geo = json.loads(pq.read_schema(path).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"]["crs"]["id"] == {"authority": "EPSG", "code": 4547}


def test_ledger_headings_panes_filter_and_values(run, tmp_path):
    path = export(run, "xlsx", tmp_path, profile="cn-weipian").path
    book = openpyxl.load_workbook(path)
    sheet = book["台账"]
    heading = [cell.value for cell in sheet[1]]
    # The fields an inspector expects (domain/cn.md, section 5), in that order.
    expected = (
        "月份 下发时间 县 乡镇 图斑编号 图斑面积(亩) 占耕面积(亩) 占永久基本农田面积(亩) 中心经纬度 图斑级别 图斑类型"
    )
    expected += " 前时相 后时相 变化前类型 变化后类型"
    assert heading[:15] == expected.split()
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("A2", f"A1:{sheet.cell(1, len(heading)).column_letter}13")
    row = dict(zip(heading, (cell.value for cell in sheet[3]), strict=True))
    assert row["图斑面积(亩)"] == pytest.approx(901 * 3 / 2000, abs=5e-3)
    assert row["占永久基本农田面积(亩)"] == pytest.approx(901 / 2 * 3 / 2000, abs=5e-3)
    assert row["变化后类型"] == "建筑"
    assert row["机器筛查状态"] == "存疑"
    assert row["合法性判定"] is None
    first = dict(zip(heading, (cell.value for cell in sheet[2]), strict=True))
    assert first["占永久基本农田面积(亩)"] is None  # another zone


def test_ledger_in_english(run, tmp_path):
    book = openpyxl.load_workbook(export(run, "xlsx", tmp_path, lang="en").path)
    assert book.sheetnames == ["Ledger", "About"]
    assert book["Ledger"]["I1"].value == "Patch area (m2)"


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1"])
def test_formulas_never_run(text, tmp_path, factory):
    write_layers(tmp_path / "findings.gpkg", crs="EPSG:4547", findings=[factory.findings_frame(1, reason=text)])
    path = export(tmp_path, "xlsx", tmp_path).path
    with zipfile.ZipFile(path) as archive:
        assert b"<f>" not in archive.read("xl/worksheets/sheet1.xml")
    value = openpyxl.load_workbook(path)["台账"].cell(2, list(FINDING_COLUMNS).index("reason") + 1).value
    assert value.startswith("'")


def test_control_characters_are_dropped_and_said(tmp_path, factory):
    write_layers(tmp_path / "findings.gpkg", crs="EPSG:4547", findings=[factory.findings_frame(1, basis="a\x01b")])
    result = export(tmp_path, "xlsx", tmp_path)
    assert result.notes == ("1 texts held control characters or were too long for a cell and were cut",)


def test_ledger_spreads_over_sheets(tmp_path, factory):
    write_layers(tmp_path / "f.gpkg", crs="EPSG:4547", findings=[factory.findings_frame(5)])
    rows = Rows(tmp_path / "f.gpkg", load_fields("neutral"), Restriction())
    write_ledger(tmp_path / "x.xlsx", rows, sheet_rows=2)
    book = openpyxl.load_workbook(tmp_path / "x.xlsx")
    assert rows.count == 5
    assert [book[name].max_row for name in ("台账", "台账 2", "台账 3")] == [3, 3, 2]


@pytest.mark.parametrize("fmt", ["html", "pdf"])
def test_report_is_made_again(fmt, run, tmp_path):
    result = export(run, fmt, tmp_path, lang="en")
    assert result.rows == 12
    assert result.path.stat().st_size > 5000
    assert "the report has no before/after pictures" in result.notes
    (tmp_path / "alone").mkdir()
    shutil.copy(run / "findings.gpkg", tmp_path / "alone")
    with pytest.raises(UsageError, match=r"no run\.json"):
        export(tmp_path / "alone", fmt, tmp_path)


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt not in {"html", "pdf", "postgis"}])
def test_no_findings_is_an_empty_file_that_says_so(fmt, tmp_path):
    write_layers(tmp_path / "findings.gpkg", crs="EPSG:4547")
    result = export(tmp_path, fmt, tmp_path / "out")
    assert result.rows == 0
    assert "no findings" in result.notes[-1]
    if fmt not in {"xlsx", "kml"}:
        assert len(read(result.path, fmt)) == 0


def test_formats_that_do_not_work_are_refused_with_those_that_do(run, tmp_path):
    with pytest.raises(UsageError, match="the formats that work are: gpkg, shp, gdb, geojson"):
        export(run, "dwg", tmp_path)


def test_wrong_use(run, tmp_path):
    with pytest.raises(UsageError, match=r"does not end in \.shp"):
        export(run, "shp", tmp_path / "out.gpkg")
    with pytest.raises(UsageError, match="language 'fr'"):
        export(run, "shp", tmp_path, lang="fr")
    with pytest.raises(UsageError, match="use one of: cn-weipian, neutral"):
        export(run, "shp", tmp_path, profile="nowhere")
    with pytest.raises(UsageError, match="file to export from"):
        export(run, "gpkg", run)
    with pytest.raises(VectorError, match="cannot read"):
        export(tmp_path / "none.gpkg", "shp", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_target(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        export(run, "geojson", tmp_path / "file" / "x.geojson")


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt != "postgis"])
def test_full_disk_leaves_nothing(fmt, run, tmp_path):
    # A limit on file size stops writing in the middle, as a full disk does.
    whole = max(file.stat().st_size for file in export(run, fmt, tmp_path / "whole" / "out").path.parent.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole // 2, hard))
    try:
        with pytest.raises(OutputError, match="free some space") as caught:
            export(run, fmt, tmp_path / "half" / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "half").iterdir()) == []


def test_gdb_replaces_an_older_one(run, tmp_path):
    for _ in range(2):
        result = export(run, "gdb", tmp_path / "out.gdb")
    assert len(read(result.path, "gdb")) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["out.gdb"]


@pytest.mark.parametrize("profile", profiles())
def test_shipped_tables_fit_the_contract(profile, factory):
    table = fit(load_fields(profile), dict.fromkeys(FINDING_COLUMNS, "object"))
    for lang in ("zh", "en"):
        frame = convert(factory.findings_frame(2), table, lang=lang)
        assert list(frame.columns) == [field.name for field in table.fields]
    if profile == "neutral":
        table = load_fields(profile)
        assert [field.name for field in table.fields if not field.optional] == list(FINDING_COLUMNS)


TABLE = "id: x\ntitle: {zh: a, en: b}\nfields: "
TWICE = (
    TABLE
    + """
- {name: a, shp: A, zh: a, en: a, source: lon}
- {name: b, shp: a, zh: b, en: b, source: lat}
"""
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE + "[]", "fields"),
        (TABLE + "[{name: a, shp: 长名字, zh: a, en: a, source: lon}]", r"fields\.0\.shp"),
        (TABLE + "[{name: a, shp: a, zh: a, en: a}]", "needs a `source`"),
        (TWICE, "`shp` stands twice: A"),
        ("{", "not YAML"),
    ],
)
def test_malformed_table_is_one_line(tmp_path, text, message):
    (tmp_path / "t.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        load_fields(str(tmp_path / "t.yaml"))
    assert "\n" not in str(caught.value)


def test_table_with_an_unknown_source(factory, tmp_path):
    (tmp_path / "t.yaml").write_text(
        "id: x\ntitle: {zh: a, en: b}\nfields: [{name: a, shp: A, zh: a, en: a, source: owner}]", encoding="utf-8"
    )
    with pytest.raises(UsageError, match="findings lack owner"):
        convert(factory.findings_frame(1), load_fields(str(tmp_path / "t.yaml")))
