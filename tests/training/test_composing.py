from pathlib import Path

import numpy as np
import pytest

from tuban.data.place import IGNORE
from tuban.training.composing import composed, single_image, swapped, with_change, with_rectangle, with_regions
from tuban.training.cutting import cut
from tuban.training.settings import AugmentSettings, DataSettings

SIZE = 32
DATA = DataSettings(root=Path(), bands=("B02", "B03", "B04", "B08"), classes=(1, 7, 18), crop=SIZE)


def crop(seed: int, *, changed: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    before = rng.uniform(0.1, 0.3, (4, SIZE, SIZE)).astype(np.float32)
    after, change = before.copy(), np.zeros((SIZE, SIZE), np.uint8)
    cover = np.zeros((2, SIZE, SIZE), np.uint8)
    if changed:
        change[8:16, 8:16] = 1
        after[:, change == 1] = 0.9
        cover[1][change == 1] = 2
    weight = np.full((2, SIZE, SIZE), 255, np.uint8)
    names = ("landcover_before", "landcover_after", "weight_before", "weight_after")
    return {"before": before, "after": after, "change": change} | dict(zip(names, [*cover, *weight], strict=True))


def test_pasted_change_is_labelled_where_it_shows():
    target, donor = crop(0, changed=False), crop(1)
    got = with_change(target, donor)
    where = donor["change"] == 1
    assert np.array_equal(got["change"], donor["change"])
    assert (got["after"][:, where] > 0.6).all()
    assert np.array_equal(got["after"][:, ~where], target["after"][:, ~where])
    assert np.array_equal(got["before"], target["before"])
    assert (got["landcover_after"][where] == 2).all()
    assert np.array_equal(with_change(target, crop(2, changed=False))["change"], target["change"])


def test_change_is_pasted_in_the_radiometry_of_the_place():
    target, donor = crop(0, changed=False), crop(1)
    target["before"] *= 0.8
    target["after"] *= 0.8
    where = donor["change"] == 1
    assert np.median(with_change(target, donor)["after"][:, where]) == pytest.approx(0.9 * 0.8, rel=0.03)


def test_nothing_is_pasted_onto_its_own_class_nor_where_nothing_is_seen_or_known():
    target, donor = crop(0, changed=False), crop(1)
    built = target | {"landcover_before": np.full((SIZE, SIZE), 2, np.uint8)}
    assert (with_change(built, donor)["change"] == 0).all()
    unseen = target | {"before": np.full_like(target["before"], np.nan)}
    assert (with_change(unseen, donor)["change"] == 0).all()
    unlabelled = target | {"change": np.full((SIZE, SIZE), IGNORE, np.uint8)}
    assert (with_change(unlabelled, donor)["change"] == IGNORE).all()


def test_a_rectangle_brings_both_dates_and_all_labels():
    target, donor = crop(0, changed=False), {name: array + 1 for name, array in crop(1).items()}
    got = with_rectangle(target, donor, np.random.default_rng(0))
    taken = got["before"][0] != target["before"][0]
    assert 0.05 < taken.mean() < 0.6
    rows, columns = np.flatnonzero(taken.any(1)), np.flatnonzero(taken.any(0))
    assert taken.sum() == len(rows) * len(columns)
    for name in got:
        assert np.array_equal(got[name][..., taken], donor[name][..., taken]), name
        assert np.array_equal(got[name][..., ~taken], target[name][..., ~taken]), name


def test_swapping_twice_is_nothing():
    given = crop(3)
    once = swapped(given)
    assert np.array_equal(once["before"], given["after"])
    assert np.array_equal(once["weight_after"], given["weight_before"])
    twice = swapped(once)
    assert set(twice) == set(given)
    assert all(np.array_equal(twice[name], given[name]) for name in given)


def single(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    cover = np.repeat(np.repeat(rng.choice([0, 1, 2, IGNORE], (4, 4)), 8, 0), 8, 1).astype(np.uint8)
    image = crop(seed, changed=False)
    return single_image(image | {"landcover_before": cover})


def test_a_pseudo_pair_has_changed_where_the_class_differs():
    target, donor = single(0), single(1)
    got = with_regions(target, donor, np.random.default_rng(0), DATA)
    pasted = (got["after"] != target["after"]).any(axis=0)
    assert 0 < pasted.mean() < 1
    assert np.array_equal(got["after"][:, pasted], donor["before"][:, pasted])
    assert (got["change"][~pasted] == 0).all()
    first, second = got["landcover_before"], got["landcover_after"]
    known = pasted & (first != IGNORE) & (second != IGNORE)
    assert np.array_equal(got["change"][known], (first != second)[known])
    assert (got["change"][pasted & (first == IGNORE)] == IGNORE).all()


def test_only_the_classes_asked_for_count_as_change():
    data = DATA.model_copy(update={"change_to": (18,)})
    for seed in range(10):
        got = with_regions(single(0), single(1), np.random.default_rng(seed), data)
        assert (got["landcover_after"][got["change"] == 1] == 2).all()  # 18 is the third class


def test_a_composed_single_image_is_a_pair(city_factory):
    import dataclasses

    place = dataclasses.replace(city_factory(), after=None)
    rng = np.random.default_rng(0)
    data = DATA.model_copy(update={"foreground": 0.0})

    def draw(foreground: bool) -> dict[str, np.ndarray]:
        return single_image(cut(place, rng, SIZE, 1, None))

    got = [composed(rng, draw, data, AugmentSettings(pseudo_change=1.0)) for _ in range(5)]
    assert all("single" not in one and one["after"].shape == one["before"].shape for one in got)
    assert any((one["change"] == 1).any() for one in got)
