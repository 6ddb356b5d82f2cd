import sys

import pytest

from tuban.errors import UsageError
from tuban.training.app import launch


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
