"""Decoders of segmentation-models-pytorch: built, trained on both dates, and exported."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tuban.errors import UsageError
from tuban.models.deploy import deployed
from tuban.models.encoder import drop_unused
from tuban.models.export import export_onnx
from tuban.models.network import NetworkSpec, build
from tuban.models.reach import receptive_reach

BANDS = ("B02", "B03", "B04", "B08")
SPEC = NetworkSpec(
    BANDS, (1, 7, 18), (0.1,) * 4, (0.05,) * 4, encoder="resnet18", depth=3, width=(16, 12, 8), architecture="Unet"
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]


def dates(count: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.rand(count, 4, 64, 96) for _ in range(2)]


@pytest.mark.parametrize(
    ("architecture", "encoder", "depth"),
    [("FPN", "resnet18", 4), ("Linknet", "resnet18", 3)],
)
def test_every_parameter_of_a_decoder_takes_part(architecture, encoder, depth):
    spec = dataclasses.replace(SPEC, architecture=architecture, encoder=encoder, depth=depth, width=(32,) * depth)
    network = build(spec).train()
    out = network(*(torch.rand(2, 4, 128, 160) for _ in range(2)))
    assert out.change.shape == (2, 128, 160)
    assert out.landcover_before.shape == out.landcover_after.shape == (2, 3, 128, 160)
    sum(part.sum() for part in out).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_land_cover_does_not_depend_on_the_other_date():
    network = build(SPEC).eval()
    before, after = dates(1)
    with torch.inference_mode():
        there, swapped = network(before, after), network(after, before)
        alone = build(dataclasses.replace(SPEC, task="landcover")).eval()
        alone.load_state_dict({name: network.state_dict()[name] for name in alone.state_dict()})
        torch.testing.assert_close(there.landcover_before, swapped.landcover_after, rtol=0, atol=1e-4)
        torch.testing.assert_close(alone(before).landcover_before, there.landcover_before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", ["Unet", "UPerNet"])
def test_the_exported_graph_agrees_at_other_sizes(tmp_path, architecture):
    """UPerNet pools to 2 x 2, 3 x 3 and 6 x 6 cells, which ONNX knows for fixed sizes only."""
    spec = dataclasses.replace(SPEC, architecture=architecture, classes=())
    assert export_onnx(deployed(build(spec).eval()), tmp_path / "model.onnx", bands=4, stride=8) < 1e-4


def test_a_network_that_looks_at_the_whole_tile_has_no_reach():
    assert receptive_reach(build(dataclasses.replace(SPEC, architecture="PAN", classes=())), sizes=(128,)) is None


def test_an_encoder_keeps_only_what_its_features_need():
    network = build(SPEC)
    assert not any("layer4" in name for name, _ in network.encoder.named_parameters())
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    drop_unused(network.encoder, 4, 16)
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "Unett"}, "architecture 'Unett' is not known; use tuban, DeepLabV3"),
        ({"architecture": "DPT"}, "not known"),
        ({"encoder": "resnet19"}, "'resnet19'"),
        ({"architecture": "tuban", "encoder": "resnet19"}, "'resnet19'"),
    ],
)
def test_what_does_not_exist_is_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        build(dataclasses.replace(SPEC, **changes))
