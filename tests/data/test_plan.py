from __future__ import annotations

import datetime as dt

import geopandas as gpd
import pandas as pd
import pyproj
import pytest
import shapely
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tuban.data.class_system import class_system, class_system_names
from tuban.data.crs_guess import guess_crs
from tuban.data.plan import Plan, PlanLayer
from tuban.data.plan_dates import parse_date
from tuban.data.plan_table import jurisdictions, personal_fields, plan_table
from tuban.data.vector import VectorSettings
from tuban.errors import PlanError

CRS = "EPSG:4526"
EAST, NORTH = 38_500_000.0, 3_400_000.0


def square(x, y, size=100):
    return shapely.box(EAST + x, NORTH + y, EAST + x + size, NORTH + y + size)


def frame(n=3, **columns):
    return gpd.GeoDataFrame(
        {"BSM": [f"B{i}" for i in range(n)], **columns}, geometry=[square(200 * i, 0) for i in range(n)], crs=CRS
    )


def write_plan(folder, layers, **extra):
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"layers": layers, **extra}, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture
def gpkg(tmp_path):
    folder = tmp_path / "规划 数据"
    folder.mkdir()
    path = folder / "规划 图层.gpkg"
    frame(YJJBNTTBBH=["P1", "P2", "P3"]).to_file(path, layer="YJJBNTTB")
    frame(DLBM=["0101"] * 3, DLMC=["水田"] * 3, ZRRMC=["张三"] * 3).to_file(path, layer="DLTB")
    frame(PZWH=["文1", "文2", None], PZRQ=["2023-01-02", "20230103", ""], YXQZ=[None, "2025/1/3", "x"]).to_file(
        path, layer="permits"
    )
    return path


def test_yaml_with_relative_chinese_and_spaced_paths(gpkg):
    plan_file = write_plan(
        gpkg.parent,
        [
            {"role": "permanent_basic_farmland", "path": gpkg.name, "layer": "YJJBNTTB", "accuracy_m": 2.5},
            {"role": "land_use_baseline", "path": gpkg.name, "layer": "DLTB", "class_system": "cn-survey",
                "class_field": "DLBM"},
            {"role": "permit", "kind": "conversion", "path": gpkg.name, "layer": "permits",
             "valid_from": "PZRQ", "valid_to": "YXQZ", "number": "PZWH"},
        ],
        jurisdiction="cn",
    )  # fmt: skip
    plan = Plan.load(plan_file)
    farmland, baseline, permits = plan.layers
    assert (farmland.accuracy_m, farmland.accuracy_stated, baseline.accuracy_stated) == (2.5, True, False)
    assert any("accuracy_m not stated" in note for note in plan.notes)
    assert not any(str(plan_file.parent) in note for note in plan.notes)  # names, not places
    assert any("ZRRMC" in note for note in plan.notes)
    assert list(farmland.read()["plan_id"]) == ["P1", "P2", "P3"]
    got = permits.read()
    assert list(got["plan_from"]) == [dt.date(2023, 1, 2), dt.date(2023, 1, 3), None]
    assert list(got["plan_to"]) == [None, dt.date(2025, 1, 3), None]
    assert list(got["plan_number"]) == ["文1", "文2", ""]
    assert "ZRRMC" not in baseline.read().columns
    assert plan.of("permit", ("temporary",)) == ()


def test_box_and_crs(gpkg):
    layer = Plan.load(
        write_plan(gpkg.parent, [{"role": "land_use_baseline", "path": gpkg.name, "layer": "DLTB"}])
    ).layers[0]
    box = tuple(gpd.GeoSeries([square(190, 0)], crs=CRS).to_crs(4326).total_bounds)
    got = layer.read(bbox=box, crs="EPSG:4326")
    assert list(got["plan_id"]) == ["B1"]
    assert got.crs.to_epsg() == 4326
    assert len(layer.read(bbox=(0.0, 0.0, 0.1, 0.1), crs="EPSG:4326")) == 0


