from __future__ import annotations

import datetime as dt
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tuban.data.class_system import class_system
from tuban.data.classes import classes
from tuban.errors import RulePackError
from tuban.postprocess.rule_examples import run_example
from tuban.postprocess.rulebook import lacking
from tuban.postprocess.rules import load_pack, pack_names

PACK = load_pack("cn")
PACKS = {name: load_pack(name) for name in pack_names()}
TEXT = files("tuban.configs").joinpath("rules", "cn.yaml").read_text(encoding="utf-8")
RAW = yaml.safe_load(TEXT)
# The rule table of the domain notes; Q1 is part of plan QA.
TABLE = {
    "P1",
    "P2",
    "P3",
    "F1",
    "F2",
    "F3",
    "F4",
    "F5",
    "F6",
    "F8",
    "F9",
    "F11",
    "T1",
    "T2",
    "E1",
    "E2",
    "U1",
    "B1",
    "X1",
}


@pytest.mark.parametrize("rule", [(n, i) for n, p in PACKS.items() for i in range(len(p.rules))],
                         ids=lambda key: f"{key[0]}-{PACKS[key[0]].rules[key[1]].id}-{key[1]}")  # fmt: skip
def test_worked_examples(rule):
    pack = PACKS[rule[0]]
    rule = pack.rules[rule[1]]
    assert len(rule.examples) >= 4
    problems = [r for e in rule.examples if (r := run_example(pack, rule, e)).problem]
    assert problems == []


@pytest.mark.parametrize("name", PACKS)
def test_each_rule_has_every_kind_of_example(name):
    assert lacking(PACKS[name]) == []
    assert len(PACKS[name].rules) >= 4
    short = PACK.model_copy(update={"rules": (PACK.rule("F1").model_copy(update={"examples": ()}),)})
    assert lacking(short) == ["F1 (from 1999-01-01): no example of kind hit, miss, permit, edge"]


def test_a_wrong_example_is_noticed():
    rule = PACK.rule("F1")
    hit = rule.examples[0]
    broken = hit.model_copy(update={"expect": hit.expect.model_copy(update={"overlap_m2": 9000.0})})
    assert "expected 9000" in run_example(PACK, rule, broken).problem
    flipped = hit.model_copy(update={"expect": hit.expect.model_copy(update={"status": "compliant", "severity": "S1"})})
    assert run_example(PACK, rule, flipped).problem == (
        "status suspected, expected compliant; severity S3, expected S1"
    )  # fmt: skip
    none = hit.model_copy(update={"expect": hit.expect.model_copy(update={"status": "none"})})
    assert "expected none" in run_example(PACK, rule, none).problem


def test_the_pack_holds_the_table_and_its_sources():
    assert {r.id for r in PACK.rules} == TABLE
    assert PACK.name == f"cn@{PACK.version}"
    assert PACK.unit.m2 == pytest.approx(2000 / 3)
    assert {PACKS[n].unit.name["en"] for n in ("eu", "br", "us")} == {"ha", "acre"}
    for pack in PACKS.values():
        assert all(rule.basis.zh and rule.basis.en for rule in pack.rules)
        assert pack.judgements
        assert pack.sha256
    for name in ("eu", "br", "us"):  # nothing of these is verified, and each basis says so
        assert all(r.basis.mark == "K" and "unverified" in r.basis.en for r in PACKS[name].rules)


def test_packs_share_no_role_but_the_neutral_ones():
    roles = {n: set(p.zones) - {"land_use_baseline", "watercourse"} for n, p in PACKS.items()}
    for (one, own), (other, others) in combinations(roles.items(), 2):
        assert not own & others, (one, other)


def test_no_code_path_names_a_country():
    """What is special to a jurisdiction is in its pack: no module names its roles, codes, fields or unit."""
    core = ("rule*", "check*", "predicates", "sheet", "reasons", "verdict", "totals", "history", "neighbours", "actors",
            "ridges", "underlay", "finding_rows", "replay", "permits")  # fmt: skip
    folder = Path(str(files("tuban.postprocess").joinpath("check.py"))).parent
    modules = sorted({path for name in core for path in folder.glob(f"{name}.py")})
    assert len(modules) > 20
    special = {"亩", "DLBM", "CGCS"}
    for name, pack in PACKS.items():
        special |= {f'"{name}"', pack.class_system, *(set(pack.zones) - {"land_use_baseline"}), *pack.code_groups}
        special |= {field for zone in pack.zones.values() for field in zone.fields}
        special |= {f'"{rule.id}"' for rule in pack.rules}
    found = [(m.name, word) for m in modules for word in special if word in m.read_text(encoding="utf-8")]
    assert found == []


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


