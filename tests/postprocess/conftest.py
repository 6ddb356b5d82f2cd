"""Fixtures of the output tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def _load(name: str) -> None:
    """Make a module beside this one importable by name, which importlib mode does not."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_load("check_factory")


@pytest.fixture(scope="session")
def factory():
    """The module `findings_factory`, which importlib mode cannot import by name."""
    path = Path(__file__).with_name("findings_factory.py")
    spec = importlib.util.spec_from_file_location("findings_factory", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
