from __future__ import annotations

import json
import shutil

import pytest

from tuban.postprocess.evidence import reopened
from tuban.postprocess.export import export


@pytest.fixture
def copy(earlier_run, small_folder, tmp_path):
    """The finished run and its inputs, which may be damaged here."""
    shutil.copytree(earlier_run, tmp_path / "run")
    shutil.copytree(small_folder / "in", tmp_path / "in")
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    paths = record["volatile"]["paths"]
    record["volatile"]["paths"] = {k: v.replace(str(small_folder), str(tmp_path)) for k, v in paths.items()}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path


def test_pictures_come_back_from_the_runs_own_inputs(copy):
    result = export(copy / "run", "html", copy / "again.html")
    text = result.path.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg") >= 3
    assert 'class="plain"' in text
    # The cards are those of the run's own report: same pixels, same settings, same pictures.
    own = (copy / "run" / "report.html").read_text(encoding="utf-8")
    pictures = {part.split('"')[0] for part in text.split('href="data:')[1:]}
    assert pictures == {part.split('"')[0] for part in own.split('href="data:')[1:]}


def test_changed_input_gives_no_pictures_and_says_so(copy):
    path = copy / "in" / "after.tif"
    path.write_bytes(path.read_bytes() + b"\0")
    result = export(copy / "run", "html", copy / "again.html")
    assert "no before/after pictures: after (after.tif) is not as it was during the run" in result.notes
    text = result.path.read_text(encoding="utf-8")
    assert "data:image" not in text
    assert 'class="plain"' in text  # the plan is as it was


def test_missing_plan_and_remote_images_are_said(copy):
    (copy / "in" / "plan.gpkg").unlink()
    record = json.loads((copy / "run" / "run.json").read_text(encoding="utf-8"))
    for entry in record["inputs"]:
        if entry["role"] == "before":
            entry.pop("sha256")
    with reopened(record, copy / "run") as evidence:
        assert evidence.pair is None
        assert evidence.zones == ()
        said = "\n".join(evidence.notes)
    assert "before (before.tif) is remote" in said
    assert "no overlay figures: plan (plan.gpkg) is not where it was" in said


def test_settings_that_no_longer_fit_are_said(copy):
    record = json.loads((copy / "run" / "run.json").read_text(encoding="utf-8"))
    record["parameters"]["settings"]["pair"] = {"unknown": 1}
    with reopened(record, copy / "run") as evidence:
        assert evidence.pair is None
        assert "cannot be opened again" in evidence.notes[0]


def test_no_pictures_when_none_are_asked_for(copy):
    result = export(copy / "run", "html", copy / "again.html", pictures=False)
    assert "data:image" not in result.path.read_text(encoding="utf-8")
