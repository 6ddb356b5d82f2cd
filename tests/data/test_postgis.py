# ruff: noqa: S105, S608 - statements and the password of the throw-away server of tests/postgis_server.py
from __future__ import annotations

import datetime as dt
import logging

import numpy as np
import pytest
import shapely
import yaml

from tuban.data.plan import Plan
from tuban.data.postgis import is_database, open_table
from tuban.data.vector import VectorSettings
from tuban.errors import PlanError, VectorError

PASSWORD = "s3cret 口令@/:%"
EAST, NORTH = 38_500_000, 3_400_000


def square(x, y=0, size=100):
    return f"POLYGON(({', '.join(f'{EAST + x + i} {NORTH + y + j}' for i, j in _corners(size))}))"


def _corners(size):
    return (0, 0), (size, 0), (size, size), (0, size), (0, 0)


@pytest.fixture
def land(postgis):
    postgis.execute(
        'CREATE SCHEMA "规划"',
        'CREATE TABLE "规划"."DLTB" (gid bigint PRIMARY KEY, "BSM" text, "DLBM" varchar(5), "DLMC" text, "TBMJ" numeric'
        '(15,2), "50%" text, "ZRRMC" text, "PZRQ" date, geom geometry(MultiPolygon, 4526))',
    )
    for i in range(7):
        postgis.execute(
            f"INSERT INTO \"规划\".\"DLTB\" VALUES ({i + 10}, 'B{i}', '0101', '水田', {10000 + i}.5, 'x', '张三', "
            f"{'NULL' if i == 1 else repr('infinity') if i == 2 else repr('2023-01-02')}, "
            f"ST_Multi(ST_GeomFromText('{square(200 * i)}', 4526)))"
        )
    return postgis


def plan_file(folder, *layers):
    path = folder / "plan.yaml"
    path.write_text(
        yaml.safe_dump({"jurisdiction": "cn", "layers": list(layers)}, allow_unicode=True), encoding="utf-8"
    )
    return path


def test_addresses():
    assert is_database("postgres://a/b")
    assert not is_database("postgresql.gpkg")


def test_a_plan_layer_in_postgis(land, tmp_path):
    spec = {"role": "land_use_baseline", "path": land.url, "layer": "规划.DLTB", "valid_from": "PZRQ"}
    plan = Plan.load(plan_file(tmp_path, spec), settings=VectorSettings(batch_size=3))
    layer = plan.layers[0]
    assert layer.crs.to_epsg() == 4526
    assert (layer.class_field, layer.id_field, layer.class_system) == ("DLBM", "BSM", "cn-survey")
    batches = list(layer.batches())
    assert [len(batch) for batch in batches] == [3, 3, 1]
    whole = layer.read()
    assert list(whole["plan_id"]) == [f"B{i}" for i in range(7)]
    assert list(whole.index) == list(range(10, 17))
    assert list(whole["DLMC"]) == ["水田"] * 7
    assert whole["TBMJ"].tolist() == [10000.5 + i for i in range(7)]
    assert list(whole["plan_from"])[:4] == [dt.date(2023, 1, 2), None, None, dt.date(2023, 1, 2)]
    assert list(whole["50%"]) == ["x"] * 7
    assert whole.geometry.iloc[3].equals(shapely.from_wkt(square(600)))


def test_only_what_a_box_needs_is_read(land):
    layer = open_table(land.url, "规划.DLTB")
    near = (EAST + 190, NORTH, EAST + 450, NORTH + 50)
    got = list(layer.batches(bbox=near, columns=("BSM",)))
    assert [list(frame["BSM"]) for frame in got] == [["B1", "B2"]]
    assert set(got[0].columns) == {"BSM", "geometry"}
    assert not list(layer.batches(bbox=(0.0, 0.0, 1.0, 1.0)))


