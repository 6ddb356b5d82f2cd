"""Commands that need the extra `train`, on a base installation: one line that says how to get it."""

from __future__ import annotations

import sys

import pytest

from tuban.cli import app
from tuban.console import run


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["evaluate", "--model", "s2-change", "--data", "FOLDER"],
        ["models", "export", "FOLDER", "--card", "s2-change", "--out", "OUT"],
        ["models", "export", "s2-change", "--variant", "int8", "--imagery", "FOLDER", "--out", "OUT"],
        ["models", "import", "FOLDER/weights.pth", "--spec", "dynamicworld", "--out", "OUT"],
    ],
)
def test_what_needs_torch_says_how_to_install_it(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    (tmp_path / "weights.pth").write_bytes(b"")
    words = [word.replace("FOLDER", str(tmp_path)).replace("OUT", str(tmp_path / "out")) for word in arguments]
    assert run(lambda: app(words, standalone_mode=False)) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "needs torch" in said
    assert "pip install 'tuban[train]'" in said
