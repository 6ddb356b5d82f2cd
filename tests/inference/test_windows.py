from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuban.errors import UsageError
from tuban.inference.windows import plan_windows, reflected

strides = st.sampled_from([1, 2, 4, 16, 32])


@given(st.integers(1, 700), st.integers(1, 700), strides, st.integers(0, 3), st.integers(1, 6))
def test_every_pixel_is_kept_exactly_once_and_origins_are_multiples_of_the_stride(h, w, stride, halos, cores):
    halo = halos * stride
    step = np.lcm(stride, 16)
    tile = 2 * halo + int(step) * cores
    plan = plan_windows(h, w, tile=tile, halo=halo, stride=stride)
    seen = np.zeros((h, w), int)
    for index, window in enumerate(plan):
        assert window.index == index
        assert (window.row - halo) % stride == (window.col - halo) % stride == 0
        seen[window.row : window.row + window.height, window.col : window.col + window.width] += 1
    assert (seen == 1).all()
    height, width = plan.input_shape
    assert height * width <= tile * tile
    assert height % stride == width % stride == 0
    assert plan.core_height % 16 == plan.core_width % 16 == 0


@given(st.integers(2, 60), st.integers(0, 90), st.integers(-90, 60), st.integers(1, 100))
def test_reflection_is_numpys_over_the_whole_axis(size, halo, start, count):
    start = max(start, -halo)
    padded = np.pad(np.arange(size), halo, mode="reflect")
    stop = min(start + count, size + halo)
    expected = padded[start + halo : stop + halo]
    np.testing.assert_array_equal(reflected(start, count, size, halo)[: len(expected)], expected)


def test_one_pixel_reflects_into_itself():
    assert reflected(-3, 7, 1, 3).tolist() == [0] * 7


def test_a_raster_a_little_larger_than_a_core_is_halved():
    plan = plan_windows(500, 480, tile=512, halo=16, stride=16)
    assert (plan.rows, plan.cols) == (2, 1)
    assert plan.core_height == 256


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(0, 4), st.integers(3, 12))
def test_never_more_is_fed_than_to_even_squares(h, w, halos, cores):
    halo, tile = 16 * halos, 32 * halos + 16 * cores
    rows, cols = (-(-size // (16 * cores)) for size in (h, w))
    even = [-(-size // (count * 16)) * 16 + 2 * halo for size, count in ((h, rows), (w, cols))]
    assert plan_windows(h, w, tile=tile, halo=halo, stride=16).fed_px <= rows * even[0] * cols * even[1]


def test_a_window_may_be_longer_where_it_is_narrower():
    plan = plan_windows(3072, 3072, tile=1024, halo=64, stride=16)
    assert (plan.rows, plan.cols, plan.input_shape) == (3, 4, (1152, 896))


def test_planning_a_province_costs_nothing():
    plan = plan_windows(100_000, 100_000, tile=512, halo=32, stride=16)
    assert len(plan) == plan.rows * plan.cols
    last = plan.window(len(plan) - 1)
    assert (last.row + last.height, last.col + last.width) == (100_000, 100_000)
    with pytest.raises(IndexError, match="window"):
        plan.window(len(plan))


@pytest.mark.parametrize(
    ("height", "tile", "halo", "stride", "match"),
    [(0, 64, 0, 1, "nothing"), (9, 64, 3, 2, "multiple"), (9, 64, 32, 16, "at least 80"), (9, 40, 16, 16, "at least")],
)
def test_impossible_plans_are_refused(height, tile, halo, stride, match):
    with pytest.raises(UsageError, match=match):
        plan_windows(height, 9, tile=tile, halo=halo, stride=stride)