def test_personal_fields_are_never_asked_for(land):
    layer = open_table(land.url, "规划.DLTB")
    assert layer.dropped == ("ZRRMC",)
    query, _ = layer.table.select(layer.columns, None)
    assert b"ZRRMC" not in query
    # The server itself can tell: without the right to read the column everything still works.
    land.execute(
        "REVOKE pg_read_all_data FROM inspector", 'GRANT USAGE ON SCHEMA "规划" TO inspector',
        'GRANT SELECT (gid, "BSM", "DLBM", "DLMC", "TBMJ", "50%", "PZRQ", geom) ON "规划"."DLTB" TO inspector',
    )  # fmt: skip
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGPASSWORD", PASSWORD)
            got = list(open_table(land.inspector_url, "规划.DLTB").batches())
        assert sum(len(frame) for frame in got) == 7
    finally:
        land.execute("GRANT pg_read_all_data TO inspector")


def test_password_comes_from_the_environment_or_a_file_and_stays_secret(land, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(VectorError, match=r"cannot connect.*PGPASSWORD") as caught:
        open_table(land.inspector_url, "规划.DLTB")
    passfile = tmp_path / "pass file"
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    passfile.write_text(f"*:*:*:inspector:{escaped}\n", encoding="utf-8")
    passfile.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSFILE", str(passfile))
        assert open_table(land.inspector_url, "规划.DLTB").features == 7
    service = tmp_path / "service.conf"
    service.write_text(
        f"[land]\nhost={land.server.socket}\nuser=inspector\ndbname={land.name}\npassword={PASSWORD}\n",
        encoding="utf-8",
    )
    with monkeypatch.context() as patch:
        patch.setenv("PGSERVICEFILE", str(service))
        assert open_table("postgresql://?service=land", "规划.DLTB").features == 7
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    spec = {"role": "land_use_baseline", "path": land.inspector_url, "layer": "规划.DLTB"}
    plan = Plan.load(plan_file(tmp_path, spec))
    said = f"{plan!r} {plan.notes} {plan.layers[0].path} {caught.value} {caplog.text}"
    assert "s3cret" not in said
    assert not any(str(land.server.socket) in note for note in plan.notes)  # notes do not say where it lies


@pytest.mark.parametrize("secret", ["postgresql://me:hunter2@host/db", "postgresql://me@host/db?password=hunter2"])
def test_a_password_in_the_plan_is_refused_and_not_repeated(tmp_path, secret):
    pytest.importorskip("psycopg")
    with pytest.raises(PlanError, match=r"password.*PGPASSWORD") as caught:
        Plan.load(plan_file(tmp_path, {"role": "zone", "path": secret, "layer": "t"}))
    assert "hunter2" not in str(caught.value)


def test_errors_say_what_and_how(land, tmp_path):
    land.execute(
        "CREATE TABLE plain (a int)",
        "CREATE TABLE points (id int PRIMARY KEY, geom geometry(Point, 4326))",
        "CREATE TABLE nothing (id int PRIMARY KEY, geom geometry(Polygon, 4526))",
        "CREATE TABLE unplaced (id int PRIMARY KEY, geom geometry)",
        f"INSERT INTO unplaced VALUES (1, ST_GeomFromText('{square(0)}'))",
        "CREATE TABLE mixed (id int PRIMARY KEY, geom geometry)",
        f"INSERT INTO mixed SELECT s, ST_GeomFromText('{square(0)}', s) FROM (VALUES (4526), (4527)) AS t (s)",
        "CREATE TABLE two (id int PRIMARY KEY, a geometry(Polygon, 4526), b geometry(Polygon, 4526))",
        'CREATE VIEW seen AS SELECT "BSM", geom FROM "规划"."DLTB"',
    )
    for layer, message in (
        ("gone", r"no table 'gone'; it has .*规划\.DLTB"),
        ("plain", "no geometry column"),
        ("points", "holds Point; a plan needs polygons"),
        ("nothing", "has no features"),
        ("unplaced", r"has no CRS; SELECT UpdateGeometrySRID.*guess_crs"),
        ("mixed", "mixes the SRIDs 4526, 4527"),
        ("two", r"may be any of public\.two\.a, public\.two\.b"),
        ("seen", r"no key.*id_field \(it has BSM\)"),
        (None, "layer: schema.table"),
    ):
        with pytest.raises(VectorError, match=message) as caught:
            open_table(land.url, layer)
        assert "\n" not in str(caught.value)
    guessed = open_table(land.url, "unplaced", settings=VectorSettings(guess_crs=True))
    assert guessed.crs.to_epsg() == 4526
    assert any("EPSG:4526" in note for note in guessed.notes)
    assert [len(f) for f in open_table(land.url, "seen", id_field="BSM").batches()] == [7]
    with pytest.raises(VectorError, match="cannot connect"):
        open_table("postgresql://nobody@127.0.0.1:9/none?connect_timeout=2", "a")
    with pytest.raises(VectorError, match=r"not understood; give postgresql://"):
        open_table("postgresql://host/db?no_such_option=1", "a")


def test_no_postgis_in_the_database(postgis_server):
    from urllib.parse import quote

    url = f"postgresql://postgres@/postgres?host={quote(str(postgis_server.socket), safe='')}"
    with pytest.raises(VectorError, match="CREATE EXTENSION postgis"):
        open_table(url, "DLTB")


def test_hostile_geometry_is_mended_and_counted(postgis):
    ring = f"({EAST} {NORTH}, {EAST + 9} {NORTH + 9}, {EAST + 9} {NORTH}, {EAST} {NORTH + 9}, {EAST} {NORTH})"
    curve = f"CURVEPOLYGON(CIRCULARSTRING({EAST} {NORTH}, {EAST + 5} {NORTH + 5}, {EAST + 10} {NORTH}, {EAST + 5} "
    postgis.execute(
        "CREATE TABLE z (geom geometry)",
        f"INSERT INTO z VALUES (ST_GeomFromText('POLYGON({ring})', 4526))",
        f"INSERT INTO z VALUES (ST_GeomFromText('{curve}{NORTH - 5}, {EAST} {NORTH}))', 4526))",
        f"INSERT INTO z VALUES (ST_Force4D(ST_GeomFromText('{square(0)}', 4526))), (NULL)",
        f"INSERT INTO z VALUES (ST_GeomFromText('LINESTRING({EAST} {NORTH}, {EAST + 1} {NORTH})', 4526))",
        f"INSERT INTO z VALUES (ST_GeomFromText('GEOMETRYCOLLECTION(POINT({EAST} {NORTH}), {square(0)})', 4526))",
        "INSERT INTO z VALUES (ST_GeomFromText('POLYGON EMPTY', 4526))",
    )
    layer = open_table(postgis.url, "z")
    from tuban.data.geometry_repair import RepairCounts

    counts = RepairCounts()
    frame = next(iter(layer.batches(counts=counts)))
    assert len(frame) == 4
    assert frame.index.is_unique  # rows without a key are known by their place
    assert shapely.is_valid(np.asarray(frame.geometry)).all()
    assert (counts.read, counts.empty, counts.invalid, counts.curved, counts.dropped_z, counts.not_polygonal) == (
        7, 2, 1, 1, 1, 1,
    )  # fmt: skip
    assert frame.area.max() == pytest.approx(10000)
    assert frame.area.iloc[1] == pytest.approx(np.pi * 25, rel=1e-2)


def test_the_digest_follows_the_content_and_not_the_order(land):
    before = open_table(land.url, "规划.DLTB").digest
    land.execute('UPDATE "规划"."DLTB" SET "ZRRMC" = \'李四\' WHERE gid = 10')  # rewrites the row: another order
    assert open_table(land.url, "规划.DLTB").digest == before
    land.execute('UPDATE "规划"."DLTB" SET "DLBM" = \'0103\' WHERE gid = 10')
    assert open_table(land.url, "规划.DLTB").digest != before
