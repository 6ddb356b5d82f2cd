from __future__ import annotations

import datetime as dt
import hashlib
import http.server
import json
import subprocess
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import BaseModel

from tuban.errors import OutputError, UsageError
from tuban.postprocess.fingerprint import fingerprint
from tuban.postprocess.manifest import Manifest, digest, verify

if TYPE_CHECKING:
    from pathlib import Path


def run_in(folder: Path, image: Path, text: str = "layer") -> Path:
    folder.mkdir(parents=True)
    (folder / "findings.gpkg").write_text(text)
    manifest = Manifest("detect", {"rules": "cn", "plan": folder / "plan.yaml"})
    manifest.add_input("before", image)
    manifest.set("pair", {"registration": {"dx_px": np.float32(0.5), "residual_px": float("nan")}})
    manifest.note("pair", "date unknown")
    with manifest.timed("inference"):
        pass
    manifest.add_output(folder / "findings.gpkg")
    return manifest.write(folder)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "前 时相.tif"
    path.write_bytes(b"pixels")
    return path


def test_record_holds_what_the_contract_lists(tmp_path, image):
    record = json.loads(run_in(tmp_path / "out", image).read_text(encoding="utf-8"))
    assert record["inputs"][0]["sha256"] == hashlib.sha256(b"pixels").hexdigest()
    assert record["inputs"][0]["name"] == image.name
    assert record["outputs"] == [
        {"name": "findings.gpkg", "sha256": hashlib.sha256(b"layer").hexdigest(), "size": 5, "files": 1}
    ]
    assert record["parameters"] == {"rules": "cn", "plan": "plan.yaml"}
    assert record["pair"]["registration"] == {"dx_px": 0.5, "residual_px": None}
    assert {"tuban", "python", "numpy", "gdal_raster"} <= set(record["versions"])
    assert set(record["volatile"]) == {"started", "seconds", "seconds_total", "host", "paths"}


def test_equal_runs_have_equal_content(tmp_path, image):
    first, second = (json.loads(run_in(tmp_path / name, image).read_text(encoding="utf-8")) for name in ("a", "深 b/c"))
    assert first["content_sha256"] == second["content_sha256"] == digest(second)
    assert first["volatile"] != second["volatile"]
    other = json.loads(run_in(tmp_path / "d", image, "other").read_text(encoding="utf-8"))
    assert other["content_sha256"] != first["content_sha256"]


def test_untouched_run_verifies(tmp_path, image):
    run_in(tmp_path / "out", image)
    result = verify(tmp_path / "out")
    assert result.ok
    assert result.checked == 4
    assert result.differences == ()


@pytest.mark.parametrize("key", ["content", "volatile"])
def test_edit_of_the_record_is_found(tmp_path, image, key):
    path = run_in(tmp_path / "out", image)
    record = json.loads(path.read_text(encoding="utf-8"))
    if key == "content":
        record["pair"]["registration"]["dx_px"] = 0.0
    else:
        record["volatile"]["seconds"]["inference"] = 99
    path.write_text(json.dumps(record), encoding="utf-8")
    kinds = [difference.kind for difference in verify(path).differences]
    assert kinds == (["edited", "edited"] if key == "content" else ["edited"])


def test_changed_and_missing_files_are_listed(tmp_path, image):
    run_in(tmp_path / "out", image)
    (tmp_path / "out" / "findings.gpkg").write_text("Layer")
    image.unlink()
    found = {(difference.kind, difference.name) for difference in verify(tmp_path / "out").differences}
    assert found == {("changed", "output findings.gpkg"), ("missing", f"input before ({image.name})")}


def test_moved_run_still_verifies_its_outputs(tmp_path, image):
    run_in(tmp_path / "out", image)
    (tmp_path / "out").rename(tmp_path / "moved")
    assert verify(tmp_path / "moved").ok


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "tuban-run/1"}'])
def test_what_is_no_run_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError):
        verify(tmp_path)
    with pytest.raises(UsageError, match="no run at"):
        verify(tmp_path / "nowhere")


def test_values_take_json_form(tmp_path):
    class Settings(BaseModel):
        size: int = 3
        day: dt.date = dt.date(2026, 1, 2)

    manifest = Manifest("detect", {"settings": Settings(), "names": {"b", "a"}, "array": np.arange(2)})
    assert manifest.content()["parameters"] == {
        "settings": {"size": 3, "day": "2026-01-02"},
        "names": ["a", "b"],
        "array": [0, 1],
    }
    with pytest.raises(UsageError, match=r"model\.odd .* object"):
        manifest.set("model", {"odd": object()})
    with pytest.raises(UsageError, match="outputs"):
        manifest.set("outputs", [])


def test_notes_stand_once():
    manifest = Manifest("check")
    manifest.note_all("plan", ["CRS guessed", "CRS guessed"])
    assert manifest.content()["notes"] == [{"stage": "plan", "text": "CRS guessed"}]


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        Manifest("check").write(tmp_path / "file")


def test_fingerprint_agrees_with_sha256sum(tmp_path):
    (tmp_path / "a.shp").write_bytes(b"1")
    (tmp_path / "a.dbf").write_bytes(b"2")
    (tmp_path / "a.PRJ").write_bytes(b"3")
    (tmp_path / "b.dbf").write_bytes(b"4")
    whole = fingerprint(str(tmp_path / "a.shp"))
    assert (whole.files, whole.size) == (3, 3)
    listing = subprocess.run(
        ["sha256sum", "a.PRJ", "a.dbf", "a.shp"], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    assert whole.sha256 == hashlib.sha256(listing).hexdigest()
    (tmp_path / "a.dbf").write_bytes(b"5")
    assert fingerprint(str(tmp_path / "a.shp")).sha256 != whole.sha256
    assert fingerprint(str(tmp_path)).files == 4
    with pytest.raises(UsageError, match="no such file"):
        fingerprint(str(tmp_path / "none.tif"))


def test_archive_member_is_hashed_by_its_archive(tmp_path):
    (tmp_path / "p.zip").write_bytes(b"zip")
    assert fingerprint(f"/vsizip/{tmp_path}/p.zip/in/a.shp").sha256 == hashlib.sha256(b"zip").hexdigest()


def test_remote_input_is_noted_without_its_secrets():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", "42")
            self.send_header("ETag", '"abc"')
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/a.tif?sig=secret"
        manifest = Manifest("detect")
        entry = manifest.add_input("before", address)
        server.shutdown()
        thread.join()
    assert (entry["size"], entry["etag"], entry["sha256"]) == (42, '"abc"', None)
    assert "secret" not in json.dumps(manifest.content())


def test_remote_input_does_not_fail_verification(tmp_path):
    manifest = Manifest("detect")
    manifest.add_input("before", "/vsiswift/bucket/a.tif")
    manifest.write(tmp_path)
    result = verify(tmp_path)
    assert result.ok
    assert [difference.kind for difference in result.differences] == ["unverifiable"]
