"""What all commands share: exit codes, one error line, JSON on stdout, progress on stderr."""

from __future__ import annotations

import json
import logging

import pyogrio
import pytest

import tuban
from tuban.console import progress_bar, run, set_up_logging, show
from tuban.errors import OutputError, PartialError, SceneError, UnknownRulePackError, UsageError


@pytest.fixture(autouse=True)
def _logging_restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def raiser(error):
    def command():
        raise error

    return command


CODES = [
    (SceneError("a: b; c"), 1),
    (OutputError("a: b; c"), 1),
    (UsageError("a: b; c"), 2),
    (UnknownRulePackError("a: b; c"), 2),
    (PartialError("a: b; c"), 3),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_errors_are_one_line_and_a_code(capsys, error, code):
    assert run(raiser(error)) == code
    assert capsys.readouterr() == ("", "error: a: b; c\n")


def test_line_breaks_in_an_error_are_taken_out(capsys):
    run(raiser(SceneError("one\n  two\tthree")))
    assert capsys.readouterr().err == "error: one two three\n"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(130)])
def test_ctrl_c_is_said(capsys, stop):
    """Typer turns Ctrl-C into exit 130 without a word."""
    assert run(raiser(stop)) == 1
    assert capsys.readouterr().err == "error: interrupted; nothing of this run was kept\n"


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (2, 2), (3, 3), ("words", 1)])
def test_system_exit_keeps_its_code(code, expected):
    assert run(raiser(SystemExit(code))) == expected


def test_success_is_zero():
    assert run(lambda: 7) == 0


def test_faults_of_ours_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run(raiser(ZeroDivisionError()))


def test_summary_as_json_or_lines(capsys):
    show({"图斑": 3}, ["three"], as_json=True)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"图斑": 3}
    assert "图斑" in out
    show({"a": 3}, ["three", "lines"], as_json=False)
    assert capsys.readouterr() == ("three\nlines\n", "")


def test_progress_in_a_log_is_a_line_a_tenth(capsys):
    with progress_bar() as progress:
        for done in range(101):
            progress("inference", done, 100)
        progress("empty", 0, 0)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"inference: {10 * n} %" for n in range(11)] + ["empty: 0 %"]


def test_logging_goes_to_stderr(capsys):
    set_up_logging(verbose=False)
    logging.getLogger("tuban.x").info("quiet")
    set_up_logging(verbose=True)
    logging.getLogger("tuban.x").info("said")
    out, err = capsys.readouterr()
    assert out == ""
    assert "said" in err
    assert "quiet" not in err


def test_version_and_help(pair):
    assert pair.tuban("--version").out == f"tuban {tuban.__version__}\n"
    said = pair.tuban("--help")
    assert said.code == 0
    for command in ("demo", "detect", "check", "vectorize", "export", "train", "evaluate", "doctor"):
        assert command in said.out
    assert pair.tuban("detect", "--help").code == 0


def test_lines_for_people_name_the_results(pair, tmp_path):
    scenes = (pair.folder / "before.tif", pair.folder / "after.tif")
    options = ("--out", tmp_path / "out", "--model", pair.model, "report.max_cards=0", "report.overview_px=200")
    said = pair.tuban("detect", *scenes, *options, "--plan", pair.folder / "plan.gpkg")
    assert said.code == 0
    lines = said.out.splitlines()
    counts = pyogrio.read_info(tmp_path / "out" / "findings.gpkg", layer="findings")["features"]
    assert f"5 changes, {counts} findings" in lines
    assert counts >= 9
    assert "  P1 suspected: 1" in lines
    assert lines[-1] == f"results: {tmp_path / 'out'}"
    assert "100 %" in said.err
