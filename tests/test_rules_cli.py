from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from tuban.errors import RulePackError, TubanError, UsageError
from tuban.postprocess.rules import load_pack, pack_names
from tuban.rules_cli import rules_app

RUNNER = CliRunner()
SMALL = """
id: tiny
version: "1"
jurisdiction: nowhere
title: {zh: 小, en: tiny}
effective_from: 2000-01-01
class_system: us-nlcd
unit: {name: {zh: 公顷, en: ha}, m2: 10000}
area_tolerance_m2: 10
class_groups: {built: [building, road]}
code_groups: {us-nlcd: {farmland: "^82"}}
zones: {park: {title: {zh: 公园, en: park}}}
permits: {licence: {title: {zh: 许可, en: licence}}}
min_mapping_unit_m2: {other: 100}
rules:
  - id: R1
    title: {zh: 公园内建设, en: construction in a park}
    effective_from: 2010-01-01
    when: {zones: [park], to: [built]}
    permits: [licence]
    severity: S2
    basis: {zh: 未核实, en: unverified, mark: K}
    route: ranger
    example_base: {to: building, date: 2020-01-01, zones: {park: [{box: [0, 0, 500, 500]}]}}
    examples:
      - {name: inside, kind: hit, expect: {status: suspected, overlap_m2: 10000}}
"""


def call(*arguments, code=0):
    result = RUNNER.invoke(rules_app, [str(a) for a in arguments])
    if code == 0:
        assert result.exception is None, result.output
    return result


@pytest.fixture
def pack(tmp_path):
    path = tmp_path / "小 包.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def test_list_names_every_pack_and_rule():
    found = json.loads(call("list", "--json").stdout)["packs"]
    assert [p["pack"] for p in found] == list(pack_names())
    for row in found:
        assert [r["id"] for r in row["rules"]] == [r.id for r in load_pack(row["pack"]).rules]
    text = call("list", "--rules", "cn", "--date", "2026-01-01", "--lang", "en").stdout
    assert text.count("\n  P1 ") == 1
    assert "2025-10-01~" in text
    assert "permanent basic farmland to construction" in text


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize(("name", "rule"), [(n, i) for n in pack_names() for i in {r.id for r in load_pack(n).rules}])
def test_every_rule_can_be_explained(name, rule, lang):
    text = call("explain", rule, "--rules", name, "--lang", lang).stdout
    loaded = load_pack(name).rule(rule)
    for said in (
        loaded.basis.zh if lang == "zh" else loaded.basis.en,
        loaded.route,
        *(e.name for e in loaded.examples),
    ):
        assert said in text
    assert "{" not in text.split("examples" if lang == "en" else "示例")[0]


def test_explain_gives_thresholds_dates_and_what_is_needed():
    found = json.loads(call("explain", "F1", "--lang", "en", "--json").stdout)
    assert any("6.67 m2 (0.01 mu)" in line for line in found["thresholds"])
    assert any("land_use_baseline" in line and "undetermined" in line for line in found["needs"])
    assert any("F4 does not judge it" in line for line in found["predicate"])
    old = json.loads(call("explain", "P1", "--date", "2024-01-01", "--json").stdout)
    assert old["effective_to"] == "2025-09-30"
    assert len(old["versions"]) == 2
    lead = json.loads(call("explain", "X1", "--lang", "en", "--json").stdout)
    assert "6666.67 m2 (10 mu)" in lead["predicate"][1]


def test_a_pack_whose_examples_hold(pack):
    found = json.loads(call("test", pack, "--json").stdout)
    assert (found["examples"], found["failures"]) == (1, [])
    assert found["lacking"] == ["R1 (from 2010-01-01): no example of kind miss, permit, edge"]


def test_a_failing_example_is_exit_1_and_named(pack):
    pack.write_text(SMALL.replace("overlap_m2: 10000", "overlap_m2: 9000"), encoding="utf-8")
    result = call("test", pack, code=1)
    assert isinstance(result.exception, TubanError)
    assert result.exception.exit_code == 1
    assert re.search(r"R1 hit 'inside': overlap_m2 (9999|10000)[.\d]*, expected 9000", result.stdout)


def test_a_broken_pack_is_exit_2_with_file_and_line(pack):
    pack.write_text(SMALL.replace("zones: [park]", "zones: [parc]"), encoding="utf-8")
    result = call("test", pack, code=2)
    assert isinstance(result.exception, RulePackError)
    assert result.exception.exit_code == 2
    line = SMALL.splitlines().index("    when: {zones: [park], to: [built]}") + 1
    assert f"{pack}:{line}: " in str(result.exception)
    assert "park" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("explain", "F1", "--date", "yesterday"), "YYYY-MM-DD"),
        (("explain", "F1", "--lang", "fr"), "zh or en"),
        (("explain", "F7"), "no rule 'F7'; it has P1"),
        (("list", "--rules", "atlantis"), "use one of br, cn, eu, us"),
    ],
)
def test_wrong_usage_is_exit_2(arguments, message):
    error = call(*arguments, code=2).exception
    assert isinstance(error, UsageError | RulePackError)
    assert error.exit_code == 2
    assert message in str(error)
