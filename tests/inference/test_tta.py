from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuban.inference.tta import D4Backend, augmented, symmetries, turn, turn_back

VIEWS = symmetries("d4")


class Lopsided:
    """A network with every direction in it: a mean with other weights to each side, and a squashing."""

    name = "lopsided-cpu"
    notes = ("a note",)

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.wanted: list[list[str]] = []

    def run(self, feeds, wanted):
        self.wanted.append(list(wanted))
        values = feeds["after"] - feeds["before"]
        assert values.flags.c_contiguous
        self.shapes.append(values.shape)
        wide = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        mixed = 0.5 * values + 0.3 * wide[..., 2:, 1:-1] + 0.15 * wide[..., 1:-1, 2:] - 0.4 * wide[..., :-2, :-2]
        cover = np.exp(4 * mixed)
        cover /= cover.sum(axis=1, keepdims=True)
        made = {"change": 1 / (1 + np.exp(-mixed[:, 0])), "landcover_before": cover, "landcover_after": cover[:, ::-1]}
        return {name: made[name] for name in wanted}


def feeds(height: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    before, after = np.random.default_rng(seed).random((2, 2, 3, height, width), dtype=np.float32)
    return {"before": before, "after": after}


def by_rotation(values: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    return np.rot90(values[..., ::-1] if mirrored else values, turns, axes=(-2, -1))


def back_by_rotation(values: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    values = np.rot90(values, -turns, axes=(-2, -1))
    return values[..., ::-1] if mirrored else values


def naive(network, given, name):
    """The mean over the group as rotations and mirror images, in float64, all eight kept."""
    answers = []
    for turns in range(4):
        for mirrored in (False, True):
            seen = {key: by_rotation(value, turns, mirrored).copy() for key, value in given.items()}
            answers.append(back_by_rotation(network.run(seen, [name])[name], turns, mirrored))
    return np.mean(np.array(answers, dtype=np.float64), axis=0)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(VIEWS), st.integers(1, 5), st.integers(1, 5))
def test_what_is_turned_can_be_turned_back(view, height, width):
    values = np.arange(2 * height * width).reshape(2, height, width)
    np.testing.assert_array_equal(turn_back(turn(values, view), view), values)


def test_the_views_are_the_group_of_the_square():
    values = np.arange(9).reshape(3, 3)
    seen = {turn(values, view).tobytes() for view in VIEWS}
    assert seen == {by_rotation(values, turns, m).copy().tobytes() for turns in range(4) for m in (False, True)}
    assert len(seen) == 8
    np.testing.assert_array_equal(turn(values, VIEWS[0]), values)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
@pytest.mark.parametrize("name", ["change", "landcover_after"])
def test_it_is_the_mean_of_all_views(height, width, name):
    given_feeds = feeds(height, width)
    made = D4Backend(Lopsided()).run(given_feeds, [name])
    assert list(made) == [name]
    assert made[name].dtype == np.float32
    np.testing.assert_allclose(made[name], naive(Lopsided(), given_feeds, name), atol=1e-6)


@pytest.mark.parametrize("view", VIEWS)
def test_a_turned_scene_gives_the_turned_answer(view):
    backend, given_feeds = D4Backend(Lopsided()), feeds(16, 24)
    upright = backend.run(given_feeds, ["change", "landcover_before"])
    turned = backend.run({name: turn(feed, view) for name, feed in given_feeds.items()}, list(upright))
    for name, values in upright.items():
        np.testing.assert_allclose(turn_back(turned[name], view), values, atol=1e-5)
    alone = Lopsided().run(given_feeds, ["change"])["change"]
    assert np.abs(alone - upright["change"]).max() > 1e-2, "a network without directions would show nothing"


def test_classes_are_those_of_the_mean_and_nothing_is_run_twice():
    network, given_feeds = Lopsided(), feeds(8, 8)
    made = D4Backend(network).run(given_feeds, ["landcover_after_class", "change", "landcover_after"])
    confidence = D4Backend(network).run(given_feeds, ["landcover_after_confidence"])["landcover_after_confidence"]
    np.testing.assert_array_equal(confidence, made["landcover_after"].max(axis=1))
    np.testing.assert_array_equal(made["landcover_after_class"], made["landcover_after"].argmax(axis=1))
    assert made["landcover_after_class"].dtype == np.uint8
    assert network.wanted == [["landcover_after", "change"]] * 8 + [["landcover_after"]] * 8


def test_flips_never_turn_the_window():
    network = Lopsided()
    backend = augmented(network, "flips")
    backend.run(feeds(8, 12), ["change"])
    assert network.shapes == [(2, 3, 8, 12)] * 4
    assert backend.name == "lopsided-cpu-flips"
    assert backend.notes == ("a note",)


def test_none_is_the_backend_itself():
    network = Lopsided()
    assert augmented(network, "none") is network


def test_the_same_input_gives_the_same_bytes():
    one, two = (D4Backend(Lopsided()).run(feeds(16, 16), ["change"])["change"] for _ in range(2))
    assert one.tobytes() == two.tobytes()
