import json

import onnxruntime
import pyogrio
import pytest

from tuban.errors import ModelError
from tuban.postprocess import doctor
from tuban.postprocess.doctor import diagnose, healthy


def by_name(checks):
    return {check.name: check for check in checks}


def test_what_is_needed_works_here(tmp_path):
    checks = diagnose(tmp_path)
    rows = by_name(checks)
    assert len(rows) == len(checks)
    for name in ("python", "gdal", "driver GPKG", "driver COG", "proj", "onnxruntime", "disk"):
        assert rows[name].ok, rows[name]
    assert str(tmp_path) in rows["disk"].detail
    assert json.dumps([check.row() for check in checks])


def test_whatever_fails_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(pyogrio, "list_drivers", dict)
    monkeypatch.setattr(onnxruntime, "get_available_providers", list)
    monkeypatch.setattr(doctor, "installed", list)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "NEEDED_MB", 10**12)
    checks = diagnose(tmp_path)
    rows = by_name(checks)
    for name in ("driver GPKG", "driver OpenFileGDB", "onnxruntime", "torch", "models", "disk"):
        assert not rows[name].ok, name
        assert rows[name].remedy, name
    assert "tuban[train]" in rows["torch"].remedy
    assert not healthy(checks)
    assert all(check.remedy == "" for check in checks if check.ok)


def test_every_installed_backend_is_really_run():
    rows = {check.name: check for check in doctor._backends()}
    assert rows["onnxruntime"].detail.endswith("cpu: ran s2-change")
    for name in ("openvino", "torch"):
        there = doctor.find_spec(name) is not None
        assert rows[name].ok is there
        assert ("ran s2-change" if there else "not installed") in rows[name].detail
        assert not rows[name].required


def test_a_device_that_does_not_work_is_a_row_of_its_own(monkeypatch):
    """With a stand-in for a machine whose onnxruntime offers CUDA without a driver."""
    monkeypatch.setattr(doctor, "offered", lambda: ["cuda", "cpu"])
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    checks = list(doctor._backends())
    rows = {check.name: check for check in checks}
    assert rows["onnxruntime"].ok
    assert not rows["onnxruntime on cuda"].ok
    assert "device 'cuda' is not offered" in rows["onnxruntime on cuda"].detail
    assert healthy(checks)


def test_only_what_is_required_makes_it_unhealthy():
    assert healthy([doctor.Check("torch", ok=False, detail="", required=False)])
    assert not healthy([doctor.Check("proj", ok=False, detail="")])


def test_a_damaged_bundle_is_reported_not_raised(tmp_path, monkeypatch):
    def broken():
        raise ModelError("bundle x: weights differ")

    monkeypatch.setattr(doctor, "installed", broken)
    row = by_name(diagnose(tmp_path))["models"]
    assert (row.ok, row.detail) == (False, "bundle x: weights differ")


def test_a_folder_that_does_not_exist_is_reported(tmp_path):
    row = by_name(diagnose(tmp_path / "nowhere"))["disk"]
    assert not row.ok
    assert "nowhere" in row.detail


@pytest.mark.parametrize(("version", "ok"), [("0.1", True), ("99", False)])
def test_extras_are_judged_by_versions(monkeypatch, version, ok):
    monkeypatch.setattr(doctor, "requires", lambda name: [f"spyndex>={version}; extra == 'demo'", "numpy>=2"])
    (row,) = doctor._extras()
    assert (row.name, row.ok) == ("extra demo", ok)
    assert ("spyndex" in row.detail) is not ok
