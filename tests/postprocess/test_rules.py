from __future__ import annotations

import datetime as dt
from importlib.resources import files

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tuban.data.class_system import class_system
from tuban.data.classes import classes
from tuban.errors import RulePackError
from tuban.postprocess.rule_examples import run_example
from tuban.postprocess.rules import load_pack, pack_names

PACK = load_pack("cn")
TEXT = files("tuban.configs").joinpath("rules", "cn.yaml").read_text(encoding="utf-8")
RAW = yaml.safe_load(TEXT)


@pytest.mark.parametrize("rule", PACK.rules, ids=lambda rule: rule.id)
def test_worked_examples(rule):
    assert {e.kind for e in rule.examples} == {"hit", "miss", "permit", "edge"}
    problems = [r for e in rule.examples if (r := run_example(PACK, rule.id, e)).problem]
    assert problems == []


def test_a_wrong_example_is_noticed():
    rule = PACK.rule("F1")
    broken = rule.examples[0].model_copy(
        update={"expect": rule.examples[0].expect.model_copy(update={"overlap_m2": 9000.0})}
    )
    assert "expected 9000" in run_example(PACK, "F1", broken).problem
    flipped = rule.examples[0].model_copy(
        update={"expect": rule.examples[0].expect.model_copy(update={"status": "compliant"})}
    )
    assert "status suspected" in run_example(PACK, "F1", flipped).problem


def test_the_pack_holds_the_core_and_its_sources():
    assert pack_names() == ("cn",) or "cn" in pack_names()
    assert {"P1", "P2", "P3", "F1", "F2", "F3", "F6", "F8", "F11", "T1", "E1", "E2", "U1"} <= {r.id for r in PACK.rules}
    assert PACK.name == f"cn@{PACK.version}"
    assert PACK.unit.m2 == pytest.approx(2000 / 3)
    assert all(rule.basis.zh and rule.basis.en for rule in PACK.rules)


def test_code_groups_follow_the_survey_table():
    """The groups against the lists of the domain notes, written out by hand."""
    table = class_system("cn-survey")
    level_two = {code for code in table.classes if len(code) > 2}
    construction = {c for c in level_two if PACK.in_group(c, ("construction",), "cn-survey")}
    expected = {"05H1", "0508", "0601", "0602", "0701", "0702", "08H1", "08H2", "08H2A", "0809", "0810",
        "0810A", "1001", "1002",
                "1003", "1004", "1005", "1007", "1008", "1009", "1109", "1201"}  # fmt: skip
    assert construction - {"0603"} == expected
    farmland = {c for c in level_two if PACK.in_group(c, ("farmland",), "cn-survey")}
    assert farmland == {"0101", "0102", "0103"}
    assert PACK.in_group("0305K", ("agricultural",), "cn-survey")
    assert not PACK.in_group("0601", ("agricultural",), "cn-survey")
    # The same code means something else in the other system.
    assert PACK.in_group("0601", ("construction",), "cn-survey")
    assert not PACK.in_group("0601", ("construction",), "cn-planning")


@given(st.dates(min_value=dt.date(1990, 1, 1), max_value=dt.date(2040, 1, 1)))
def test_in_force_is_the_interval(date):
    ids = {rule.id for rule in PACK.in_force(date)}
    expected = {
        r["id"] for r in RAW["rules"]
        if r["effective_from"] <= date and (r.get("effective_to") is None or date <= r["effective_to"])
    }  # fmt: skip
    assert ids == expected


def test_a_rule_ends_after_its_last_day(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        TEXT.replace("effective_from: 2020-11-04", "effective_from: 2020-11-04\n    effective_to: 2024-01-31"),
        encoding="utf-8",
    )
    pack = load_pack(path)
    assert "F8" in {r.id for r in pack.in_force(dt.date(2024, 1, 31))}
    assert "F8" not in {r.id for r in pack.in_force(dt.date(2024, 2, 1))}


def line_of(text, needle):
    return next(i for i, line in enumerate(text.splitlines(), 1) if needle in line)


@pytest.mark.parametrize(
    ("old", "new", "marker", "message"),
    [
        ("severity: S3\n    if_missing", "severity: S9\n    if_missing", "severity: S9", "S1"),
        ("min_mapping_unit_m2:", "min_maping_unit_m2:", "min_maping_unit_m2", "min_maping_unit_m2|min_mapping_unit_m2"),
        ("to: [mining]}", "to: [minning]}", "minning", "minning.*building"),
        ("baseline: [village]", "baseline: [vilage]", "vilage", "U1: no code group 'vilage'.*village"),
        (
            "zones: [ecological_red_line], to: [construction]",
            "zones: [eco], to: [construction]",
            "zones: [eco]",
            "no zone 'eco'",
        ),
        ("excess_rule: F2", "excess_rule: F99", "F99", "F99"),
        ('village: "^0702"', 'village: "^(0702"', 'village: "^(0702"', "regular expression"),
        ("area_tolerance_m2: 6.67", "area_tolerance_m2: -1", "area_tolerance_m2: -1", "greater than or equal"),
    ],
)
def test_errors_give_file_line_and_remedy(tmp_path, old, new, marker, message):
    assert old in TEXT
    path = tmp_path / "规则 包.yaml"
    broken = TEXT.replace(old, new, 1)
    path.write_text(broken, encoding="utf-8")
    with pytest.raises(RulePackError, match=message) as caught:
        load_pack(path)
    text = str(caught.value)
    assert "\n" not in text
    if "min_maping" not in marker:
        assert f"{path}:{line_of(broken, marker)}:" in text


@pytest.mark.parametrize(
    ("content", "message"), [("id: [", "not valid YAML"), ("- 1", "expected a mapping"), ("id: x", "Field required")]
)
def test_not_a_pack(tmp_path, content, message):
    path = tmp_path / "p.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RulePackError, match=message):
        load_pack(path)
    with pytest.raises(RulePackError, match="use one of cn"):
        load_pack("atlantis")
    with pytest.raises(RulePackError, match="no rule 'Z9'"):
        PACK.rule("Z9")


def test_every_class_of_the_construction_group_exists():
    assert PACK.classes(("construction",)) <= {entry.name for entry in classes().values()}
