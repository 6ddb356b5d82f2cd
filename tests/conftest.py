"""Fixtures shared by every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real imagery, or a skip that says why."""
    root = Path(os.environ.get("TUBAN_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real imagery at {root}; set TUBAN_DATA to the folder that holds oscd/, landsat_cn/ …")
    return root
