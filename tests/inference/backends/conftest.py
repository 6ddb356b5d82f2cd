"""A bundle of the real network with random weights, small enough to run in every backend."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

MEAN, STD, CLASSES = (0.25, 0.5), (0.2, 0.3), (1, 7, 18)
CALIBRATION = {"slope": 1.5, "intercept": -0.5}


def recorded(spec):
    """What a bundle records of a network, so that it can be built again."""
    return {"encoder": spec.encoder, "depth": spec.depth, "width": list(spec.width), "stem": spec.stem}


@pytest.fixture(scope="session")
def released(stub, tmp_path_factory):
    """A bundle with safetensors and ONNX of one network, exported by the code that makes the shipped ones."""
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from safetensors.torch import save_file

    from tuban.models.deploy import DeployedChange
    from tuban.models.export import export_onnx
    from tuban.models.network import ChangeNet, NetworkSpec

    torch.manual_seed(0)
    spec = NetworkSpec(bands=stub.bands, classes=CLASSES, mean=MEAN, std=STD)
    network = ChangeNet(spec).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.fill_(0.5)  # or a random network says next to nothing
    network.half().float()
    folder = tmp_path_factory.mktemp("released")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the tracing exporter, see tuban.models.export
        export_onnx(DeployedChange(network, **CALIBRATION), folder / "model.onnx", bands=len(stub.bands))
    state = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors")
    model = (folder / "model.onnx").read_bytes()

    class Exported:
        @staticmethod
        def SerializeToString():  # noqa: N802 (as onnx calls it)
            return model

    return stub.make_bundle(
        folder, Exported(), mean=MEAN, std=STD, classes=CLASSES, calibration=CALIBRATION, tile=64, halo=16, stride=16,
        network=recorded(spec),
    )  # fmt: skip


@pytest.fixture(scope="session")
def window():
    """Two windows that are not square, with pixels and a band that are missing."""
    before, after = np.random.default_rng(0).random((2, 2, 2, 48, 64), dtype=np.float32)
    before[0, :, 3:9, 5] = np.nan
    after[1, 1] = np.nan
    return {"before": before, "after": after}
