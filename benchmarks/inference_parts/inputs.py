"""Scenes, pairs and networks that `benchmarks/inference.py` measures with."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CLASSES = (1, 4, 7, 9, 10)
RGB = ("B04", "B03", "B02")
TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
DATES = ("before", "after")
# Five levels see several hundred pixels; how much of that matters is measured by the part `seams`.
HALO, REACH = 64, 640
GRID = {"crs": "EPSG:32650", "transform": Affine(10, 0, 500000, 0, -10, 4000000)}


class Files:
    """GeoTIFFs of one grid, read as they are: the cost of reading without warping or normalising."""

    def __init__(self, scale: float, **paths: Path) -> None:
        """Open the files, named as the network's inputs."""
        self._files = {name: rasterio.open(path) for name, path in paths.items()}
        self._scale = np.float32(scale)
        first = next(iter(self._files.values()))
        self.height, self.width, self.crs, self.transform = first.height, first.width, first.crs, first.transform

    def read(self, window: Any, names: Sequence[str]) -> SimpleNamespace:
        """Return scaled values and which pixels are not 0."""
        indices = list(range(1, len(names) + 1))
        valid, images = None, {}
        for name, file in self._files.items():
            stored = file.read(indices, window=window)
            seen = stored[0] != 0
            valid = seen if valid is None else valid & seen
            images[name] = np.multiply(stored, self._scale, dtype=np.float32)
        return SimpleNamespace(valid=valid, **images)


def scene(path: Path) -> Files:
    """Open what `make_scene` wrote."""
    return Files(1 / 255, image=path)


def pair(folder: Path) -> Files:
    """Open what `make_pair` wrote."""
    return Files(1e-4, **{date: folder / f"{date}.tif" for date in DATES})


class Nothing:
    """A scene of any size that costs neither disk nor time: a pattern that is repeated."""

    crs, transform = rasterio.CRS.from_epsg(32650), GRID["transform"]
    _PERIOD = 512

    def __init__(self, size: int) -> None:
        """Of `size` pixels a side."""
        self.height = self.width = size
        side = np.arange(5 * self._PERIOD, dtype=np.float32) % self._PERIOD
        self._pattern = np.repeat((side[:, None] * side % 255 / 255)[None], 3, axis=0)

    def read(self, window: Any, names: Sequence[str]) -> SimpleNamespace:
        """Return the pattern, valid everywhere; at most four periods a side."""
        top, left = window.row_off % self._PERIOD, window.col_off % self._PERIOD
        image = self._pattern[: len(names), top : top + window.height, left : left + window.width]
        return SimpleNamespace(image=image, valid=np.ones(image.shape[1:], np.bool_))


def make_scene(path: Path, size: int) -> None:
    """Write a 3-band uint8 scene."""
    _write(path, size, RGB, (8, 240), "uint8", 1 / 255, 0)


def make_pair(folder: Path, size: int) -> None:
    """Write two 10-band uint16 scenes."""
    folder.mkdir(exist_ok=True)
    for seed, date in enumerate(DATES):
        _write(folder / f"{date}.tif", size, TEN, (400, 4000), "uint16", 1e-4, seed)


def _write(
    path: Path, size: int, bands: tuple[str, ...], values: tuple[int, int], dtype: str, scale: float, seed: int
) -> None:
    """Write patches with a little noise, compressible as real scenes are, block by block."""
    rng, (low, high) = np.random.default_rng(seed), values
    profile = {
        "driver": "GTiff", "dtype": dtype, "count": len(bands), "height": size, "width": size, "nodata": 0, **GRID,
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1, "interleave": "pixel",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.descriptions, dataset.scales = bands, [scale] * len(bands)
        for _, window in dataset.block_windows(1):
            coarse = rng.integers(low, high, (len(bands), 32, 32)).repeat(16, 1).repeat(16, 2)
            block = (coarse + rng.integers(0, (high - low) // 16, coarse.shape)).astype(dtype)
            dataset.write(block[:, : int(window.height), : int(window.width)], window=window)


def make_unet(folder: Path) -> None:
    """Write the U-Net; ImageNet weights in the encoder, the rest as initialised: speed does not depend on it."""
    import segmentation_models_pytorch as smp
    import torch

    from tuban.models.initialise import load_imagenet

    torch.manual_seed(0)
    model = smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, in_channels=3, classes=len(CLASSES)).eval()
    load_imagenet(model.encoder.model, RGB)
    _make_bundle(folder, model, tile=1408, halo=HALO, stride=32, reach=REACH)


def make_stub(folder: Path) -> None:
    """Write a network that costs next to nothing: memory and time are then those of the engine."""
    import torch

    _make_bundle(folder, torch.nn.Conv2d(3, len(CLASSES), 1), tile=1024, halo=16, stride=16, reach=0)


def _make_bundle(folder: Path, model: Any, *, tile: int, halo: int, stride: int, reach: int) -> None:
    """Write a land-cover bundle of a network that maps `(n, 3, h, w)` to logits, and `model.pt` for the peers."""
    import torch

    from tuban.models.bundle import BundleSpec
    from tuban.models.deploy import DeployedLandcover
    from tuban.models.export import export_onnx
    from tuban.models.mlm import write_mlm

    class Raw(torch.nn.Module):
        """As the peers take it: stored numbers in, logits out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return self.model(x.float() / 255)

    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(DeployedLandcover(model, (0.5,) * 3, (0.25,) * 3), folder / "model.onnx", bands=3)
    torch.jit.trace(Raw().eval(), torch.randint(0, 255, (1, 3, 512, 512), dtype=torch.uint8)).save(
        str(folder / "model.pt")
    )
    spec = BundleSpec(
        name="bench", version="1", task="landcover", bands=RGB, required_bands=RGB, gsd_m=(1, 30), mean=(0.5,) * 3,
        std=(0.25,) * 3, classes=CLASSES, tile=tile, halo=halo, stride=stride, receptive_reach=reach, threshold=0.5,
    )  # fmt: skip
    created = datetime(2026, 1, 1, tzinfo=UTC)
    write_mlm(spec, folder, architecture="benchmark", created=created, framework_version=torch.__version__)