@pytest.mark.parametrize("form", ["gpkg", "gdb", "folder"])
def test_recognised_layer_names(tmp_path, form):
    path = tmp_path / {"gpkg": "plan.gpkg", "gdb": "plan.gdb", "folder": "shp"}[form]
    layers = {"YJJBNTTB": frame(), "STBHHX": frame(), "CZKFBJ": frame(), "DLTB": frame(DLBM=["0101"] * 3),
              "LSYD_XMZDFW": frame(PZWH=["a"] * 3, PZRQ=["20230101"] * 3), "XS_XMKJFW": frame()}  # fmt: skip
    if form == "folder":
        path.mkdir()
    for name, content in layers.items():
        if form == "folder":
            content.to_file(path / f"{name}.shp", encoding="GBK")
        else:
            content.to_file(path, layer=name, driver="OpenFileGDB" if form == "gdb" else "GPKG")
    plan = Plan.load(path)
    assert {(e.role, e.kind) for e in plan.layers} == {
        ("permanent_basic_farmland", None), ("ecological_red_line", None), ("urban_development_boundary", None),
        ("land_use_baseline", None), ("permit", "temporary"),
    }  # fmt: skip
    assert any("XS_XMKJFW" in note for note in plan.notes)
    assert plan.of("permit")[0].read()["plan_from"].iloc[0] == dt.date(2023, 1, 1)


def test_recognised_permit_layer_without_its_usual_fields(tmp_path):
    path = tmp_path / "plan.gpkg"
    frame().to_file(path, layer="ZZ_NYDZYFW")
    plan = Plan.load(path)
    assert plan.layers[0].valid_from is None
    assert sum("no valid_from column" in note or "no number column" in note for note in plan.notes) == 2


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers"),
        ([{"role": "x"}], r"layers\.0\.path"),
        ([{"role": "x", "path": "plan.gpkg", "acuracy_m": 1}], r"layers\.0\.acuracy_m.*known keys.*accuracy_m"),
        ([{"role": "x", "path": "plan.gpkg", "accuracy_m": -1}], r"layers\.0\.accuracy_m"),
        ([{"role": "permit", "path": "plan.gpkg"}], "needs a kind: one of conversion"),
        ([{"role": "permit", "kind": "royal", "path": "plan.gpkg"}], r"layers\.0\.kind"),
        ([{"role": "land_use_baseline", "path": "none.gpkg"}], "land_use_baseline.*no such file.*none.gpkg"),
        ([{"role": "land_use_baseline", "path": "plan.gpkg", "layer": "DLTB"}], "no layer 'DLTB'; it has a"),
        ([{"role": "land_use_baseline", "path": "plan.gpkg"}], "no column DLBM.*class_field"),
        ([{"role": "x", "path": "plan.gpkg", "class_field": "DLDM"}], "no column DLDM; it has BSM"),
        (
            [{"role": "x", "path": "plan.gpkg", "class_field": "BSM", "class_system": "us"}],
            "class_system 'us'.*cn-survey",
        ),
        ([{"role": "x", "path": "empty.gpkg"}], "has no features"),
    ],
)
def test_errors_name_file_key_and_remedy(tmp_path, layers, message):
    frame().to_file(tmp_path / "plan.gpkg", layer="a")
    frame().iloc[:0].to_file(tmp_path / "empty.gpkg")
    with pytest.raises(PlanError, match=message) as caught:
        Plan.load(write_plan(tmp_path, layers))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("layers: [", "YAML"), ("- a", "mapping"), ("jurisdiction: cn", "layers")]
)
def test_bad_yaml(tmp_path, text, message):
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PlanError, match=message):
        Plan.load(path)
    with pytest.raises(PlanError, match="no such plan"):
        Plan.load(tmp_path / "none.yaml")


