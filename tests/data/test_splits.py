import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from tuban.data.dataset import open_folder
from tuban.data.splits import authors_split, choose_split, folds, holdout, place_groups
from tuban.errors import SceneError, UsageError

GROUPS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.sampled_from("wxyz"), min_size=4)


@given(GROUPS, st.integers(0, 5))
def test_folds_hold_every_place_once_and_keep_groups_whole(groups, seed):
    count = len(set(groups.values()))
    if count < 2:
        with pytest.raises(UsageError, match="cannot fill"):
            folds(groups, 2, seed)
        return
    dealt = folds(groups, count, seed)
    assert dealt == folds(groups, count, seed)
    assert sorted(name for fold in dealt for name in fold) == sorted(groups)
    assert all(dealt)
    for group in set(groups.values()):
        assert sum(any(groups[name] == group for name in fold) for fold in dealt) == 1


@given(GROUPS, st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_holdout_keeps_groups_whole_and_neither_side_empty(groups, share, seed):
    if len(set(groups.values())) < 2:
        with pytest.raises(UsageError, match="at least two groups"):
            holdout(groups, share, seed)
        return
    train, held = holdout(groups, share, seed)
    assert train
    assert held
    assert sorted([*train, *held]) == sorted(groups)
    assert not {groups[name] for name in train} & {groups[name] for name in held}


def test_a_share_outside_of_0_to_1_is_refused():
    with pytest.raises(UsageError, match="share of 1 of 2 groups"):
        holdout({"a": "a", "b": "b"}, 1)


@pytest.fixture
def own(tmp_path):
    for name in ("x_1", "x_2", "y_1"):
        for folder in ("image", "label"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}.png").touch()
    return tmp_path


def describe(folder, split):
    (folder / "dataset.yaml").write_text(
        "id: own\nbands: [B04, B03, B02]\ngroup: '^[xy]'\nroles:\n"
        "  - {role: image, path: 'image/{item}.png'}\n"
        f"  - {{role: change, path: 'label/{{item}}.png', required: false}}\nsplit: {split}\n",
        encoding="utf-8",
    )


def test_groups_come_from_the_description(own):
    describe(own, "{by: name, test: [y_1], rest: train}")
    assert place_groups(own) == {"x_1": "x", "x_2": "x", "y_1": "y"}
    assert authors_split(own) == {"train": ["x_1", "x_2"], "validation": [], "test": ["y_1"]}


def test_a_split_by_lists_takes_paths_and_suffixes(own):
    describe(own, "{by: file, train: [lists/train.txt], test: [lists/test.txt]}")
    (own / "lists").mkdir()
    (own / "lists" / "train.txt").write_text("image/x_1.png\nx_2\n", encoding="utf-8")
    with pytest.raises(SceneError, match=r"test\.txt: the list of the test places cannot be read"):
        authors_split(own)
    (own / "lists" / "test.txt").write_text("y_1.png\n", encoding="utf-8")
    assert authors_split(own) == {"train": ["x_1", "x_2"], "validation": [], "test": ["y_1"]}
    (own / "lists" / "test.txt").write_text("y_1.png\nx_1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="x_1 stands in train and test"):
        authors_split(own)


def test_a_list_from_a_text_editor_of_names_with_spaces(own):
    """One name a line, whatever is in it; the mark that some editors put at the head of a file is no part of one."""
    for folder in ("image", "label"):
        (own / folder / "地块 7.png").touch()
    describe(own, "{by: file, train: [train.txt], test: [test.txt]}")
    (own / "train.txt").write_text("x_1.png\r\n\r\n地块 7.png\r\n", encoding="utf-8-sig", newline="")
    (own / "test.txt").write_text("y_1", encoding="utf-8")
    assert authors_split(own) == {"train": ["x_1", "地块 7"], "validation": [], "test": ["y_1"]}


def test_a_field_that_no_path_has_is_refused(own):
    describe(own, "{by: split, train: [train]}")
    with pytest.raises(UsageError, match=r"split by 'split': use name, file or a field of the paths: item"):
        authors_split(own)


def test_no_split_is_said(own):
    describe(own, "null")
    with pytest.raises(UsageError, match="no split of its authors; split it by group"):
        authors_split(own)


def georeferenced(tmp_path, names, columns):
    for name, column in zip(names, columns, strict=True):
        transform = Affine(10, 0, 500_000 + 10 * column, 0, -10, 4_000_000)
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 20, "width": 20}
        with rasterio.open(tmp_path / f"{name}.tif", "w", crs="EPSG:32650", transform=transform, **profile) as target:
            target.write(np.ones((3, 20, 20), np.uint8))
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "dataset.yaml").write_text(
        "id: own\nbands: [B04, B03, B02]\ngeoreferenced: true\nroles:\n"
        "  - {role: image, path: '{item}.tif'}\n  - {role: change, path: '{item}.png'}\n",
        encoding="utf-8",
    )
    return open_folder(tmp_path)


def test_places_that_overlap_on_the_ground_are_drawn_together(tmp_path):
    # b overlaps a and c, d begins where c ends, e and f lie apart.
    folder = georeferenced(tmp_path, "abcdef", [0, 15, 30, 50, 200, 300])
    for seed in range(5):
        parts = choose_split(folder, share=0.3, seed=seed)
        assert sorted(name for names in parts.values() for name in names) == list("abcdef")
        assert all(parts.values())
        assert sum(bool({"a", "b", "c"} & set(names)) for names in parts.values()) == 1


def test_the_authors_test_part_is_kept_and_a_validation_part_drawn(own):
    describe(own, "{by: name, test: [y_1], rest: train}")
    with pytest.raises(UsageError, match="at least two groups"):
        choose_split(open_folder(own))  # x_1 and x_2 are one group
    for folder in ("image", "label"):
        (own / folder / "z_1.png").touch()
    parts = choose_split(open_folder(own))
    assert parts["test"] == ["y_1"]
    assert sorted([parts["train"], parts["validation"]]) == [["x_1", "x_2"], ["z_1"]]


def test_places_without_labels_are_never_tested_on_nor_trained_on_beside_a_test(own):
    describe(own, "{by: name, test: [u_1], rest: train}")
    (own / "image" / "u_1.png").touch()  # the authors' test image, whose label is not public
    (own / "image" / "y_2.png").touch()
    for folder in ("image", "label"):
        (own / folder / "z_1.png").touch()
    for seed in range(6):
        parts = choose_split(open_folder(own), seed=seed)
        kept_out = {*parts["validation"], *parts["test"]}
        assert not kept_out & {"u_1", "y_2"}
        assert "u_1" in parts["train"]
        assert ("y_2" in parts["train"]) == ("y_1" in parts["train"])
