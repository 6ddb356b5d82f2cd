"""The walks of docs/training.md, from a folder of one's own to a model in use, by the very commands of the pages.

Imagery is tiny and generated, and what is appended to `tuban train` makes it quick; all else is as printed there.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from typer.testing import CliRunner

from tuban.cli import app
from tuban.errors import TubanError

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]

DOCS = Path(__file__).parents[2] / "docs"
QUICK = [
    "optim.steps=12", "optim.batch=2", "optim.precision=32-true", "optim.ema=0.5", "optim.lr=0.01", "data.crop=32",
    "data.workers=0", "threads=1", "validation.every=12", "loggers=[csv]", "model.initialise=null", "model.depth=2",
    "model.width=[8,8]", "model.stem=4",
]  # fmt: skip
SIDE = 96


def section(page: str, title: str) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language, without the indent of the list that they stand in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return ["".join(line.removeprefix(indent) for line in body.splitlines(keepends=True)) for indent, body in found]


def commands(text: str) -> list[list[str]]:
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("tuban ")]


@pytest.fixture
def walk(tmp_path, monkeypatch):
    """Runs commands one after the other in an empty folder; Hydra's logging and command line are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(arguments: list[str]) -> str:
        ran = CliRunner().invoke(app, [*arguments, *(QUICK if arguments[0] == "train" else [])])
        if isinstance(ran.exception, TubanError):
            raise ran.exception
        assert ran.exit_code == 0, (arguments, ran.output, ran.exception)
        return ran.stdout

    yield run
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def write(path: Path, image: np.ndarray, place: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = {"crs": "EPSG:32650", "transform": Affine(0.5, 0, 5e5 + 500 * place, 0, -0.5, 4e6)}
    with rasterio.open(path, "w", driver="GTiff", height=SIDE, width=SIDE, count=3, dtype="uint8", **grid) as out:
        out.write(image)


def mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_from_a_folder_of_pairs_to_a_model_that_detects(walk, tmp_path):
    first = section("datasets.md", "My own folder of image pairs")
    second = section("training.md", "From my own folder of pairs to a model that `tuban detect` uses")
    county = tmp_path / "county"
    for number, name in enumerate(("centre", "east", "north", "river", "south", "west")):
        rng = np.random.default_rng(number)
        ground = rng.integers(40, 120, (3, SIDE // 4, SIDE // 4)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
        changed = np.zeros((SIDE, SIDE), bool)
        changed[20:60, 30:70] = True
        write(county / f"A/2021_{name}.tif", ground, number)
        write(county / f"B/2021_{name}.tif", np.where(changed, np.uint8(240), ground), number)
        mask(county / f"label/2021_{name}.png", np.where(changed, 255, 0).astype(np.uint8))
    (county / "dataset.yaml").write_text(blocks(first, "yaml")[0], encoding="utf-8")
    (tmp_path / "county.yaml").write_text(blocks(second, "yaml")[0], encoding="utf-8")
    said = {arguments[1] if arguments[0] == "data" else arguments[0]: walk(arguments) for arguments in commands(first)}
    for command in ("verify", "split"):
        assert said[command].strip() in "\n".join(line.strip() for line in first.splitlines()), said[command]
    assert (tmp_path / "samples.png").is_file()
    for arguments in commands(second):
        if arguments[0] == "train":  # what the split printed is what the training is given
            assert all(line.strip('"') in arguments for line in said["split"].splitlines())
        walk(arguments)
    assert list((tmp_path / "outputs/county/panels").rglob("*.png"))
    record = json.loads((tmp_path / "outputs/county/train.json").read_text())
    bundle = json.loads((tmp_path / "models/county/mlm.json").read_text())
    assert str(record["chosen"]["calibration"]["slope"]) in json.dumps(bundle)
    assert "six pairs of our county" in (tmp_path / "models/county/MODEL_CARD.md").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "outputs/evaluation/evaluation.json").read_text())
    assert list(found["places"]) == ["2021_river"]
    assert found["auc"] > 0.9  # twelve steps tell white roofs from fields
    assert found["object_matching"]["truth"] == 1  # 400 m² are an object at this pixel size
    assert {"findings.gpkg", "report.html", "change.tif"} <= {path.name for path in (tmp_path / "out/east").iterdir()}


def test_from_masks_of_single_images_to_a_land_cover_map(walk, tmp_path):
    text = section("training.md", "From my own land-cover masks to a model that `tuban landcover` uses")
    for number, name in enumerate(("centre", "east", "north", "river", "south", "west")):
        rng = np.random.default_rng(number)
        cover = rng.integers(0, 4, (SIDE // 16, SIDE // 16)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        colours = np.array([[90, 90, 90], [60, 140, 50], [20, 40, 120], [230, 220, 210]], np.uint8)
        noise = rng.integers(0, 20, (3, SIDE, SIDE)).astype(np.uint8)
        write(tmp_path / f"fields/image/{name}.tif", colours[cover].transpose(2, 0, 1) + noise, number)
        mask(tmp_path / f"fields/mask/{name}.png", cover)
    dataset, card = blocks(text, "yaml")
    (tmp_path / "fields/dataset.yaml").write_text(dataset, encoding="utf-8")
    (tmp_path / "fields.yaml").write_text(card, encoding="utf-8")
    for arguments in commands(text):
        walk(arguments)
    found = json.loads((tmp_path / "outputs/fields-evaluation/evaluation.json").read_text())
    assert set(found["classes"]) == {"cropland", "water", "building"}
    assert found["against"] == "labels of my_fields"
    assert found["agreement"] > 0.5
    with rasterio.open(tmp_path / "out/fields/landcover.tif") as made:
        assert set(np.unique(made.read(1))) <= {0, 1, 7, 9}
