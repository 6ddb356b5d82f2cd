import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tuban.data.place import IGNORE
from tuban.errors import SceneError, UsageError
from tuban.training.places import load_split
from tuban.training.settings import SENTINEL2, DataSettings
from tuban.training.statistics import class_weights, positive_weight, require_labels, statistics


@pytest.fixture(scope="module")
def roots(tmp_path_factory, place_factory) -> tuple[Path, Path]:
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    for seed, name in enumerate(("one", "two", "three")):
        place_factory(first / name, seed, labelled=name != "three")
    for seed, name in enumerate(("four", "five")):
        place_factory(second / name, 10 + seed)
    return first, second


def test_sides_of_a_split(roots):
    split = load_split(DataSettings(root=roots[0], validation=("two",), holdout=("one",)))
    sides = split.training, split.validation, split.holdout
    assert [[place.name for place in side] for side in sides] == [["three"], ["two"], ["one"]]
    assert split.weights == [1.0]


def test_data_sets_mix_by_weight(roots):
    data = DataSettings.model_validate({"root": roots[0], "more": [{"root": roots[1], "weight": 3.0}]})
    split = load_split(data)
    weight = {place.name: weight for place, weight in zip(split.training, split.weights, strict=True)}
    assert len(weight) == 5
    assert (weight["four"] + weight["five"]) / (weight["one"] + weight["two"] + weight["three"]) == pytest.approx(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"holdout": ["atlantis"]}, "no place atlantis; there are: one"),
        ({"holdout": ["one", "two", "three"]}, "leave at least one"),
        ({"holdout": ["one"], "validation": ["one"]}, "put it in one"),
        ({"more": "same"}, "also a place of another data set"),
    ],
)
def test_splits_that_cannot_be(roots, changes, message):
    if changes.get("more"):
        changes = {"more": [{"root": roots[0]}]}
    with pytest.raises(UsageError, match=message):
        load_split(DataSettings.model_validate({"root": roots[0]} | changes))


def test_places_on_the_same_ground_are_refused_on_two_sides(tmp_path, place_factory):
    for name in ("one", "two"):
        place_factory(tmp_path / name, 3)
    with pytest.raises(UsageError, match="one side of the split"):
        load_split(DataSettings(root=tmp_path, holdout=("one",)))


def test_the_cache_holds_what_was_read(roots, tmp_path, place_factory):
    plain = load_split(DataSettings(root=roots[0]))
    for _ in range(2):
        mapped = load_split(DataSettings(root=roots[0], cache=tmp_path / "cache"))
        for a, b in zip(plain.training, mapped.training, strict=True):
            assert isinstance(b.before, np.memmap)
            assert (a.name, a.group, a.dataset, a.gsd_m, a.footprint) == (
                b.name,
                b.group,
                b.dataset,
                b.gsd_m,
                b.footprint,
            )
            for name in ("before", "after", "change", "landcover_before", "weight_after"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    # A file that changes is read anew.
    folder = tmp_path / "data"
    place_factory(folder / "one", 1)
    first = load_split(DataSettings(root=folder, cache=tmp_path / "other")).training[0].before.copy()
    for path in (folder / "one").iterdir():
        path.unlink()
    (folder / "one").rmdir()
    place_factory(folder / "one", 2)
    assert not np.array_equal(first, load_split(DataSettings(root=folder, cache=tmp_path / "other")).training[0].before)


def test_the_cache_follows_the_description_and_may_lie_beside_the_data(tmp_path, place_factory):
    root = tmp_path / "data"
    place_factory(root / "one", 1)
    described = tmp_path / "own.yaml"
    text = (
        f"id: own\nbands: [{', '.join(SENTINEL2)}]\ngeoreferenced: true\nroles:\n"
        "  - {role: before, path: '{item}/before.tif'}\n  - {role: after, path: '{item}/after.tif'}\n"
        "  - {role: change, path: '{item}/change.tif', unknown: UNKNOWN}\n"
    )
    data = DataSettings(root=root, dataset=str(described), cache=root / "cache")
    described.write_text(text.replace("UNKNOWN", "[]"), encoding="utf-8")
    for _ in range(2):
        (place,) = load_split(data).training
        assert (place.change == 1).any()
        assert len(list((root / "cache").iterdir())) == 1
    described.write_text(text.replace("UNKNOWN", "[1]"), encoding="utf-8")
    assert not (load_split(data).training[0].change == 1).any()


def test_a_folder_without_places_is_said_to_be_one(tmp_path):
    (tmp_path / "dataset.yaml").write_text(
        "id: own\nbands: [B04]\nroles: [{role: image, path: 'image/{item}.tif'}]", encoding="utf-8"
    )
    with pytest.raises(SceneError, match="no place here; `tuban data verify"):
        load_split(DataSettings(root=tmp_path))


def test_no_place_is_not_every_place(roots):
    with pytest.raises(UsageError, match="leave at least one"):
        load_split(DataSettings(root=roots[0], places=()))


def test_places_that_teach_nothing_are_refused(city_factory):
    bare = city_factory(labelled=False)
    require_labels([bare, city_factory()], "change")
    require_labels([bare], "landcover")  # its land cover is labelled
    with pytest.raises(UsageError, match="no training place has a label of change"):
        require_labels([bare], "change")
    # Single images with land cover are made into pairs.
    require_labels([dataclasses.replace(bare, after=None)], "change")
    bare.landcover_before[:] = bare.landcover_after[:] = IGNORE
    for place, task in ((bare, "landcover"), (dataclasses.replace(bare, after=None), "change")):
        with pytest.raises(UsageError, match="nothing can be learnt"):
            require_labels([place], task)


def test_statistics_are_those_of_the_pixels(city):
    bands = ("B02", "B03", "B04", "B08")
    mean, std = statistics([city], bands)
    pixels = np.concatenate(
        [i.reshape(4, -1)[:, np.isfinite(i.reshape(4, -1)).all(0)] for i in (city.before, city.after)], 1
    )
    np.testing.assert_allclose(mean, pixels.mean(1), atol=1e-3)
    np.testing.assert_allclose(std, pixels.std(1), atol=1e-3)


def test_a_band_that_some_images_lack_is_measured_on_the_others(city_factory):
    one, two = city_factory(), city_factory("two", seed=1)
    expected = statistics([one], ("B02", "B03", "B04", "B08"))[0][3]
    two.before[3] = two.after[3] = np.nan
    assert statistics([one, two], ("B02", "B03", "B04", "B08"))[0][3] == pytest.approx(expected, abs=1e-3)
    one.before[3] = one.after[3] = np.nan
    with pytest.raises(UsageError, match="no training place has B08"):
        statistics([one, two], ("B02", "B03", "B04", "B08"))


def test_weights_from_the_labels(city):
    city.landcover_before[:], city.landcover_after[:] = 0, 0
    city.landcover_before[:24] = 1  # a quarter of one date, an eighth of both
    balanced = class_weights([city], 3, "balanced")
    assert balanced[1] / balanced[0] == pytest.approx(7, rel=1e-5)
    assert balanced[2] == 0  # does not occur
    root = class_weights([city], 3, "sqrt")
    assert root[1] / root[0] == pytest.approx(7**0.5, rel=1e-5)
    assert (root * [7 / 8, 1 / 8, 0]).sum() == pytest.approx(1)
    assert class_weights([city], 3, "none") is None
    changed, unchanged = (city.change == 1).sum(), (city.change == 0).sum()
    assert positive_weight([city]) == pytest.approx(unchanged / changed, abs=1e-3)
