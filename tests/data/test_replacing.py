"""Files that take their name once they are complete."""

from pathlib import Path

import pytest

from tuban.data.replacing import replacing
from tuban.errors import OutputError


def test_a_whole_file_takes_its_name_in_a_folder_that_was_missing(tmp_path):
    path = tmp_path / "新" / "a.json"
    with replacing(path) as part:
        part.write_text("whole")
        assert part.suffix == ".json"  # writers choose a format by it
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("raised", "told"), [(OSError(28, "No space left on device"), OutputError), (KeyError("x"), KeyError)]
)
def test_after_an_error_the_earlier_file_stands_alone(tmp_path, raised, told):
    path = tmp_path / "a.json"
    path.write_text("earlier")

    def fail():
        with replacing(path) as part:
            part.write_text("ha")
            raise raised

    with pytest.raises(told) as caught:
        fail()
    assert path.read_text() == "earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    if told is OutputError:
        assert f"cannot write {path}: No space left on device; free space" in str(caught.value)


@pytest.mark.parametrize("folder", [".", "/"])
def test_a_folder_instead_of_a_file_is_refused(folder):
    with pytest.raises(OutputError, match="give the name of a file"), replacing(Path(folder)):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), replacing(tmp_path / "file" / "a.json"):
        pytest.fail("nothing is to be written")
