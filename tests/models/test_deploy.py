"""The network as it is shipped against the network as it was trained."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tuban.errors import ModelError
from tuban.models.deploy import DeployedChange, DeployedLandcover, LandcoverOnly, PlainChange, deployed
from tuban.models.export import export_onnx
from tuban.models.folding import softmax
from tuban.models.network import ChangeNet, NetworkSpec

BANDS = ("B02", "B03", "B04", "B08")
pytestmark = [
    # torch deprecates the tracing exporter, and parts it calls itself; docs/models.md says why it is used.
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]


def build(**changes: object) -> ChangeNet:
    """A network with statistics and biases that are not those of the start, or folding them would prove nothing."""
    torch.manual_seed(3)
    values = {"bands": BANDS, "classes": (1, 7, 18), "mean": (0.1, 0.2, 0.3, 0.4), "std": (0.05,) * 4} | changes
    network = ChangeNet(NetworkSpec(**values)).eval()  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def network() -> ChangeNet:
    return build()


@pytest.fixture(scope="module")
def dates() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    before, after = torch.rand(2, 4, 40, 72) * 0.5, torch.rand(2, 4, 40, 72) * 0.5
    before[0, :, :5] = torch.nan
    after[1, 2] = torch.nan
    return before, after


@pytest.mark.parametrize("changes", [{}, {"depth": 3, "width": (32, 16, 16)}])
def test_the_numbers_are_those_of_the_trained_network(dates, changes):
    network = build(**changes)
    before, after = (torch.nn.functional.pad(date, (0, 8, 0, 8), value=0.1) for date in dates)
    with torch.inference_mode():
        logits = network(before, after)
        first, second, change, first_class, second_class = DeployedChange(network, 1.5, -0.5)(before, after)
    torch.testing.assert_close(first, logits.landcover_before.softmax(1), rtol=0, atol=2e-5)
    torch.testing.assert_close(second, logits.landcover_after.softmax(1), rtol=0, atol=2e-5)
    torch.testing.assert_close(change, torch.sigmoid(1.5 * logits.change - 0.5), rtol=0, atol=2e-5)
    assert (first_class == logits.landcover_before.argmax(1)).float().mean() > 0.999
    assert (second_class == logits.landcover_after.argmax(1)).float().mean() > 0.999


def test_change_alone_is_shipped_in_the_fast_form_too(dates):
    network = build(classes=())
    graph = deployed(network, 1.5, -0.5)
    assert isinstance(graph, DeployedChange)
    assert graph.outputs == ("change",)
    padded = [torch.nn.functional.pad(date, (0, 8, 0, 8), value=0.1) for date in dates]
    with torch.inference_mode():
        (change,) = graph(*padded)
        torch.testing.assert_close(change, torch.sigmoid(1.5 * network(*padded).change - 0.5), rtol=0, atol=2e-5)


def test_other_fusions_are_shipped_as_they_were_trained(tmp_path):
    graph = deployed(build(fusion="attention", depth=2, width=(16, 8)))
    assert isinstance(graph, PlainChange)
    assert export_onnx(graph, tmp_path / "model.onnx", bands=4) < 1e-4


def test_the_trained_network_is_left_as_it_was(network, dates):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    DeployedChange(network)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_softmax_holds_for_large_logits():
    logits = torch.tensor([[1000.0, 1001.0, -1000.0]]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(softmax(logits), torch.softmax(logits, 1))


def test_the_graph_pads_inside_its_convolutions(network, tmp_path):
    """A `Pad` node takes the runtime out of its blocked layout and costs a third of the time."""
    path = tmp_path / "model.onnx"
    assert export_onnx(DeployedChange(network, 1.5, -0.5), path, bands=4) < 1e-4
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "Pad" not in kinds
    assert "BatchNormalization" not in kinds
    # One stem convolution for each date: the encoder is run once per date, never twice.
    stems = [node for node in onnx.load(path).graph.node if node.op_type == "Conv" and "conv_stem" in node.name]
    assert len(stems) == 2


def test_the_landcover_half_says_what_the_whole_says(network, dates, tmp_path):
    dates = tuple(torch.nn.functional.pad(date, (0, 8, 0, 8), value=0.1) for date in dates)
    deployed = DeployedLandcover(LandcoverOnly(network), network.spec.mean, network.spec.std)
    with torch.inference_mode():
        logits = network(*dates).landcover_before
        cover, best, confidence = deployed(dates[0])
    torch.testing.assert_close(cover, logits.softmax(1), rtol=0, atol=2e-5)
    torch.testing.assert_close(confidence, cover.amax(1))
    assert torch.equal(best.long(), cover.argmax(1))
    export_onnx(deployed, tmp_path / "half.onnx", bands=4)
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx", providers=["CPUExecutionProvider"])
    got = session.run(["landcover_confidence"], {"image": dates[0].numpy()})[0]
    np.testing.assert_allclose(got, confidence, atol=1e-4)


def test_a_graph_that_differs_is_refused(network, tmp_path, monkeypatch):
    deployed = DeployedChange(network)
    real = torch.onnx.export

    def other(model, *arguments, **options):
        real(DeployedChange(network, 3.0, 1.0).eval(), *arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", other)
    with pytest.raises(ModelError, match="ONNX differs from torch"):
        export_onnx(deployed, tmp_path / "model.onnx", bands=4)