def test_no_recognised_layer(tmp_path):
    frame().to_file(tmp_path / "a.gpkg", layer="parcels")
    with pytest.raises(PlanError, match=r"recognised name \(has parcels\).*DLTB"):
        Plan.load(tmp_path / "a.gpkg")


def test_crs_is_guessed_only_when_asked(tmp_path):
    frame().to_file(tmp_path / "a.shp")
    (tmp_path / "a.prj").unlink()
    spec = {"role": "zone", "path": "a.shp"}
    with pytest.raises(PlanError, match="guess_crs"):
        Plan.load(write_plan(tmp_path, [spec]))
    assert Plan.load(write_plan(tmp_path, [{**spec, "guess_crs": True}])).layers[0].crs.to_epsg() == 4526
    plan = Plan.load(write_plan(tmp_path, [spec]), settings=VectorSettings(guess_crs=True))
    assert any("EPSG:4526" in note for note in plan.notes)


def test_layer_in_memory_reads_like_a_file():
    layer = PlanLayer(role="zone", source=frame(), id_field="BSM")
    assert list(layer.read(bbox=(EAST + 150, NORTH, EAST + 250, NORTH + 1))["plan_id"]) == ["B1"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (20240229, dt.date(2024, 2, 29)), (20240229.0, dt.date(2024, 2, 29)), ("2024-02-29 12:00:00",
            dt.date(2024, 2, 29)),
        ("2024/2/9", dt.date(2024, 2, 9)), ("2024年2月9日", dt.date(2024, 2, 9)), (pd.Timestamp("2024-02-09"),
            dt.date(2024, 2, 9)),
        ("2023-02-29", None), ("", None), (None, None), (float("nan"), None), (pd.NaT, None), ("soon", None),
            ("2024", None),
        (2024, None), ("1202401", None),
    ],
)  # fmt: skip
def test_dates(value, expected):
    assert parse_date(value) == expected


