"""Colour imagery of half a metre through the command line: change without land cover, and land cover of one image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import onnx
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from onnx import TensorProto, helper, numpy_helper

from tuban.cli import app
from tuban.console import run
from tuban.models.importing import import_model

if TYPE_CHECKING:
    from pathlib import Path

CRS = "EPSG:4547"
SIDE = 128
TRANSFORM = Affine(0.5, 0.0, 590_400.0, 0.0, -0.5, 3_000_600.0)
ROWS, COLS = slice(30, 70), slice(40, 90)  # what is built: 20 m x 25 m


def write(path: Path, values: np.ndarray) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", count=3, dtype="uint8", height=SIDE, width=SIDE, crs=CRS, transform=TRANSFORM,
        photometric="RGB",
    ) as target:  # fmt: skip
        target.write(values)


def pointwise(inputs: list[str], weights: np.ndarray, bias: list[float]) -> onnx.ModelProto:
    """A 1 x 1 convolution over the channels of all inputs."""
    graph = helper.make_graph(
        [helper.make_node("Concat", inputs, ["x"], axis=1), helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "pointwise",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(weights), "h", "w"])],
        [
            numpy_helper.from_array(weights.astype(np.float32)[:, :, None, None], "w"),
            numpy_helper.from_array(np.array(bias, np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bundle(folder: Path, name: str, model: onnx.ModelProto, **card: Any) -> None:
    """Import the graph as a user would, so that it is chosen by bands and pixel size."""
    onnx.save(model, str(folder / f"{name}.onnx"))
    said = {
        "name": name, "version": "1", "bands": ["B04", "B03", "B02"], "gsd_m": [0.2, 2.0], "units": "byte",
        "mean": [0.4, 0.4, 0.4], "stride": 16, "halo": 16, "tile": 128,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(json.dumps(said | card))
    import_model(folder / f"{name}.onnx", folder / "models" / name, card=str(folder / f"{name}.yaml"))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A pair with one new building on farmland, its plan, and two bundles."""
    folder = tmp_path_factory.mktemp("彩色 vhr")
    rng = np.random.default_rng(0)
    before = rng.normal(90, 6, (3, SIDE, SIDE))
    after = before + rng.normal(0, 1, before.shape)
    after[:, ROWS, COLS] = 220
    write(folder / "before.tif", before.clip(1, 254).astype(np.uint8))
    write(folder / "after.tif", after.clip(1, 254).astype(np.uint8))
    left, top = TRANSFORM @ (0, 0)
    whole = gpd.GeoDataFrame(
        {"DLBM": ["0103"]}, geometry=[shapely.box(left - 9, top - 99, left + 99, top + 9)], crs=CRS
    )
    for layer in ("DLTB", "YJJBNTTB"):
        pyogrio.write_dataframe(whole, folder / "plan.gpkg", layer=layer, driver="GPKG")
    (folder / "models").mkdir()
    # Change is a rise of brightness by 0.25 of the 8-bit range: it holds only where numbers are divided by 255.
    rise = np.array([[-40.0] * 3 + [40.0] * 3]) / 3
    bundle(
        folder, "vhr-change-test", pointwise(["before", "after"], rise, [-10.0]),
        task="change", change_to_classes=[9], graph={"activation": "sigmoid", "channel": 0},
    )  # fmt: skip
    # Bright is building, dark is cropland; the border is 0.6 of the 8-bit range.
    bright = np.array([[-10.0] * 3, [10.0] * 3])
    bundle(
        folder, "vhr-landcover-test", pointwise(["image"], bright, [18.0, -18.0]),
        task="landcover", classes=[1, 9], graph={"activation": "softmax"},
    )  # fmt: skip
    return folder


def tuban(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    code = run(lambda: app([str(argument) for argument in (*arguments, "--json")], standalone_mode=True))
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out)


def raster(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read(1)


@pytest.mark.parametrize("with_plan", [True, False])
def test_change_without_land_cover_is_found_and_judged(place, tmp_path, monkeypatch, capsys, with_plan):
    monkeypatch.setenv("TUBAN_MODELS", str(place / "models"))
    plan = ("--plan", place / "plan.gpkg") if with_plan else ()
    record = tuban(
        capsys, "detect", place / "before.tif", place / "after.tif", "--out", tmp_path, "--lang", "en", *plan,
        "--date-before", "2025-11-01", "--date-after", "2026-03-01", "report.max_cards=1", "report.overview_px=200",
    )  # fmt: skip
    assert record["model"]["name"] == "vhr-change-test"
    assert record["model"]["landcover"] is False
    assert record["rescaled"]["guessed"] is False
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[ROWS, COLS] = 1
    assert np.array_equal(raster(tmp_path / "change.tif"), expected)
    assert not (tmp_path / "landcover_before.tif").exists()
    (change,) = pyogrio.read_dataframe(tmp_path / "findings.gpkg", layer="changes").itertuples()
    assert change.area_m2 == pytest.approx(500, rel=1e-3)
    assert (change.from_class, change.to_class) == ("cropland" if with_plan else "ignore", "building")
    (said,) = [note["text"] for note in record["notes"] if "no land cover" in note["text"]]
    assert "assumed to be building" in said
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "tells change and no land cover" in report
    if with_plan:
        assert "baseline layer" in said
        found = pyogrio.read_dataframe(tmp_path / "findings.gpkg", layer="findings")
        assert set(found[found["status"] == "suspected"]["zone_role"]) == {"permanent_basic_farmland"}
        assert found["farmland_m2"].max() == pytest.approx(500, rel=1e-3)
    else:
        assert "unknown" in said


def test_land_cover_of_a_colour_image(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TUBAN_MODELS", str(place / "models"))
    record = tuban(capsys, "landcover", place / "after.tif", "--out", tmp_path)
    assert record["model"]["name"] == "vhr-landcover-test"
    expected = np.ones((SIDE, SIDE), np.uint8)
    expected[ROWS, COLS] = 9
    assert np.array_equal(raster(tmp_path / "landcover.tif"), expected)
    assert record["inference"]["seams"]["exact"] is False  # how far an imported graph sees is not known
