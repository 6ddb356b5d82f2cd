from __future__ import annotations

import hashlib
import sqlite3
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas as gpd
import pyogrio
import pytest
import shapely

from tuban.data.classes import classes
from tuban.errors import OutputError, VectorError
from tuban.postprocess import layers
from tuban.postprocess.layers import (
    CHANGE_COLUMNS,
    FINDING_COLUMNS,
    PLAN_QA_COLUMNS,
    LayerWriter,
    iter_layer,
    write_layers,
)
from tuban.postprocess.styles import changes_qml, findings_qml, plan_qa_qml, unseen_qml

CRS = "EPSG:4547"


def qa_frame(crs=CRS, geometry=None):
    row = dict.fromkeys(PLAN_QA_COLUMNS, "x") | {"area_m2": 1.0, "check": "overlap"}
    return gpd.GeoDataFrame([row], geometry=[geometry or shapely.box(500000, 3e6, 500010, 3000010)], crs=crs)


def test_batches_arrive_in_order_with_contract_columns(tmp_path, factory):
    path = tmp_path / "结果 1" / "findings.gpkg"
    counts = write_layers(
        path,
        crs=CRS,
        changes=[factory.changes_frame(3), factory.changes_frame(2, 3)],
        findings=[factory.findings_frame(4), factory.findings_frame(1, 4)],
        plan_qa=[qa_frame()],
    )
    assert counts == {"findings": 5, "changes": 5, "plan_qa": 1}
    found = pyogrio.read_dataframe(path, layer="findings")
    assert list(found.columns) == [*FINDING_COLUMNS, "geometry"]
    assert found["finding_id"].tolist() == [f"f{n:04d}" for n in range(5)]
    assert found.loc[0, "reason"] == factory.REASON
    changes = pyogrio.read_dataframe(path, layer="changes")
    assert list(changes.columns) == [*CHANGE_COLUMNS, "geometry"]
    assert changes["touches_edge"].dtype == bool
    assert shapely.equals_exact(changes.geometry.union_all(), factory.changes_frame(5).union_all(), 1e-9)


def test_findings_are_the_layer_a_reader_gets_first(tmp_path, factory):
    write_layers(tmp_path / "f.gpkg", crs=CRS, changes=[factory.changes_frame(1)])
    assert [name for name, _ in pyogrio.list_layers(tmp_path / "f.gpkg")][:3] == ["findings", "changes", "plan_qa"]


def test_empty_layers_exist_with_their_schema(tmp_path):
    path = tmp_path / "findings.gpkg"
    with LayerWriter(path, crs=CRS, layers=tuple(layers.LAYERS)):
        pass
    for layer, columns in layers.LAYERS.items():
        info = pyogrio.read_info(path, layer=layer)
        assert list(info["fields"]) == list(columns)
        assert info["features"] == 0
        assert info["crs"] == CRS
        assert info["geometry_type"] == "MultiPolygon"


def test_the_unseen_layer_is_only_there_where_it_was_asked_for(tmp_path):
    write_layers(tmp_path / "f.gpkg", crs=CRS)
    assert "unseen" not in {name for name, _ in pyogrio.list_layers(tmp_path / "f.gpkg")}
    with pytest.raises(VectorError, match="no layer 'unseen'"), LayerWriter(tmp_path / "g.gpkg", crs=CRS) as writer:
        writer.append("unseen", qa_frame())


def test_second_run_gives_the_same_bytes(tmp_path, factory):
    digests = set()
    for name in ("a", "b"):
        path = tmp_path / name / "findings.gpkg"
        write_layers(path, crs=CRS, changes=[factory.changes_frame(3)], findings=[factory.findings_frame(3)])
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
        time.sleep(1.1)  # GeoPackage times have a resolution of a second or better
    assert len(digests) == 1


def test_config_of_gdal_is_left_as_it_was(tmp_path):
    write_layers(tmp_path / "f.gpkg", crs=CRS)
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None


def test_error_inside_leaves_nothing(tmp_path, factory):
    class BrokenError(RuntimeError):
        pass

    def frames():
        yield factory.changes_frame(2)
        raise BrokenError

    with pytest.raises(BrokenError):
        write_layers(tmp_path / "findings.gpkg", crs=CRS, changes=frames())
    assert list(tmp_path.iterdir()) == []


def test_older_file_survives_a_failed_run(tmp_path, factory):
    path = tmp_path / "findings.gpkg"
    write_layers(path, crs=CRS, changes=[factory.changes_frame(2)])
    before = path.read_bytes()
    with pytest.raises(VectorError, match="lack confidence"):
        write_layers(path, crs=CRS, changes=[factory.changes_frame(2).drop(columns="confidence")])
    assert path.read_bytes() == before


