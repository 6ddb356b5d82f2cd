"""Exports read by other people's programs: GDAL's own tools (Debian's QGIS reads with the same library)."""

from __future__ import annotations

import json
import shutil
import subprocess

import geopandas as gpd
import openpyxl
import pyogrio
import pytest

from tuban.postprocess.export import export
from tuban.postprocess.layers import write_layers

RARE = "图斑 㙍坝 𬭎镕 䶮 〔2024〕3号 “引号” <&> ；ü"
"""Common, extension A and extension E characters (all in the 通用规范汉字表), marks and XML's own."""


@pytest.fixture(scope="module")
def run(tmp_path_factory, factory):
    folder = tmp_path_factory.mktemp("运行")
    write_layers(folder / "findings.gpkg", crs="EPSG:4547", findings=[factory.findings_frame(3, reason=RARE)])
    return folder


def test_rare_characters_survive_every_format(run, tmp_path):
    for fmt in ("gpkg", "shp", "gdb", "geojson", "flatgeobuf", "kml", "geoparquet"):
        path = export(run, fmt, tmp_path / f"台账 {fmt}").path
        if fmt == "geoparquet":
            frame = gpd.read_parquet(path)
        else:
            frame = pyogrio.read_dataframe(path, layer="findings" if fmt in {"gpkg", "gdb"} else None)
        assert set(frame["REASON" if fmt == "shp" else "reason"]) == {RARE}, fmt
    sheet = openpyxl.load_workbook(export(run, "xlsx", tmp_path).path)["台账"]
    column = next(cell.column for cell in sheet[1] if cell.value == "判读依据")
    assert sheet.cell(2, column).value == RARE


@pytest.mark.skipif(shutil.which("ogrinfo") is None, reason="ogrinfo is not installed; apt-get install gdal-bin")
@pytest.mark.parametrize("fmt", ["shp", "gdb", "gpkg", "kml", "geojson", "flatgeobuf"])
def test_ogrinfo_reads_them(fmt, run, tmp_path):
    path = export(run, fmt, tmp_path / "out").path
    said = subprocess.run(["ogrinfo", "-ro", "-al", str(path)], check=True, capture_output=True, text=True)
    assert "ERROR" not in said.stderr
    assert said.stdout.count(f"= {RARE}") == 3
    assert "MULTIPOLYGON" in said.stdout or "POLYGON" in said.stdout
    if fmt == "gdb":
        assert 'alternative name="状态", domain name=tuban_status' in said.stdout
        domain = subprocess.run(
            ["ogrinfo", "-ro", "-fielddomain", "tuban_status", str(path)], check=True, capture_output=True, text=True
        ).stdout
        assert "suspected: 疑似" in domain


IN_QGIS = """
import json, sys
from qgis.core import QgsApplication, QgsVectorLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(sys.argv[1], "findings", "ogr")
fields = layer.fields()
at = max(fields.indexOf("status"), fields.indexOf("STATUS"))
print(json.dumps({
    "valid": layer.isValid(), "crs": layer.crs().authid(), "widget": layer.editorWidgetSetup(at).type(),
    "alias": fields[at].alias(), "renderer": layer.renderer().type(),
    "reasons": [row[max(fields.indexOf("reason"), fields.indexOf("REASON"))] for row in layer.getFeatures()],
}))
"""
SCREENLESS = {"QT_QPA_PLATFORM": "offscreen", "PATH": "/usr/bin:/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8"}  # noqa: S108 - QGIS wants a home


@pytest.fixture(scope="module")
def qgis():
    """Debian's own Python, which QGIS is installed for."""
    python = "/usr/bin/python3"
    found = subprocess.run([python, "-c", "import qgis.core"], check=False, capture_output=True, env=SCREENLESS)
    if found.returncode:
        pytest.skip("QGIS's Python is not installed; apt-get install python3-qgis")
    return python


@pytest.mark.parametrize("fmt", ["shp", "gdb", "gpkg"])
def test_qgis_reads_them(fmt, run, tmp_path, qgis):
    path = export(run, fmt, tmp_path / "out").path
    address = str(path) if fmt == "shp" else f"{path}|layername=findings"
    done = subprocess.run(
        [qgis, "-c", IN_QGIS, address], check=True, capture_output=True, text=True, timeout=120, env=SCREENLESS
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["valid"], seen["crs"], seen["reasons"]) == (True, "EPSG:4547", [RARE] * 3)
    if fmt == "gdb":  # the coded domain is a list to choose from, under the Chinese alias
        assert (seen["widget"], seen["alias"]) == ("ValueMap", "状态")
    if fmt == "gpkg":  # the embedded style is found
        assert seen["renderer"] == "categorizedSymbol"
