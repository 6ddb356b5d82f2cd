"""`tuban data` as its user runs it: on a public data set, and on a folder of one's own."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tuban.data_cli import data_app
from tuban.errors import PartialError, SceneError, UsageError

RUNNER = CliRunner()
OWN = """
id: mine
bands: [B04, B03, B02]
gsd_m: 0.5
roles:
  - {role: before, path: "A/{item}.png"}
  - {role: after, path: "B/{item}.png"}
  - {role: change, path: "label/{item}.png", values: {0: no change, 255: new building}}
"""


def run(*arguments):
    result = RUNNER.invoke(data_app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        for part in ("A", "B"):
            (tmp_path / "mine" / part).mkdir(parents=True, exist_ok=True)
            image = rng.integers(10, 250, (30, 40, 3)).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "mine" / part / f"{name}.png")
        (tmp_path / "mine" / "label").mkdir(exist_ok=True)
        label = np.zeros((30, 40), np.uint8)
        label[:15, :20] = 255
        Image.fromarray(label).save(tmp_path / "mine" / "label" / f"{name}.png")
    (tmp_path / "mine" / "dataset.yaml").write_text(OWN, encoding="utf-8")
    return tmp_path / "mine"


def test_list_names_data_sets_with_their_licence():
    said = run("list").stdout
    assert "oscd: Onera Satellite Change Detection; Copernicus" in said
    assert "dataset.yaml" in said
    assert {"levir", "flair"} <= {row["id"] for row in json.loads(run("list", "--json").stdout)["datasets"]}


def test_an_own_folder_is_verified(folder):
    assert "mine (folder): 2 items, 6 files, 0 faults" in run("verify", folder).stdout
    assert json.loads(run("verify", folder, "--json").stdout)["ok"] is True


def test_faults_are_listed_with_their_remedy_and_end_in_a_partial_error(folder):
    (folder / "B" / "two.png").unlink()
    Image.fromarray(np.full((30, 40), 7, np.uint8)).save(folder / "label" / "one.png")
    result = RUNNER.invoke(data_app, ["verify", str(folder)])
    assert isinstance(result.exception, PartialError)  # exit code 3
    assert f"two after: file is missing -> restore {folder / 'B' / 'two.png'}" in result.stdout
    assert "one change: one.png: values [7] in band 1, accepted are 0, 255" in result.stdout


def test_a_data_set_may_be_named_before_its_folder(folder):
    (folder / "dataset.yaml").rename(folder.parent / "other.yaml")
    with pytest.raises(SceneError, match="may be "):
        run("verify", folder)
    assert "whu (crops): 2 items, 6 files, 0 faults" in run("verify", "whu", folder).stdout
    assert "mine (folder): 2 items" in run("stats", folder.parent / "other.yaml", folder).stdout
    with pytest.raises(UsageError, match="3 arguments"):
        run("verify", "whu", folder, folder)


def test_stats_count_classes_and_draw_a_picture(folder, tmp_path):
    said = json.loads(run("stats", folder, "--picture", tmp_path / "out" / "p.png", "--json").stdout)
    assert said["labels"]["change"]["new building"] == {"pixels": 600, "share": 0.25}
    assert said["classes"]["change"]["changed"] == {"pixels": 600, "share": 0.25}
    assert said["picture"]["items"] == ["one", "two"]
    picture = np.asarray(Image.open(tmp_path / "out" / "p.png").convert("RGB")).astype(int)
    # The change is drawn in magenta over grey: much more red and blue than green.
    magenta = (picture[..., 0] - picture[..., 1] > 60) & (picture[..., 2] - picture[..., 1] > 40)
    assert 0.02 < magenta.mean() < 0.2
    first = (tmp_path / "out" / "p.png").read_bytes()
    run("stats", folder, "--picture", tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == first
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"p.png"}