def test_full_disk_is_one_clear_error(tmp_path, factory):
    # Every write to /dev/full fails with ENOSPC, as on a full disk.
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(OutputError, match=r"cannot write .*free some space") as caught,
        layers.output_errors(tmp_path),
        Path("/dev/full").open("wb", buffering=0) as stream,
    ):
        stream.write(b"x")
    assert "\n" not in str(caught.value)


def test_folder_that_is_a_file(tmp_path, factory):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_layers(tmp_path / "out" / "findings.gpkg", crs=CRS, changes=[factory.changes_frame(1)])


def test_wrong_crs_is_refused_for_findings_and_moved_for_plan_qa(tmp_path, factory):
    with LayerWriter(tmp_path / "f.gpkg", crs=CRS) as writer:
        with pytest.raises(VectorError, match="reproject"):
            writer.append("changes", factory.changes_frame(1).to_crs(4326))
        writer.append("plan_qa", qa_frame().to_crs(4490))
        with pytest.raises(VectorError, match="no layer 'cases'"):
            writer.append("cases", qa_frame())
    moved = pyogrio.read_dataframe(tmp_path / "f.gpkg", layer="plan_qa")
    assert moved.total_bounds == pytest.approx([500000, 3e6, 500010, 3000010], abs=1e-3)


def test_plan_problem_without_area_keeps_its_row(tmp_path):
    write_layers(tmp_path / "f.gpkg", crs=CRS, plan_qa=[qa_frame(geometry=shapely.Point(500000, 3e6))])
    row = pyogrio.read_dataframe(tmp_path / "f.gpkg", layer="plan_qa").iloc[0]
    assert row["check"] == "overlap"
    assert row.geometry is None


def test_further_columns_follow_and_must_stay(tmp_path, factory):
    first, second = factory.findings_frame(1).assign(trace="{}"), factory.findings_frame(1, 1)
    with LayerWriter(tmp_path / "f.gpkg", crs=CRS) as writer:
        writer.append("findings", first)
        with pytest.raises(VectorError, match="differ in the columns trace"):
            writer.append("findings", second)
    assert list(pyogrio.read_dataframe(tmp_path / "f.gpkg", layer="findings"))[-2:] == ["trace", "geometry"]


def test_tee_passes_frames_on(tmp_path, factory):
    with LayerWriter(tmp_path / "f.gpkg", crs=CRS) as writer:
        passed = list(writer.tee("changes", [factory.changes_frame(2)]))
        assert writer.counts["changes"] == 2
    assert len(passed[0]) == 2


def test_iter_layer_streams_all_rows_in_bounded_batches(tmp_path, factory):
    write_layers(tmp_path / "f.gpkg", crs=CRS, changes=[factory.changes_frame(25)])
    frames = list(iter_layer(tmp_path / "f.gpkg", "changes", batch=7))
    assert max(map(len, frames)) <= 7
    assert [i for frame in frames for i in frame["change_id"]] == [f"c{n:04d}" for n in range(25)]
    assert frames[0].crs == CRS
    assert next(iter_layer(tmp_path / "f.gpkg", "changes", geometry=False)).geometry.isna().all()
    with pytest.raises(VectorError, match="cases"):
        list(iter_layer(tmp_path / "f.gpkg", "cases"))
    with pytest.raises(VectorError, match=r"none\.gpkg"):
        list(iter_layer(tmp_path / "none.gpkg"))


def test_styles_stand_where_qgis_looks(tmp_path, factory):
    path = tmp_path / "f.gpkg"
    write_layers(path, crs=CRS, changes=[factory.changes_frame(1)])
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles ORDER BY id"
        ).fetchall()
        known = database.execute("SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'").fetchall()
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert [(name, column, default) for name, column, default, _ in rows] == [
        (layer, "geom", 1) for layer in ("findings", "changes", "plan_qa")
    ]
    assert known == [("attributes",)]
    assert rows[0][3] == findings_qml("zh")


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_qml_is_complete(lang):
    for make in (findings_qml, changes_qml, plan_qa_qml, unseen_qml):
        root = ET.fromstring(make(lang).partition("\n")[2])  # noqa: S314 - our own text
        symbols = {symbol.get("name") for symbol in root.iter("symbol")}
        assert {category.get("symbol") for category in root.iter("category")} == symbols
    values = {c.get("value") for c in ET.fromstring(changes_qml(lang).partition("\n")[2]).iter("category")}  # noqa: S314
    assert values == {entry.name for value, entry in classes().items() if value}
