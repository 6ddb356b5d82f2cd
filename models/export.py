"""From trained weights to a bundle: safetensors, ONNX checked against torch, `mlm.json`, model card."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save

from tuban.errors import ModelError, OutputError
from tuban.models.bundle import MLM_NAME, ONNX_NAME, WEIGHTS_NAME, Bundle
from tuban.models.bundle_spec import declared
from tuban.models.card import CARD_NAME, model_card
from tuban.models.deploy import deployed
from tuban.models.ensemble import joined
from tuban.models.mlm import write_mlm
from tuban.models.reach import receptive_reach
from tuban.models.run import read_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tuban.models.deploy import Deployed
    from tuban.models.spec import NetworkSpec

AGREEMENT = 1e-4
# Side of what the network is fed, pixels: the larger, the less is computed twice in halos, and the more memory.
TILE = 1024
# Halo of a network that sees its whole tile, pixels: no halo makes its tiles agree, this one hides most of the seams.
UNBOUNDED_HALO = 64


def export_onnx(model: Deployed, path: Path, *, bands: int, stride: int = 16) -> float:
    """Write a deployed network as ONNX with dynamic batch, height and width.

    Args:
        model: what is written; knows its inputs and outputs.
        path: the file.
        bands: channels of each input.
        stride: sides are multiples of this many pixels.

    Returns:
        The largest absolute difference to torch on random images of another size than the traced one.

    Raises:
        ModelError: the network cannot be written, or the difference exceeds 1e-4.
    """
    import onnxruntime

    model = model.eval()
    unit = max(stride, 32)
    examples = tuple(torch.rand(2, bands, 3 * unit, 2 * unit) for _ in model.inputs)
    with torch.inference_mode():
        ranks = {name: made.ndim for name, made in zip(model.outputs, model(*examples), strict=True)}
    axes = {name: {0: "n", rank - 2: "height", rank - 1: "width"} for name, rank in ranks.items()}
    try:
        torch.onnx.export(
            model,
            examples,
            str(path),
            input_names=list(model.inputs),
            output_names=list(model.outputs),
            dynamic_axes=axes | {name: {0: "n", 2: "height", 3: "width"} for name in model.inputs},
            opset_version=18,
            dynamo=False,  # the tracing exporter names axes as given and needs no shape guards; there are no branches
        )
    except torch.onnx.errors.OnnxExporterError as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the network cannot be written as ONNX ({line}); choose another encoder or decoder"
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, bands, 4 * unit, 5 * unit, generator=generator) * 0.4 for _ in model.inputs]
    images[0][0, :3] = torch.nan
    with torch.inference_mode():
        expected = model(*images)
    got = session.run(list(model.outputs), {n: i.numpy() for n, i in zip(model.inputs, images, strict=True)})
    pairs = [(a.numpy(), b) for a, b in zip(expected, got, strict=True)]
    worst = max(float(np.abs(a - b).max()) for a, b in pairs if a.dtype != np.uint8)
    # Two classes that are equal but for rounding may change places; NaN compares false.
    if not worst <= AGREEMENT or any((a != b).mean() > AGREEMENT for a, b in pairs if a.dtype == np.uint8):
        raise ModelError(
            f"{path}: ONNX differs from torch by {worst:.2e}, more than {AGREEMENT:.0e}; the export is wrong"
        )
    return worst


def export_bundle(runs: Sequence[Path], out: Path, *, name: str, version: str, facts: Mapping[str, Any]) -> Bundle:
    """Make a bundle from training runs: several are members of one network (`tuban.models.ensemble`).

    Args:
        runs: folders that `tuban train` wrote.
        out: the bundle's folder; made if missing, its files replaced.
        name: bundle name, lowercase.
        version: version of the weights.
        facts: what the bundle declares and the model card prints: `gsd_m`, `required_bands`, `metrics`, `training`;
            of change also `threshold`, `calibration` (slope, intercept) and `change_to_classes`. Where they are given,
            `task` (`landcover` ships that half of a change network), `smooth` (Gaussian over the logits of change,
            pixels), `halo` (else the whole reach, so that tiles agree exactly), `units` and `pretrained` (where the
            weights started from).

    Raises:
        ModelError: a run is incomplete, runs do not fit together, or the ONNX graph differs from torch.
        OutputError: the folder cannot be written.
        UsageError: what the bundle would declare is out of range.
    """
    network = joined([read_run(run, facts.get("task")) for run in runs], facts.get("smooth", 0.0))
    spec = network.spec
    reach = receptive_reach(network)
    halo = -(-(facts.get("halo") or reach or UNBOUNDED_HALO) // spec.stride) * spec.stride
    network.half().float()  # the weights that are shipped, and checked, are those in half precision
    calibration = dict(facts.get("calibration", {}))
    graph = deployed(network, calibration.get("slope", 1.0), calibration.get("intercept", 0.0))
    with bundle_folder(out) as scratch:
        difference = export_onnx(graph, scratch / ONNX_NAME, bands=len(spec.bands), stride=spec.stride)
        save_half(network, scratch / WEIGHTS_NAME)
        bundle = write_mlm(
            declared(
                name=name,
                version=version,
                task=spec.task,
                bands=spec.bands,
                required_bands=tuple(facts["required_bands"]),
                gsd_m=tuple(facts["gsd_m"]),
                units=facts.get("units", "reflectance"),
                mean=spec.mean,
                std=spec.std,
                classes=spec.classes,
                change_to_classes=tuple(facts.get("change_to_classes", ())),
                tile=-(-max(TILE, 4 * halo) // spec.stride) * spec.stride,
                halo=halo,
                receptive_reach=reach,
                network=_network(spec),
                stride=spec.stride,
                threshold=facts.get("threshold", 0.5),
                calibration=calibration,
                metrics=dict(facts["metrics"]),
                training={**facts["training"], "onnx_max_difference": difference},
            ),
            scratch,
            architecture=described(spec),
            created=datetime.now(tz=UTC).replace(microsecond=0),
            framework_version=torch.__version__,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            pretrained_source=facts.get("pretrained"),
        )
        (scratch / CARD_NAME).write_text(model_card(bundle), encoding="utf-8")
    return Bundle.load(out)


def described(spec: NetworkSpec) -> str:
    """Return the network in words."""
    decoder = "U-Net" if spec.architecture == "tuban" else spec.architecture
    encoder = spec.encoder.removeprefix("tu-")
    several = f"mean of {spec.members} networks: " if spec.members > 1 else ""
    if spec.task == "landcover":
        return f"{several}{decoder}, {encoder} encoder, land cover of one date"
    given = "land cover of both dates and change" if spec.classes else "change"
    smoothed = f", change smoothed by {spec.smooth:g} px" if spec.smooth else ""
    return f"{several}siamese {decoder}, {encoder} encoder, fusion {spec.fusion}, {given}{smoothed}"


def _network(spec: NetworkSpec) -> dict[str, Any]:
    """Return what the network is built with again; what a network alone does not need is left out."""
    names = ["encoder", "depth", "width", "stem", "architecture", "fusion"]
    if spec.members > 1 or spec.smooth:
        names += ["members", "smooth"]
    return {name: getattr(spec, name) for name in names} | {"width": list(spec.width)}


@contextmanager
def bundle_folder(out: Path) -> Iterator[Path]:
    """Yield a scratch folder inside `out`; on success its files replace those of an earlier bundle, `mlm.json` last.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".tuban-bundle-") as folder:
            yield Path(folder)
            made = sorted(Path(folder).iterdir(), key=lambda path: path.name == MLM_NAME)
            for name in {ONNX_NAME, WEIGHTS_NAME, MLM_NAME, CARD_NAME} - {path.name for path in made}:
                (out / name).unlink(missing_ok=True)
            for path in made:
                path.replace(out / path.name)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error}); free space or choose another folder") from error


def save_half(module: torch.nn.Module, path: Path) -> None:
    """Write a module's weights in half precision as safetensors."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}
    # Written here, for the library makes files that nobody else may read.
    path.write_bytes(save({key: tensor.contiguous() for key, tensor in state.items()}))
