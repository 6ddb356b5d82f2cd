from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely

from tuban.errors import MissingExtraError, OutputError, UsageError
from tuban.postprocess.export import export
from tuban.postprocess.layers import write_layers
from tuban.postprocess.manifest import Manifest
from tuban.postprocess.postgis import parse_target


def make_run(folder, factory, count=6, **over):
    write_layers(
        folder / "findings.gpkg",
        crs="EPSG:4547",
        changes=[factory.changes_frame(count)],
        findings=[factory.findings_frame(count, **over)],
    )
    manifest = Manifest("check", {"count": count})
    manifest.set("rule_pack", {"id": "cn", "version": "2026.1"})
    manifest.write(folder)
    return folder


@pytest.fixture
def run(tmp_path, factory):
    return make_run(tmp_path / "run", factory)


def test_round_trip(run, postgis, factory):
    result = export(run, "postgis", f"{postgis.url}&schema=执法", batch=4)
    assert (result.rows, result.files) == (6, ())
    rows = postgis.execute(
        'SELECT finding_id, reason, area_m2, ST_AsBinary(geom), ST_SRID(geom) FROM "执法".findings ORDER BY id'
    )
    truth = factory.findings_frame(6)
    assert [row[0] for row in rows] == truth["finding_id"].tolist()
    assert {row[1] for row in rows} == {factory.REASON}
    np.testing.assert_allclose([row[2] for row in rows], truth["area_m2"])
    shapes = shapely.from_wkb([bytes(row[3]) for row in rows])
    assert shapely.equals(shapely.normalize(shapes), shapely.normalize(truth.geometry.to_numpy())).all()
    assert {row[4] for row in rows} == {4547}
    assert postgis.execute('SELECT count(*) FROM "执法".changes') == [(6,)]
    indexes = postgis.execute("SELECT indexdef FROM pg_indexes WHERE schemaname = '执法' AND tablename = 'findings'")
    assert any("gist (geom)" in text for (text,) in indexes)
    (comment,) = postgis.execute(
        "SELECT col_description('\"执法\".findings'::regclass, attnum) FROM pg_attribute"
        " WHERE attrelid = '\"执法\".findings'::regclass AND attname = 'reason'"
    )
    assert comment[0].startswith("判读依据")


def test_second_export_replaces_only_its_own_run(run, tmp_path, postgis, factory):
    other = make_run(tmp_path / "other", factory, count=3)
    for folder in (run, other, run):
        export(folder, "postgis", postgis.url)
    counts = postgis.execute("SELECT run_id, count(*) FROM tuban.findings GROUP BY run_id ORDER BY 2")
    assert [count for _, count in counts] == [3, 6]
    assert postgis.execute("SELECT count(*) FROM tuban.runs") == [(2,)]


def test_failure_in_the_middle_leaves_nothing(run, postgis, monkeypatch):
    export(run, "postgis", postgis.url)
    before = postgis.execute("SELECT id FROM tuban.findings ORDER BY id")

    def broken(self, *_):
        raise RuntimeError("power is gone")

    monkeypatch.setattr("tuban.postprocess.postgis._Table._shapes", broken)
    with pytest.raises(RuntimeError):
        export(run, "postgis", postgis.url)
    assert postgis.execute("SELECT id FROM tuban.findings ORDER BY id") == before


def test_profile_further_columns_and_rare_characters(tmp_path, postgis, factory):
    run = make_run(tmp_path / "run", factory, reason="㙍 𬭎 图斑 \\ \t | ;", farm_ratio=0.25)
    export(run, "postgis", f"{postgis.url}&schema=s")
    export(run, "postgis", f"{postgis.url}&schema=w", profile="cn-weipian")
    assert postgis.execute("SELECT DISTINCT reason FROM s.findings") == [("㙍 𬭎 图斑 \\ \t | ;",)]
    assert postgis.execute('SELECT "ZT", "HFXPD" FROM w.findings ORDER BY id LIMIT 1') == [("疑似", None)]


