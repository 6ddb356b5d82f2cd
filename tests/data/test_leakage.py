from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuban.data.leakage import check_leakage
from tuban.data.place import IGNORE, Place
from tuban.errors import UsageError


def make(name, seed, *, group="", footprint=None, dataset="d", bands=3, single=False):
    rng = np.random.default_rng(seed)
    before, after = (rng.uniform(0, 0.5, (bands, 12, 12)).astype(np.float32) for _ in range(2))
    unknown = np.full((12, 12), IGNORE, np.uint8)
    rest = [unknown] * 5
    return Place(name, before, None if single else after, *rest, dataset=dataset, group=group, footprint=footprint)


def test_places_that_share_nothing_pass():
    train = [make("a", 1, footprint=(0, 0, 1, 1)), make("b", 2, footprint=(1, 0, 2, 1)), make("c", 3)]
    test = [make("d", 4, footprint=(0, 1, 1, 2)), make("e", 5), make("e", 6, dataset="other")]
    check_leakage(train, test)


def test_overlapping_ground_names_both_places():
    train = [make("far", 1, footprint=(5, 5, 6, 6)), make("east", 2, footprint=(0, 0, 1, 1))]
    with pytest.raises(UsageError, match=r"d/east \(train\) and d/west \(test\) .* footprints overlap"):
        check_leakage(train, [make("west", 3, footprint=(0.999, 0.5, 2, 1))])


def test_one_group_names_both_places_but_not_across_data_sets():
    train = [make("tile_1", 1, group="tile")]
    with pytest.raises(UsageError, match=r"d/tile_1 .* d/tile_2 .*one group, 'tile'"):
        check_leakage(train, [make("tile_2", 2, group="tile")])
    check_leakage(train, [make("tile_2", 2, group="tile", dataset="other")])
    with pytest.raises(UsageError, match="one group, 'a'"):  # a place without a group is its own
        check_leakage([make("a", 1)], [make("a", 2)])


@pytest.mark.parametrize(
    "turn", [lambda image: image, lambda image: image[:, ::-1], lambda image: np.rot90(image, 1, (1, 2))]
)
def test_an_identical_image_is_found_whatever_it_is_called_and_however_it_lies(turn):
    first, second = make("a", 1), make("b", 2)
    second = replace(second, after=np.ascontiguousarray(turn(first.before)))
    with pytest.raises(UsageError, match=r"d/a .* d/b .* identical image"):
        check_leakage([first], [second])
    changed = second.after.copy()
    changed[0, 0, 0] += 0.01
    check_leakage([first], [replace(second, after=changed)])


def test_images_that_show_nothing_are_no_copies_of_one_another():
    black = np.zeros((3, 12, 12), np.float32)
    empty = np.full_like(black, np.nan)
    for image in (black, empty):
        check_leakage([replace(make("a", 1), before=image)], [replace(make("b", 2), before=image)])


@given(st.tuples(*[st.floats(-1, 1)] * 4), st.tuples(*[st.floats(-1, 1)] * 4))
def test_the_check_is_the_same_from_both_sides(first, second):
    def box(corners):
        west, east = sorted(corners[:2])
        south, north = sorted(corners[2:])
        return west, south, east, north

    a, b = make("a", 1, footprint=box(first)), make("b", 2, footprint=box(second))

    def refused(train, test):
        try:
            check_leakage([train], [test])
        except UsageError:
            return True
        return False

    shared = [min(box(first)[i + 2], box(second)[i + 2]) - max(box(first)[i], box(second)[i]) for i in (0, 1)]
    if min(shared) > 1e-4:
        assert refused(a, b)
        assert refused(b, a)
    if min(shared) < 0:
        assert not refused(a, b)
        assert not refused(b, a)
