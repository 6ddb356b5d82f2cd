"""A tiny ONNX bundle whose exact answer scipy computes, and a pair held in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import rasterio
from affine import Affine
from onnx import TensorProto, helper, numpy_helper
from rasterio.crs import CRS
from scipy import ndimage

from tuban.models.bundle import Bundle, BundleSpec
from tuban.models.mlm import write_mlm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BANDS = ("B03", "B04")
MEAN = (0.25, 0.5)
CLASSES = (1, 7, 18)
THRESHOLD = 0.3
PLAIN = {"registration": {"enabled": False}, "radiometry": {"enabled": False}}
"""Pair settings that take the pixels as they are."""
REACH = 2  # two 3 x 3 means one after the other see two pixels to each side


def graph(*, nan_out: bool = False, channels: int = len(BANDS)) -> onnx.ModelProto:
    """Land cover: softmax of (first band, second band, 0.4); change: |smoothed difference| of the first band.

    Smoothing is two 3 x 3 means (edge output is wrong within two pixels, as a real network's is within its reach).
    """
    kernel = np.full((1, 1, 3, 3), 1 / 9, np.float32)
    mean = np.array((*MEAN, *MEAN)[:channels], np.float32).reshape(1, channels, 1, 1)
    constants = [
        numpy_helper.from_array(kernel, "kernel"),
        numpy_helper.from_array(mean, "mean"),
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.float32(0.4), "level"),
        numpy_helper.from_array(np.float32(np.nan if nan_out else 1.0), "factor"),
    ]
    nodes = []
    for date in ("before", "after"):
        nodes += [
            helper.make_node("IsNaN", [date], [f"{date}_bad"]),
            helper.make_node("Where", [f"{date}_bad", "mean", date], [f"{date}_clean"]),
            helper.make_node("Slice", [f"{date}_clean", "zero", "one", "one"], [f"{date}_first"]),
            helper.make_node("Mul", [f"{date}_first", "zero_f"], [f"{date}_nil"]),
            helper.make_node("Add", [f"{date}_nil", "level"], [f"{date}_level"]),
            helper.make_node("Concat", [f"{date}_clean", f"{date}_level"], [f"{date}_scores"], axis=1),
            helper.make_node("Softmax", [f"{date}_scores"], [f"landcover_{date}"], axis=1),
        ]
    constants.append(numpy_helper.from_array(np.float32(0), "zero_f"))
    nodes += [
        helper.make_node("Sub", ["after_first", "before_first"], ["diff"]),
        helper.make_node("Conv", ["diff", "kernel"], ["smooth_1"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["smooth_1", "kernel"], ["smooth_2"], pads=[1, 1, 1, 1]),
        helper.make_node("Abs", ["smooth_2"], ["magnitude"]),
        helper.make_node("Mul", ["magnitude", "factor"], ["scaled"]),
        helper.make_node("Squeeze", ["scaled", "one"], ["change"]),
    ]
    shape = ["n", channels, "h", "w"]
    cover = ["n", channels + 1, "h", "w"]
    made = helper.make_graph(
        nodes,
        "stub",
        [helper.make_tensor_value_info(d, TensorProto.FLOAT, shape) for d in ("before", "after")],
        [
            *(helper.make_tensor_value_info(f"landcover_{d}", TensorProto.FLOAT, cover) for d in ("before", "after")),
            helper.make_tensor_value_info("change", TensorProto.FLOAT, ["n", "h", "w"]),
        ],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def spec(**changes: object) -> BundleSpec:
    values: dict[str, object] = {
        "name": "stub",
        "version": "1",
        "bands": BANDS,
        "required_bands": ("B03",),
        "gsd_m": (1.0, 30.0),
        "mean": MEAN,
        "std": (1.0, 1.0),
        "classes": CLASSES,
        "change_to_classes": (18,),
        "tile": 32,
        "halo": 4,
        "stride": 2,
        "threshold": THRESHOLD,
    }
    return BundleSpec.model_validate(values | changes)


def make_bundle(folder: Path, model: onnx.ModelProto | None = None, **changes: object) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes((model or graph()).SerializeToString())
    return write_mlm(
        spec(**changes),
        folder,
        architecture="two box means",
        created=datetime(2026, 1, 2, tzinfo=UTC),
        framework_version="none",
    )


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("stub"))


@dataclass
class Data:
    before: np.ndarray
    after: np.ndarray
    valid: np.ndarray


@dataclass
class ArrayPair:
    """A pair in memory; windows outside it are refused, so reflection is shown to be the engine's own."""

    before: np.ndarray
    after: np.ndarray
    valid: np.ndarray
    on_read: Callable[[object], None] = lambda _: None
    reads: list[object] = field(default_factory=list)
    crs: CRS = field(default_factory=lambda: CRS.from_epsg(32650))
    transform: Affine = field(default_factory=lambda: Affine(10, 0, 500000, 0, -10, 4000000))

    @property
    def height(self) -> int:
        return self.valid.shape[0]

    @property
    def width(self) -> int:
        return self.valid.shape[1]

    def read(self, window, names):
        assert names == BANDS
        assert window.row_off >= 0
        assert window.col_off >= 0
        assert window.row_off + window.height <= self.height
        assert window.col_off + window.width <= self.width
        self.on_read(window)
        self.reads.append(window)
        rows = slice(window.row_off, window.row_off + window.height)
        cols = slice(window.col_off, window.col_off + window.width)
        return Data(self.before[:, rows, cols].copy(), self.after[:, rows, cols].copy(), self.valid[rows, cols].copy())


def random_pair(height: int, width: int, seed: int = 0, invalid: float = 0.1) -> ArrayPair:
    rng = np.random.default_rng(seed)
    before, after = rng.random((2, len(BANDS), height, width), dtype=np.float32)
    # Blocks of change, or the smoothed difference of noise never reaches the threshold.
    after[0, : height // 2] = np.clip(before[0, : height // 2] + 0.4, 0, 1)
    valid = rng.random((height, width)) >= invalid
    before[:, ~valid] = 0
    after[:, ~valid] = 0
    return ArrayPair(before, after, valid)


def write_pair(folder: Path, pair: ArrayPair) -> dict[str, Path]:
    """The pair as two GeoTIFFs, invalid pixels as nodata; their paths by date."""
    folder.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff", "dtype": "float32", "count": len(BANDS), "height": pair.height, "width": pair.width,
        "nodata": -1, "crs": pair.crs, "transform": pair.transform,
    }  # fmt: skip
    paths = {date: folder / f"{date}.tif" for date in ("before", "after")}
    for date, path in paths.items():
        with rasterio.open(path, "w", **profile) as dataset:
            dataset.write(np.where(pair.valid, getattr(pair, date), -1))
            dataset.descriptions = BANDS
    return paths


def oracle(pair: ArrayPair) -> dict[str, np.ndarray]:
    """The whole-array answer by scipy, in float64: scipy's `mirror` is the reflection without the border pixel."""
    mean = np.array(MEAN).reshape(-1, 1, 1)
    dates = [np.where(pair.valid & ~np.isnan(d), d.astype(np.float64), mean) for d in (pair.before, pair.after)]
    smooth = dates[1][0] - dates[0][0]
    # Reflect once, then smooth: the order in which the network sees it.
    padded = np.pad(smooth, REACH, mode="reflect")
    padded = ndimage.uniform_filter(padded, 3, mode="constant")
    padded = ndimage.uniform_filter(padded, 3, mode="constant")
    change = np.abs(padded[REACH:-REACH, REACH:-REACH])
    table = np.array(CLASSES, np.uint8)
    covers = [table[np.concatenate([d, np.full((1, *d.shape[1:]), 0.4)]).argmax(0)] for d in dates]
    return {
        "change": np.where(pair.valid, change >= THRESHOLD, 255),
        "probability": np.where(pair.valid, change * 254, 255.0),
        "landcover_before": np.where(pair.valid, covers[0], 0),
        "landcover_after": np.where(pair.valid, covers[1], 0),
    }


@pytest.fixture(scope="session")
def stub() -> SimpleNamespace:
    """What the tests build with; a fixture because test folders are no packages."""
    return SimpleNamespace(
        graph=graph, spec=spec, make_bundle=make_bundle, random_pair=random_pair, write_pair=write_pair,
        oracle=oracle, bands=BANDS, plain=PLAIN,
    )  # fmt: skip