def test_columns_that_come_later_are_added(tmp_path, postgis, factory):
    export(make_run(tmp_path / "a", factory), "postgis", postgis.url)
    frame = factory.findings_frame(2).assign(farmland_net_m2=7.5)
    write_layers(tmp_path / "b" / "findings.gpkg", crs="EPSG:4547", findings=[frame])
    export(tmp_path / "b", "postgis", postgis.url)
    got = postgis.execute("SELECT farmland_net_m2, count(*) FROM tuban.findings GROUP BY 1 ORDER BY 1")
    assert got == [(7.5, 2), (None, 6)]


def test_rows_are_moved_to_the_tables_crs_and_it_is_said(run, tmp_path, postgis, factory):
    export(run, "postgis", postgis.url)
    moved = factory.findings_frame(2).to_crs(4490)
    write_layers(tmp_path / "b" / "findings.gpkg", crs="EPSG:4490", findings=[moved])
    result = export(tmp_path / "b", "postgis", postgis.url)
    assert "findings: moved from EPSG:4490 to EPSG:4547, the CRS of the table" in result.notes
    rows = postgis.execute("SELECT ST_AsBinary(geom) FROM tuban.findings ORDER BY id DESC LIMIT 2")
    got = shapely.from_wkb([bytes(row[0]) for row in reversed(rows)])
    truth = factory.findings_frame(2).geometry.to_numpy()
    assert shapely.hausdorff_distance(got, truth).max() < 1e-3


def test_restricted_export(run, tmp_path, postgis):
    gpd.GeoSeries([shapely.box(500150, 2999000, 500235, 3000000)], crs=4547).to_frame("geometry").to_file(
        tmp_path / "a.gpkg"
    )
    result = export(run, "postgis", postgis.url, geometry=False, clip=tmp_path / "a.gpkg")
    assert result.rows == 2
    assert postgis.execute("SELECT count(*), count(geom) FROM tuban.findings") == [(2, 0)]
    columns = {
        name
        for (name,) in postgis.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'tuban'"
        )
    }
    assert not {"lon", "lat"} & columns
    (facts,) = postgis.execute("SELECT facts->>'left_out' FROM tuban.runs")
    assert "without outlines" in facts[0]


def test_password_is_asked_for_and_never_shown(run, postgis, monkeypatch, caplog):
    from urllib.parse import quote

    caplog.set_level("DEBUG")
    secret = "wrong-口令 @/:"  # noqa: S105 - made up
    monkeypatch.setenv("PGPASSWORD", secret)
    with pytest.raises(OutputError, match="cannot reach") as caught:
        export(run, "postgis", postgis.inspector_url)
    monkeypatch.delenv("PGPASSWORD")
    with_password = postgis.inspector_url.replace("inspector@", f"inspector:{quote(secret, safe='')}@")
    with pytest.raises(OutputError, match="cannot reach") as again:
        export(run, "postgis", with_password)
    for text in (str(caught.value), str(again.value), caplog.text):
        assert "wrong" not in text
        assert "\n" not in str(caught.value)


def test_without_rights_or_postgis_the_remedy_is_said(run, postgis):
    postgis.execute("DROP EXTENSION postgis CASCADE")
    with pytest.raises(UsageError, match="CREATE EXTENSION postgis"):
        export(run, "postgis", postgis.url)


def test_server_that_is_not_there(run, tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(OutputError, match=r"cannot reach postgresql://li@/db\?host="):
        export(run, "postgis", f"postgresql://li:geheim@/db?host={tmp_path}")


def test_without_psycopg_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"tuban\[postgis\]"):
        export(run, "postgis", "postgresql://li@localhost/db")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql://li:a%40b@h:5433/land?schema=s&sslmode=require",
            "postgresql://li@h:5433/land?schema=s&sslmode=require",
        ),
        ("postgres:///land?host=/run/x&password=geheim&user=li", "postgres:///land?host=/run/x&user=li"),
    ],
)
def test_address_is_shown_without_its_password(url, shown):
    assert parse_target(url).shown == shown


@pytest.mark.parametrize("url", ["out.gpkg", "mysql://h/db", "postgresql://h/db?schema=", "postgresql://h:port/db"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UsageError, match=r"postgresql://|schema"):
        parse_target(url)


def test_a_database_is_no_file(run):
    with pytest.raises(UsageError, match="use --format postgis"):
        export(run, "shp", "postgresql://li:geheim@h/db")
