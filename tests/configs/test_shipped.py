"""Tables by name or by path."""

import pytest

from tuban.configs.shipped import named_text, shipped_names, shipped_text
from tuban.errors import UsageError


def test_a_name_is_a_shipped_table_and_anything_else_a_path(tmp_path, monkeypatch):
    own = tmp_path / "own.yaml"
    own.write_text("地: 1\n", encoding="utf-8")
    assert shipped_names("imports") == ("dynamicworld",)
    assert named_text("imports", "dynamicworld", "card") == shipped_text("imports", "dynamicworld")
    assert named_text("imports", str(own), "card") == "地: 1\n"
    (tmp_path / "dynamicworld").mkdir()
    monkeypatch.chdir(tmp_path)  # what lies in the folder of work hides no shipped one
    assert named_text("imports", "dynamicworld", "card") == shipped_text("imports", "dynamicworld")


@pytest.mark.parametrize("name", ["other", "../classes", "missing.yaml", "."])
def test_what_is_neither_is_refused_with_the_names_there_are(name):
    with pytest.raises(UsageError, match=r"no card '.*'; use one of: dynamicworld, or the path of a YAML file"):
        named_text("imports", name, "card")


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "own.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"card .*own\.yaml is no UTF-8 text"):
        named_text("imports", str(tmp_path / "own.yaml"), "card")
