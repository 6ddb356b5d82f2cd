from __future__ import annotations

import numpy as np
import pytest

from tuban.data.oscd import IGNORE, City


def make_city(name: str = "here", height: int = 96, width: int = 80, *, seed: int = 0, labelled: bool = True) -> City:
    rng = np.random.default_rng(seed)
    before = rng.uniform(0.05, 0.3, (4, height, width)).astype(np.float32)
    after = before + rng.normal(0, 0.005, before.shape).astype(np.float32)
    change = np.zeros((height, width), dtype=np.uint8)
    change[20:40, 30:50] = 1
    after[:, change == 1] += 0.3
    before[:, :2] = after[:, :2] = np.nan
    change[:2] = IGNORE
    if not labelled:
        change[:] = IGNORE
    cover = rng.integers(0, 3, (2, height, width)).astype(np.uint8)
    weight = np.full((2, height, width), 200, dtype=np.uint8)
    return City(name, before, after, change, cover[0], cover[1], weight[0], weight[1], {})


@pytest.fixture
def city() -> City:
    return make_city()


@pytest.fixture
def city_factory():
    return make_city