@given(st.dates(min_value=dt.date(1900, 1, 1), max_value=dt.date(2100, 12, 31)))
def test_every_date_reads_back_in_every_form(date):
    for form in ("%Y%m%d", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y年%m月%d日"):
        assert parse_date(date.strftime(form)) == date
    assert parse_date(int(date.strftime("%Y%m%d"))) == date


def test_class_systems_disagree_where_the_law_does():
    assert {"cn-planning", "cn-survey"} <= set(class_system_names())
    survey, planning = class_system("cn-survey"), class_system("cn-planning")
    assert survey.pair_fits("0601", "工业用地")
    assert not survey.pair_fits("0601", "农村道路")
    assert survey.pair_fits("05", "商业服务业用地")
    assert planning.pair_fits("05", "湿地")
    assert not planning.pair_fits("05", "商服用地")
    assert survey.knows("1104A")
    assert not survey.knows("1104B")
    assert survey.name("0201K") == "果园"
    assert planning.name("0601") == "农业设施建设用地"


def test_any_role_and_kind_of_any_jurisdiction(tmp_path):
    """The core knows no country: without a table every role is free, and says what it is through its own fields."""
    frame(CODE=["A"] * 3).to_file(tmp_path / "plan.gpkg", layer="clu")
    layers = [
        {"role": "wetland_inventory", "path": "plan.gpkg", "layer": "clu", "id_field": "BSM"},
        {"role": "land_use_baseline", "path": "plan.gpkg", "layer": "clu"},
        {"role": "permit", "kind": "wetland_mitigation", "path": "plan.gpkg", "layer": "clu"},
    ]
    plan = Plan.load(write_plan(tmp_path, layers, jurisdiction="atlantis"))
    assert (plan.jurisdiction, plan.layers[0].role, plan.layers[2].kind) == (
        "atlantis", "wetland_inventory", "wetland_mitigation",
    )  # fmt: skip
    assert plan.layers[1].class_system is None  # nothing is usual there
    with pytest.raises(PlanError, match=r"layers\.0\.role"):
        Plan.load(write_plan(tmp_path, [{"role": "Wet Land", "path": "plan.gpkg"}], jurisdiction="us"))
    with pytest.raises(PlanError, match="needs a kind, such as"):
        Plan.load(write_plan(tmp_path, [{"role": "permit", "path": "plan.gpkg"}], jurisdiction="atlantis"))


def test_tables_of_jurisdictions_are_data():
    for name in jurisdictions():
        table = plan_table(name)
        assert set(table.exclusive_zones) <= set(table.roles)
        assert {entry.kind for entry in table.permit_layers.values()} <= set(table.permit_kinds)
        for role in table.roles.values():
            if role.class_system:
                class_system(role.class_system)
    assert {"ZRRMC", "ZRRZJHM", "LXDH", "JZDZ"} <= set(personal_fields())


@pytest.mark.parametrize("encoding", ["GBK", "GB18030", "UTF-8", None])
def test_a_folder_of_shapefiles_in_any_encoding(tmp_path, encoding):
    """GBK, GB18030, UTF-8, and GBK without a .cpg and without a code page in the header."""
    folder = tmp_path / "成果 数据"
    folder.mkdir()
    names = ["水田", "水浇地", "旱地"]
    path = folder / "DLTB.shp"
    frame(DLBM=["0101", "0102", "0103"], DLMC=names, ZRRMC=["张三"] * 3).to_file(path, encoding=encoding or "GBK")
    if encoding is None:
        path.with_suffix(".cpg").unlink()
        blob = bytearray(path.with_suffix(".dbf").read_bytes())
        blob[29] = 0
        path.with_suffix(".dbf").write_bytes(bytes(blob))
    got = Plan.load(folder).layers[0].read()
    assert list(got["plan_name"]) == names
    assert "ZRRMC" not in got.columns


@pytest.mark.parametrize("form", ["plan.gdb", "plan.gpkg", "plan.geojson", "plan.shp", "plan.fgb"])
def test_every_source_gives_the_same_features(tmp_path, form):
    path = tmp_path / form
    driver = {"plan.gdb": "OpenFileGDB"}.get(form)
    shapes = frame(DLBM=["0101"] * 3, DLMC=["水田"] * 3, ZRRMC=["张三"] * 3).to_crs(4490)
    shapes.to_file(path, driver=driver, **({"layer": "DLTB"} if path.suffix in {".gdb", ".gpkg"} else {}))
    spec = {"role": "land_use_baseline", "path": form, "guess_crs": True}
    layer = Plan.load(write_plan(tmp_path, [spec])).layers[0]
    got = layer.read()
    assert sorted(got["plan_id"]) == ["B0", "B1", "B2"]
    assert set(got["plan_name"]) == {"水田"}
    assert "ZRRMC" not in got.columns
    near = tuple(shapes.geometry.iloc[[1]].total_bounds)
    (part,) = layer.batches(near, 4490, columns=())
    assert list(part["plan_id"]) == ["B1"]
    assert "DLMC" in part.columns  # what the standard columns are made of is read, the rest is not
    assert "SHAPE_Area" not in part.columns


def test_guessed_zones_are_the_true_ones():
    for zone in range(25, 46):
        assert guessed(4513 + zone - 25) == 4513 + zone - 25
    for zone in range(13, 24):
        assert guessed(4491 + zone - 13) == 4491 + zone - 13
    for step in range(21):
        assert guessed(4534 + step, 75 + 3 * step) == 4534 + step
    assert guessed(4490) == 4490


def guessed(epsg, meridian=None):
    crs = pyproj.CRS.from_epsg(epsg)
    west, _, east, _ = crs.area_of_use.bounds
    middle = (west + east) / 2
    bounds = pyproj.Transformer.from_crs(4490, crs, always_xy=True).transform_bounds(middle, 30, middle + 0.1, 30.1)
    found, why = guess_crs(bounds, central_meridian=meridian, where="DLTB")
    assert f"EPSG:{found.to_epsg()}" in why
    return found.to_epsg()
