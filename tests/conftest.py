"""Fixtures shared by every test."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real imagery, or a skip that says why."""
    root = Path(os.environ.get("TUBAN_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real imagery at {root}; set TUBAN_DATA to the folder that holds oscd/, landsat_cn/ …")
    return root


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """The module `small_pair`, which importlib mode cannot import by name."""
    spec = importlib.util.spec_from_file_location("small_pair", Path(__file__).with_name("small_pair.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small_folder(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated pair (`in`) and the model that answers exactly (`model`), made once; not to be written to."""
    root = tmp_path_factory.mktemp("small")
    small.write_pair(root / "in")
    small.make_model(root / "model")
    return root


@pytest.fixture
def pair(small: ModuleType, small_folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[object]:
    """The pair with the commands that run on it in this process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield small.SmallPair(small_folder / "in", small_folder / "model", capsys)
    root.handlers[:] = handlers  # the command line logs to a captured stream that is closed by now
    root.setLevel(level)


@pytest.fixture(scope="session")
def earlier_run(small: ModuleType, small_folder: Path) -> Path:
    """A finished run on the pair, for tests that look at results or that must not damage them; not to be written to."""
    from tuban.postprocess.detect import detect

    folder = small_folder / "in"
    scenes = folder / "before.tif", folder / "after.tif"
    detect(*scenes, out=small_folder / "run", plan=folder / "plan.gpkg", model=str(small_folder / "model"))
    return small_folder / "run"


@pytest.fixture
def out(earlier_run: Path, tmp_path: Path) -> Path:
    """A folder with the results of an earlier run, free to be written to."""
    return Path(shutil.copytree(earlier_run, tmp_path / "结果 folder"))


@pytest.fixture(scope="session")
def postgis_server() -> Iterator[object]:
    """A real PostGIS on a unix socket (`tests/postgis_server.py`), or a skip that says what is missing."""
    spec = importlib.util.spec_from_file_location("postgis_server", Path(__file__).with_name("postgis_server.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    reason = module.missing()
    if reason:
        pytest.skip(f"no PostGIS to test against: {reason}")
    with module.running_server() as server:
        yield server


@pytest.fixture
def postgis(postgis_server: object) -> object:
    """A fresh, empty PostGIS database: `.url`, `.inspector_url`, `.execute(sql, …)`."""
    return postgis_server.database()
