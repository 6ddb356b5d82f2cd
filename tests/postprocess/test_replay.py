"""Verdicts again from the record of a run, and rows again from its inputs."""

from __future__ import annotations

import datetime as dt
import json

import geopandas as gpd
import pytest
from check_factory import CRS, PACK, box, changes, past

from tuban.errors import RulePackError, VectorError
from tuban.postprocess.check_context import CheckSettings
from tuban.postprocess.layers import iter_layer
from tuban.postprocess.replay import judge_again, replay
from tuban.postprocess.vector_check import VectorCheckSettings, check


def frame(*shapes, **columns):
    return gpd.GeoDataFrame({"BSM": [f"z{i}" for i in range(len(shapes))], **columns}, geometry=list(shapes), crs=CRS)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Changes, plan and earlier findings on disk, and a run over them."""
    root = tmp_path_factory.mktemp("job")
    shapes = [box(200 * i, 0, 200 * i + 90, 90) for i in range(10)]
    kinds = ["building", "road", "tree", "pond", "facility_agri", "mining", "bare_or_disturbed", "water", "building",
             "plastic_greenhouse"]  # fmt: skip
    given = changes(*shapes).assign(to_class=kinds, actor=["a", "b"] * 5, confidence=[0.9, 0.2] * 5)
    given.to_file(root / "changes.gpkg")
    plan = root / "plan.gpkg"
    frame(box(0, 0, 450, 40)).to_file(plan, layer="YJJBNTTB")
    frame(box(1500, 50, 1700, 80)).to_file(plan, layer="STBHHX")
    frame(box(700, 0, 1650, 500)).to_file(plan, layer="CZKFBJ")
    farm = frame(box(-500, -500, 1200, 1000), box(1200, -500, 3000, 1000), DLBM=["0101", "0103"], KCXS=[0.1, None])
    farm.to_file(plan, layer="DLTB")
    frame(box(0, 0, 45, 90), PZWH=["1号"], PZRQ=["2023-01-01"]).to_file(plan, layer="ZZ_NYDZYFW")
    past(box(0, 500, 90, 590), net=5000.0, actor="a").source.to_file(root / "past.gpkg", layer="findings")
    settings = VectorCheckSettings(check=CheckSettings(min_confidence=0.5, history=root / "past.gpkg"))
    run = check(root / "changes.gpkg", plan=plan, out=root / "out", date=dt.date(2024, 6, 30), settings=settings)
    return root, run


def findings(folder):
    return [r for f in iter_layer(folder / "findings.gpkg", "findings") for r in f.to_dict("records")]


def test_the_run_names_its_pack_by_hash(job):
    _, run = job
    assert run["rule_pack"]["sha256"] == PACK.sha256
    assert f"{run['rule_pack']['id']}@{run['rule_pack']['version']}" == PACK.name
    assert run["check"]["judged_on"] == "2024-06-30"
    assert any(entry["role"] == "history" for entry in run["inputs"])


def test_every_verdict_replays_from_the_record(job):
    root, run = job
    result = replay(root / "out")
    assert result.rows == run["layers"]["findings"] > 20
    assert result.differences == []
    statuses = {r["status"] for r in findings(root / "out")}
    assert statuses >= {"suspected", "inconclusive", "permitted", "compliant"}
    assert {r["rule_id"] for r in findings(root / "out")} >= {"P1", "F1", "F2", "X1", "U1", "E1"}


def test_every_row_is_reproduced_from_the_recorded_parameters(job, tmp_path):
    root, _ = job
    record = json.loads((root / "out" / "run.json").read_text(encoding="utf-8"))
    parameters = record["parameters"]
    # The record names inputs, not where they lie.
    assert parameters["settings"]["check"]["history"] == "past.gpkg"
    parameters["settings"]["check"]["history"] = root / "past.gpkg"
    check(root / "changes.gpkg", plan=root / "plan.gpkg", out=tmp_path / "again", rules=parameters["rules"],
          date=dt.date.fromisoformat(parameters["date"]),
          settings=VectorCheckSettings.model_validate(parameters["settings"]))  # fmt: skip
    first, again = findings(root / "out"), findings(tmp_path / "again")
    assert str(first) == str(again)


def test_a_changed_verdict_is_found(job):
    root, _ = job
    row = next(r for r in findings(root / "out") if r["rule_id"] == "F1" and r["status"] == "suspected")
    trace = json.loads(row["trace"])
    assert judge_again(trace, PACK, 0.5)["status"] == "suspected"
    trace["areas_m2"]["net_min"] = 0.0
    assert judge_again(trace, PACK, 0.5) == {"status": "inconclusive", "severity": row["severity"], "doubt": "position"}
    trace["confidence"] = 0.4
    assert judge_again(trace, PACK, 0.5)["doubt"] == "position;confidence"
    trace["missing"] = ["land_use_baseline"]
    assert judge_again(trace, PACK, 0.5)["status"] == "undetermined"


def test_another_pack_is_refused(job, tmp_path):
    from importlib.resources import files

    root, _ = job
    other = tmp_path / "cn.yaml"
    text = files("tuban.configs").joinpath("rules", "cn.yaml").read_text(encoding="utf-8")
    other.write_text(text.replace("area_tolerance_m2: 6.67", "area_tolerance_m2: 8"), encoding="utf-8")
    with pytest.raises(RulePackError, match="is not the pack of the run"):
        replay(root / "out", other)
    with pytest.raises(VectorError, match="no such record"):
        replay(tmp_path)


def test_doubts_of_position_and_model_stand_apart(job):
    root, _ = job
    rows = findings(root / "out")
    unsure = [r for r in rows if "confidence" in r["doubt"]]
    assert unsure
    for row in unsure:
        assert row["status"] == "inconclusive"
        assert "doubt of the model: confidence 0.20 below 0.50" in row["reason"]
        assert ("doubt of the sum" in row["reason"]) == ("sum" in row["doubt"])
        assert ("doubt of position" in row["reason"]) == ("position" in row["doubt"])
