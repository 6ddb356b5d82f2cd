"""Results appear together or not at all, and an earlier run survives whatever goes wrong."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tuban.errors import OutputError, SceneError, UsageError
from tuban.postprocess.staging import RESULTS, staged


def write_run(folder, text, names=RESULTS):
    for name in names:
        (folder / name).write_text(f"{text} {name}")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fail_halfway(out, error, others=()):
    """Write half a run, and files of somebody else, and fail."""
    with staged(out) as work:
        write_run(work, "half")
        for name in others:
            (out / name).write_text("x")
        raise error


@pytest.fixture
def out(tmp_path):
    """A folder with an earlier run and a file of the user's."""
    folder = tmp_path / "out"
    folder.mkdir()
    write_run(folder, "old")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_results_replace_those_of_an_earlier_run_and_nothing_else(out):
    with staged(out) as work:
        assert contents(out)["run.json"] == "old run.json"
        write_run(work, "new", ("run.json", "findings.gpkg"))
    assert contents(out) == {"run.json": "new run.json", "findings.gpkg": "new findings.gpkg", "notes.txt": "mine"}


@pytest.mark.parametrize("error", [SceneError("bad"), KeyboardInterrupt(), ZeroDivisionError()])
def test_after_an_error_the_earlier_run_is_as_it_was(out, error):
    was = contents(out)
    with pytest.raises(type(error)):
        fail_halfway(out, error)
    assert contents(out) == was
    assert sorted(path.name for path in out.iterdir()) == sorted(was)


def test_folders_made_for_a_failed_run_are_taken_away_again(tmp_path):
    with pytest.raises(SceneError), staged(tmp_path / "a" / "b"):
        raise SceneError("bad")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_others_use_by_then_stay(tmp_path):
    with pytest.raises(SceneError):
        fail_halfway(tmp_path / "a", SceneError("bad"), others=["theirs.txt"])
    assert contents(tmp_path) == {"a/theirs.txt": "x"}


@pytest.mark.parametrize("stuck", range(2 * len(RESULTS)))
def test_a_move_that_fails_puts_everything_back(out, monkeypatch, stuck):
    """Whichever of the fourteen moves fails, seven out of the way and seven into place."""
    was, real, moves = contents(out), Path.replace, []

    def replace(source, target):
        moves.append(source)
        if len(moves) == stuck + 1:
            raise PermissionError(errno.EACCES, "in use")
        return real(source, target)

    def run_that_cannot_move():
        with staged(out) as work:
            write_run(work, "new")
            monkeypatch.setattr(Path, "replace", replace)

    with pytest.raises(OutputError, match="cannot move results"):
        run_that_cannot_move()
    assert len(moves) > stuck
    assert contents(out) == was


def test_run_json_is_the_last_to_appear(out, monkeypatch):
    order, real = [], Path.replace

    def replace(source, target):
        order.append(target)
        return real(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    with staged(out) as work:
        write_run(work, "new")
    assert order[-1] == out / "run.json"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_storage_that_gives_out_is_an_output_error(out, code):
    with pytest.raises(OutputError, match="free space"), staged(out):
        raise OSError(code, "no more")


def test_other_faults_keep_their_name(out):
    with pytest.raises(FileNotFoundError), staged(out):
        raise FileNotFoundError(errno.ENOENT, "a fault of ours")


@pytest.mark.parametrize("name", RESULTS)
def test_an_input_is_never_replaced(out, name):
    with pytest.raises(UsageError, match="would be replaced"), staged(out, [None, "gone.tif", out / "." / name]):
        pytest.fail("entered")


def test_other_inputs_may_lie_there(out):
    with staged(out, [out / "notes.txt", "https://example.org/before.tif", "/vsicurl/https://x/run.json"]):
        pass


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="cannot write into"), staged(tmp_path / "out"):
        pytest.fail("entered")
    assert (tmp_path / "out").read_text() == "mine"
