from __future__ import annotations

import re
from importlib.resources import files

import pytest
import yaml

from tuban.postprocess.phrases import translated
from tuban.postprocess.report import write_report

TABLE = yaml.safe_load(files("tuban.configs").joinpath("notes.zh.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("note", TABLE)
def test_every_pattern_is_filled_with_every_value(note):
    values = [f"值{number}" for number in range(note.count("{}"))]
    got, known = translated(note.format(*values), "zh")
    assert known
    assert sorted(re.findall(r"值\d+", got)) == sorted(values)
    assert re.search("[\u4e00-\u9fff]", TABLE[note])


def test_english_stays_and_the_unknown_is_said(tmp_path):
    assert translated("both scenes have the date 2025-03-15", "en")[0].startswith("both")
    run = {"versions": {}, "inputs": [], "notes": [{"stage": "pair", "text": "both scenes have the date 2025-03-15"}]}
    write_report(tmp_path / "known.html", run=run, findings=[])
    assert "部分注意事项" not in (tmp_path / "known.html").read_text(encoding="utf-8")
    assert "两期影像日期相同：2025-03-15" in (tmp_path / "known.html").read_text(encoding="utf-8")
    run["notes"].append({"stage": "pair", "text": "something new"})
    write_report(tmp_path / "new.html", run=run, findings=[])
    text = (tmp_path / "new.html").read_text(encoding="utf-8")
    assert "something new" in text
    assert "部分注意事项" in text


def test_notes_of_a_real_run_are_translated(earlier_run):
    import json

    record = json.loads((earlier_run / "run.json").read_text(encoding="utf-8"))
    assert [note["text"] for note in record["notes"] if not translated(note["text"], "zh")[1]] == []
