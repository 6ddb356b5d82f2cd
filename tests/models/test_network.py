import pytest
import torch

from tuban.models.encoder import lite0_weights
from tuban.models.network import ChangeNet, NetworkSpec
from tuban.models.reach import receptive_reach

BANDS = ("B02", "B03", "B04", "B08")


def spec(**changes: object) -> NetworkSpec:
    values = {"bands": BANDS, "classes": (1, 7, 18), "mean": (0.1,) * 4, "std": (0.05,) * 4} | changes
    return NetworkSpec(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> ChangeNet:
    torch.manual_seed(0)
    return ChangeNet(spec()).eval()


@pytest.mark.parametrize(("depth", "stride"), [(2, 4), (3, 8)])
def test_other_depths_are_built(depth, stride):
    network = ChangeNet(spec(depth=depth, width=(24,) * depth)).eval()
    assert network.spec.stride == stride
    assert network(torch.rand(1, 4, 64, 64), torch.rand(1, 4, 64, 64)).change.shape == (1, 64, 64)


def test_shapes(network):
    out = network(torch.rand(2, 4, 64, 48), torch.rand(2, 4, 64, 48))
    assert out.landcover_before.shape == out.landcover_after.shape == (2, 3, 64, 48)
    assert out.change.shape == (2, 64, 48)


def test_nan_is_the_training_mean(network):
    before, after = torch.rand(1, 4, 32, 32), torch.rand(1, 4, 32, 32)
    hole, filled = before.clone(), before.clone()
    hole[:, 2] = torch.nan
    filled[:, 2] = 0.1
    with torch.inference_mode():
        for a, b in zip(network(hole, after), network(filled, after), strict=True):
            torch.testing.assert_close(a, b)


def test_swapping_the_dates_swaps_the_land_cover(network):
    before, after = torch.rand(1, 4, 32, 32), torch.rand(1, 4, 32, 32)
    with torch.inference_mode():
        forth, back = network(before, after), network(after, before)
    torch.testing.assert_close(forth.landcover_before, back.landcover_after)
    torch.testing.assert_close(forth.landcover_after, back.landcover_before)


def test_imagenet_filters_reach_the_bands_they_saw():
    first = next(iter(lite0_weights().values()))
    loaded = ChangeNet(spec(), imagenet=True).encoder.model.conv_stem.weight
    scale = 3 / len(BANDS)
    torch.testing.assert_close(loaded[:, 2], first[:, 0] * scale)  # B04 is the red of RGB
    torch.testing.assert_close(loaded[:, 0], first[:, 2] * scale)  # B02 its blue
    torch.testing.assert_close(loaded[:, 3], first.mean(1) * scale)  # B08 saw nothing


def test_every_parameter_takes_part():
    network = ChangeNet(spec()).train()
    out = network(torch.rand(2, 4, 64, 64), torch.rand(2, 4, 64, 64))
    (out.change.sum() + out.landcover_before.sum() + out.landcover_after.sum()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_nothing_beyond_the_reach_moves_an_output(network):
    """The independent oracle: light pixels just outside the measured reach and look for any effect."""
    reach = receptive_reach(network)
    assert reach % network.spec.stride != 0 or reach > 0
    size, middle = 480, 240
    torch.manual_seed(1)
    before, after = torch.rand(1, 4, size, size) * 0.3, torch.rand(1, 4, size, size) * 0.3
    far = before.clone()
    far[:, :, : middle - reach] = 0.9
    far[:, :, middle + reach + 1 :] = 0.9
    far[:, :, :, : middle - reach] = 0.9
    far[:, :, :, middle + reach + 1 :] = 0.9
    with torch.inference_mode():
        a, b = network(before, after), network(far, after)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x[..., middle, middle], y[..., middle, middle], rtol=1e-5, atol=1e-5)


def test_a_trial_image_too_small_for_the_reach_is_said(network):
    with pytest.raises(ValueError, match="does not fit"):
        receptive_reach(network, size=128)
