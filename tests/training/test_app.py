import io
import json
import logging
import sys

import pytest

from tuban.errors import UsageError
from tuban.training.app import launch


@pytest.fixture(autouse=True)
def _own_logging(monkeypatch):
    """Hydra sets up the logging of the whole process, which begins by closing every handler there is.

    That of absl, which OpenVINO imports, closes its stream as well, unless that is sys.stderr at the moment: under
    `capsys` it is not, and the stream is the file that pytest captures into.
    """
    if absl := sys.modules.get("absl.logging"):
        monkeypatch.setattr(absl.get_absl_handler().python_handler, "stream", io.StringIO())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _own_command_line(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.chdir(tmp_path)  # Hydra makes its folders where it runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=nope", "data.root=x"], "experiment/nope"),
        (["experiment=smoke", "data.root=x", "optim.stepz=3"], "stepz"),
    ],
)
def test_what_hydra_refuses_is_one_usage_error(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        launch(arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=smoke"], "give data.root=…"),
        (["experiment=smoke", "data.root=x", "data.crop=1"], "data.crop = 1"),
    ],
)
def test_what_the_schema_refuses_ends_with_the_code_of_a_usage_error(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        launch(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def _tiny(root) -> list[str]:
    return [
        "experiment=smoke", f"data.root={root}", "optim.steps=1", "optim.batch=2", "threads=1", "data.workers=0",
        "loggers=[]", "model.depth=2", "model.width=[8,8]", "model.stem=4", "data.holdout=[two]",
    ]  # fmt: skip


@pytest.fixture
def root(tmp_path, place_factory):
    for seed, name in enumerate(("one", "two")):
        place_factory(tmp_path / "data" / name, seed)
    return tmp_path / "data"


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_a_run_says_where_everything_lies(root, tmp_path, capsys):
    launch([*_tiny(root), "out=run"])
    told = capsys.readouterr().out
    assert "run/weights.safetensors" in told
    assert "1 steps" in told
    launch([*_tiny(root), "out=run", "--json"])  # complete already
    summary = json.loads(capsys.readouterr().out)
    assert (tmp_path / summary["files"]["weights"]).is_file()


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_each_job_of_a_sweep_has_a_folder_of_its_own(root, tmp_path, capsys):
    launch(["--multirun", *_tiny(root), "seed=0,1", "out=sweep", "--json"])
    del capsys
    seeds = [
        json.loads((tmp_path / "sweep" / f"job-{n}" / "train.json").read_text())["settings"]["seed"] for n in (0, 1)
    ]
    assert seeds == [0, 1]