@pytest.mark.parametrize("name", PACKS)
def test_every_code_group_matches_a_code(name):
    pack = PACKS[name]
    for system, groups in pack.code_groups.items():
        if class_system(system).prefix_length is not None:
            continue  # such a table lists the first level only
        for group in groups:
            assert any(pack.in_group(code, (group,), system) for code in class_system(system).classes), (system, group)


@given(st.dates(min_value=dt.date(1990, 1, 1), max_value=dt.date(2040, 1, 1)))
def test_in_force_is_the_interval(date):
    found = [rule.id for rule in PACK.in_force(date)]
    expected = [
        r["id"] for r in RAW["rules"]
        if r["effective_from"] <= date and (r.get("effective_to") is None or date <= r["effective_to"])
    ]  # fmt: skip
    assert found == (expected if date >= RAW["effective_from"] else [])
    assert len(set(found)) == len(found)


def test_versions_of_a_rule_follow_one_another():
    before, after = PACK.rule("P1", dt.date(2025, 9, 30)), PACK.rule("P1", dt.date(2025, 10, 1))
    assert before.effective_to == dt.date(2025, 9, 30)
    assert after.basis.zh != before.basis.zh
    assert PACK.rule("P1") == after
    with pytest.raises(RulePackError, match="not in force on 2020-01-01; it is from 2021-11-27"):
        PACK.rule("P3", dt.date(2020, 1, 1))


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
        ("    severity: S3\n    if_missing", "    severity: S9\n    if_missing", "severity: S9", "S1"),
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
        ("yields_to: [F4]", "yields_to: [F98]", "F98", "F1: no rule 'F98'"),
        ('village: "^0702"', 'village: "^(0702"', 'village: "^(0702"', "regular expression"),
        ("area_tolerance_m2: 6.67", "area_tolerance_m2: -1", "area_tolerance_m2: -1", "greater than or equal"),
        ("field: ZRBHDFQ", "field: ZRBH", "field: ZRBH,", "E1: no field of ecological_red_line 'ZRBH'; known: ZRBHDFQ"),
        ("kinds: [temporary], state: expired", "kinds: [temp], state: expired", "kinds: [temp],", "permit kind 'temp'"),
        ("uplift: {of: [P1,", "uplift: {of: [P1x,", "P1x", "B1: no rule 'P1x'"),
        ("conformity: urban_development_boundary", "conformity: city", "conformity: city", "no zone 'city'"),
        ("effective_to: 2025-09-30", "effective_to: 2025-10-31", "effective_from: 1999-01-01", "P1.*on the same days"),
    ],
)  # fmt: skip
def test_errors_give_file_line_and_remedy(tmp_path, old, new, marker, message):
    assert old in TEXT
    path = tmp_path / "规则 包.yaml"
    broken = TEXT.replace(old, new, 1)
    path.write_text(broken, encoding="utf-8")
    with pytest.raises(RulePackError, match=message) as caught:
        load_pack(path)
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in text
    assert str(path) in text
    if marker not in {"min_maping_unit_m2", "effective_from: 1999-01-01"}:
        assert f"{path}:{line_of(broken, marker)}:" in text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("when: {strip_m: 3}", "name them in when.zones"),
        ("uplift: {of: [R]}", "where it holds"),
        ("exempt: [{reason: {zh: a, en: b}}]", "names one of to, baseline, at"),
        ("severity_if: [{severity: S4}]", "names one of at, cluster"),
        ("when: {at: [{role: z, field: F}]}", "field and matches go together"),
        ("effective_to: 1999-01-01", "is before effective_from"),
        ("example_base: [1]", "example_base is a mapping"),
    ],
)
def test_rules_that_make_no_sense(tmp_path, rule, message):
    head = TEXT[: TEXT.index("rules:\n")].replace("zones:\n", "zones:\n  z: {title: {zh: z, en: z}, fields: [F]}\n", 1)
    path = tmp_path / "p.yaml"
    path.write_text(
        f"{head}rules:\n  - id: R\n    title: {{zh: r, en: r}}\n    effective_from: 2000-01-01\n    severity: S1\n"
        f"    basis: {{zh: b, en: b, mark: K}}\n    route: r\n    {rule}\n",
        encoding="utf-8",
    )
    with pytest.raises(RulePackError, match=message):
        load_pack(path)


@pytest.mark.parametrize(
    ("content", "message"), [("id: [", "not valid YAML"), ("- 1", "expected a mapping"), ("id: x", "Field required")]
)
def test_not_a_pack(tmp_path, content, message):
    path = tmp_path / "p.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RulePackError, match=message):
        load_pack(path)
    with pytest.raises(RulePackError, match="use one of br, cn"):
        load_pack("atlantis")
    with pytest.raises(RulePackError, match="no rule 'Z9'"):
        PACK.rule("Z9")


def test_every_class_of_the_construction_group_exists():
    assert PACK.classes(("construction",)) <= {entry.name for entry in classes().values()}
