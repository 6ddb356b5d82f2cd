"""Initial weights: from where they are said to come, adapted to other bands, refused where they do not fit."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from tuban.errors import ModelError, UsageError
from tuban.models.initialise import adapted, csmask_weights
from tuban.models.network import NetworkSpec, build

RGB = ("B04", "B03", "B02")
SPEC = NetworkSpec(RGB, (1, 18), (0.4,) * 3, (0.2,) * 3, encoder="resnet18", depth=2, width=(16, 8))


def test_filters_of_other_bands_keep_their_sum():
    filters = torch.rand(5, 3, 3, 3)
    made = adapted(filters, RGB, ("B02", "B08", "B04"))
    torch.testing.assert_close(made[:, 0], filters[:, 2])
    torch.testing.assert_close(made[:, 1], filters.mean(1))
    wider = adapted(filters, RGB, (*RGB, "B08"))
    torch.testing.assert_close(wider.sum(1), filters.sum(1))


def test_an_earlier_run_gives_all_that_fits_and_its_bands_are_known(tmp_path):
    earlier = build(dataclasses.replace(SPEC, bands=("B02", "B08"), mean=(0.1,) * 2, std=(0.1,) * 2))
    save_file(earlier.state_dict(), str(tmp_path / "weights.safetensors"))
    (tmp_path / "spec.json").write_text(json.dumps(dataclasses.asdict(earlier.spec)))
    network = build(SPEC, initialise=tmp_path / "weights.safetensors")
    here, there = network.state_dict(), earlier.state_dict()
    torch.testing.assert_close(here["encoder.conv1.weight"][:, 2], there["encoder.conv1.weight"][:, 0] * 2 / 3)
    torch.testing.assert_close(here["change_decoder.blocks.0.0.weight"], there["change_decoder.blocks.0.0.weight"])
    torch.testing.assert_close(here["mean"].flatten(), torch.tensor(SPEC.mean))


def test_as_many_bands_in_another_order_are_not_taken_for_the_same(tmp_path):
    torch.manual_seed(0)
    earlier = build(SPEC)
    save_file(earlier.state_dict(), str(tmp_path / "weights.safetensors"))
    (tmp_path / "spec.json").write_text(json.dumps(dataclasses.asdict(SPEC)))
    network = build(dataclasses.replace(SPEC, bands=RGB[::-1]), initialise=tmp_path / "weights.safetensors")
    here, there = network.state_dict(), earlier.state_dict()
    torch.testing.assert_close(here["encoder.conv1.weight"], there["encoder.conv1.weight"].flip(1))
    for name in ("stem.0.0.weight", "difference.0.weight"):
        assert not torch.equal(here[name], there[name])
    assert torch.equal(here["stem.1.0.weight"], there["stem.1.0.weight"])


def test_the_weights_of_a_bundle_start_a_network_of_its_bands(tmp_path):
    """No `spec.json` stands beside them; four bands are not red, green and blue."""
    spec = dataclasses.replace(SPEC, bands=(*RGB, "B08"), mean=(0.1,) * 4, std=(0.1,) * 4)
    earlier = build(spec).state_dict()
    save_file(earlier, str(tmp_path / "model.safetensors"))
    here = build(spec, initialise=tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(here[name], value) for name, value in earlier.items())


def test_the_weights_of_an_encoder_alone(tmp_path):
    encoder = build(SPEC).encoder
    save_file(encoder.state_dict(), str(tmp_path / "encoder.safetensors"))
    loaded = build(SPEC, initialise=str(tmp_path / "encoder.safetensors")).encoder
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in encoder.state_dict().items())


def test_weights_of_another_encoder_and_pickles_are_refused(tmp_path):
    save_file({"weight": torch.zeros(1)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ModelError, match=r"lack .* tensors of encoder resnet18"):
        build(SPEC, initialise=tmp_path / "other.safetensors")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pickle.pth")
    with pytest.raises(ModelError, match="pickled checkpoints are never opened"):
        build(SPEC, initialise=tmp_path / "pickle.pth")


@pytest.mark.parametrize(
    ("source", "said"), [("imagenet", "ImageNet weights are at hand"), ("csmask", "efficientnet-b4")]
)
def test_sources_that_have_no_such_encoder_are_refused(source, said):
    with pytest.raises(UsageError, match=said):
        build(SPEC, initialise=source)
    with pytest.raises(UsageError, match="neither"):
        build(SPEC, initialise="somewhere")


def test_csmask_gives_its_encoder_tensor_by_tensor():
    pytest.importorskip("ukis_csmask", reason="ukis-csmask holds the weights")
    bands = ("B08", "B03", "B11")
    spec = dataclasses.replace(SPEC, bands=bands, encoder="efficientnet-b4", classes=())
    state, had = csmask_weights(bands)
    assert had == ("B02", "B03", "B04", "B08", "B11", "B12")
    loaded = build(spec, initialise="csmask").encoder.state_dict()
    stem = loaded.pop("_conv_stem.weight")
    torch.testing.assert_close(stem[:, 0], state["_conv_stem.weight"][:, 3] * 2)
    taken = [name for name in loaded if not name.endswith("num_batches_tracked")]
    assert all(torch.equal(loaded[name], state[name]) for name in taken)
