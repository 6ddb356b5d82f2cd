import dataclasses
import json

import pytest
import torch

from tuban.errors import UsageError
from tuban.models import encoder
from tuban.models.initialise import lite_weights
from tuban.models.network import ChangeNet, NetworkSpec, build
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


@pytest.mark.parametrize("fusion", ["difference", "concat", "attention"])
def test_change_without_land_cover(fusion):
    network = build(spec(classes=(), fusion=fusion)).train()
    out = network(torch.rand(2, 4, 32, 48), torch.rand(2, 4, 32, 48))
    assert (out.landcover_before, out.landcover_after) == (None, None)
    assert out.change.shape == (2, 32, 48)
    out.change.sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_land_cover_alone_is_that_half_of_the_change_network(network):
    half = build(spec(task="landcover")).eval()
    half.load_state_dict({name: network.state_dict()[name] for name in half.state_dict()})
    image = torch.rand(1, 4, 32, 48)
    with torch.inference_mode():
        out = half(image)
        assert (out.landcover_after, out.change) == (None, None)
        torch.testing.assert_close(out.landcover_before, network(image, image).landcover_before)


def test_a_spec_goes_through_json():
    there = spec(fusion="concat", classes=[], width=[24, 16], depth=2)
    assert NetworkSpec(**json.loads(json.dumps(dataclasses.asdict(there)))) == there
    assert spec().fusion == "all"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mean": (0.1,)}, "one of each"),
        ({"depth": 3}, "one for each stage"),
        ({"fusion": "sum"}, "use all, difference"),
        ({"task": "landcover", "classes": ()}, "needs classes"),
    ],
)
def test_a_spec_that_does_not_fit_together_is_refused(wrong, said):
    with pytest.raises(UsageError, match=said):
        spec(**wrong)


def test_an_encoder_of_one_size_of_image_is_refused(monkeypatch):
    """Swin and its like assert it; that none of them is built here spares seconds."""

    class OneSize(torch.nn.Conv2d):
        out_channels = (4, 8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[-1] == 224, f"Input width ({x.shape[-1]}) doesn't match model (224)."
            return x

    monkeypatch.setattr(encoder, "get_encoder", lambda *_, **__: OneSize(4, 8, 3))
    with pytest.raises(UsageError, match=r"doesn't match model \(224\).*takes any size"):
        build(spec(depth=2, width=(8, 8)))


def test_swapping_the_dates_swaps_the_land_cover(network):
    before, after = torch.rand(1, 4, 32, 32), torch.rand(1, 4, 32, 32)
    with torch.inference_mode():
        forth, back = network(before, after), network(after, before)
    torch.testing.assert_close(forth.landcover_before, back.landcover_after)
    torch.testing.assert_close(forth.landcover_after, back.landcover_before)


def test_imagenet_filters_reach_the_bands_they_saw():
    first = next(iter(lite_weights().values()))
    loaded = build(spec(), initialise="imagenet").encoder.model.conv_stem.weight
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


def test_a_reach_beyond_every_trial_image_is_none(network):
    assert receptive_reach(network, sizes=(128, 192)) is None


def test_the_reach_of_plain_convolutions_is_counted_by_hand():
    """Two 3 x 3 convolutions and a stride-2 pyramid with a known kernel: the oracle is arithmetic."""

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spec = spec(depth=1, width=(1,))
            self.one, self.two = torch.nn.Conv2d(4, 2, 3, padding=1), torch.nn.Conv2d(2, 1, 5, padding=2)

        def normalise(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nan_to_num(x)

        def forward(self, before: torch.Tensor, _after: torch.Tensor) -> tuple[torch.Tensor, ...]:
            coarse = torch.nn.functional.max_pool2d(self.two(self.one(self.normalise(before))), 2)
            return (torch.nn.functional.interpolate(coarse, scale_factor=2.0)[:, 0],)

    # One pixel and two for the convolutions; a pooled cell passes to its other pixel.
    assert receptive_reach(Plain(), sizes=(32,)) == 1 + 2 + 1
