"""What a halo costs, on the stub network: it sees two pixels, so a halo of two is exact and one of none is not."""

from __future__ import annotations

import numpy as np
import pytest

from tuban.errors import UsageError
from tuban.inference.backends import open_backend
from tuban.inference.predict import NothingToSeeError
from tuban.inference.products import ChangeProduct
from tuban.inference.seams import Seam, least_halo, measure_seams


@pytest.fixture
def measure(bundle):
    def run(pair, halos, **options):
        return measure_seams(pair, bundle, open_backend("onnx", bundle), ChangeProduct(bundle), halos, **options)

    return run


def test_only_pixels_nearer_to_a_border_than_the_network_sees_differ(measure, stub, bundle):
    pair = stub.random_pair(96, 96)
    none, exact = measure(pair, [0, 2], core=32, rasters=["probability", "landcover_after"])
    assert (none.pixels, exact.pixels) == (pair.valid.sum(),) * 2
    assert exact.differing == {"probability": 0, "landcover_after": 0}
    assert none.differing["landcover_after"] == 0  # the stub's land cover looks at its own pixel only
    rows, cols = np.indices(pair.valid.shape) % 32
    border = (np.minimum(rows, 31 - rows) < 2) | (np.minimum(cols, 31 - cols) < 2)
    assert 0.5 * (border & pair.valid).sum() < none.differing["probability"] <= (border & pair.valid).sum()
    # In windows of the bundle's tile, which without a halo have cores of 32 as here, borders are as frequent.
    assert none.share == pytest.approx(none.differing["probability"] / none.pixels * 32 / bundle.tile)


@pytest.mark.parametrize("halo", [3, -2, 6])
def test_a_halo_that_cannot_be_fed_is_refused(measure, stub, halo):
    with pytest.raises(UsageError, match="multiples of 2 from 0 to 4"):
        measure(stub.random_pair(32, 32), [halo])


def test_a_scene_without_a_valid_pixel_says_nothing(measure, stub):
    with pytest.raises(NothingToSeeError):
        measure(stub.random_pair(32, 32, invalid=1.0), [0])


def test_the_least_halo_is_that_from_which_on_all_are_within_the_limit():
    seams = [Seam(halo, {}, 1, share) for halo, share in ((0, 0.02), (16, 0.0004), (32, 0.002), (48, 0.0003))]
    assert least_halo(seams, reach=64) == 48
    assert least_halo(seams[:1], reach=64) == 64
