"""Fixtures of the tests of `tuban.data`: a real server on the loopback interface, and images to serve."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

_numbers = itertools.count()
BANDS = ("B02", "B03", "B04")


def _module() -> ModuleType:
    """`tests/range_server.py`, which importlib mode cannot import by name."""
    spec = importlib.util.spec_from_file_location("range_server", Path(__file__).parents[1] / "range_server.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def range_server() -> type:
    """The class `RangeServer`, for tests that need a second one."""
    return _module().RangeServer


@pytest.fixture(scope="session")
def _served(range_server: type, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with range_server(tmp_path_factory.mktemp("www")) as running:
        yield running


@pytest.fixture
def server(_served: Any) -> Any:
    """A server of an empty folder; not to be killed."""
    return _served.part(f"t{next(_numbers)}")


@pytest.fixture
def mortal(range_server: type, tmp_path: Path) -> Iterator[Any]:
    """A server of an empty folder that may be killed."""
    (tmp_path / "www").mkdir()
    with range_server(tmp_path / "www") as running:
        yield running


@pytest.fixture
def write_image() -> Callable[..., np.ndarray]:
    """Writes a georeferenced image of noise, which no codec can hide damage of, and returns its pixels."""

    def write(path: Path, *, size: int = 512, dtype: str = "uint8", seed: int = 0, **profile: Any) -> np.ndarray:
        values = np.random.default_rng(seed).integers(1, 250, (len(BANDS), size, size)).astype(dtype)
        options = {
            "driver": "GTiff", "dtype": dtype, "count": len(BANDS), "height": size, "width": size,
            "crs": "EPSG:32650", "transform": Affine(10, 0, 500000, 0, -10, 4000000), "tiled": True,
            "blockxsize": 128, "blockysize": 128, "compress": "deflate",
        } | profile  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(path, "w", **{key: value for key, value in options.items() if value is not None}) as target:
            target.write(values)
            if options["driver"] in {"GTiff", "COG"}:
                target.descriptions = BANDS
        return values

    return write
