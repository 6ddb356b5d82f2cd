"""Runs the network on batches of windows, behind one small interface."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from tuban.errors import MissingExtraError, ModelError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tuban.models.bundle import Bundle

BackendName = Literal["auto", "onnx", "torch", "openvino"]
INPUTS = ("before", "after")
# What the torch backend is rebuilt with; the extra `train` brings it.
TORCH_PARTS = ("torch", "safetensors", "segmentation_models_pytorch", "timm")
OUTPUTS = ("landcover_before", "landcover_after", "change")
# onnxruntime's exceptions share no base but Exception.
ORT_FAILURES = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class Prediction(NamedTuple):
    """What the network says of a batch.

    Attributes:
        landcover_before: float32 `(n, classes, h, w)`, probabilities.
        landcover_after: float32 `(n, classes, h, w)`, probabilities.
        change: float32 `(n, h, w)`, calibrated probability.
    """

    landcover_before: NDArray[np.float32]
    landcover_after: NDArray[np.float32]
    change: NDArray[np.float32]


class Backend(Protocol):
    """Something that runs a bundle's network."""

    @property
    def name(self) -> str:
        """What runs the network and on which device, e.g. `onnx-cpu`."""

    def run(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> Prediction:
        """Run on two arrays `(n, bands, h, w)` in the bundle's units, NaN where invalid or missing."""


class OnnxBackend:
    """ONNX Runtime on the CPU."""

    name = "onnx-cpu"

    def __init__(self, bundle: Bundle, *, threads: int = 0) -> None:
        """Load the bundle's graph.

        Args:
            bundle: the model.
            threads: threads inside an operator; 0 = one for each core this process may use.

        Raises:
            ModelError: the graph cannot be loaded, or its inputs and outputs are not those of a bundle.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors only: warnings about unused initialisers are no business of the user
        # Idle workers that spin would take the cores from the reader and the writer.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(bundle.onnx_path), options, providers=["CPUExecutionProvider"]
            )
        except ORT_FAILURES as error:
            raise ModelError(f"{bundle.onnx_path} cannot be loaded ({_line(error)}); export the model again") from error
        self._path = bundle.onnx_path
        self._check(bundle)

    def _check(self, bundle: Bundle) -> None:
        inputs = {node.name: node.shape for node in self._session.get_inputs()}
        outputs = {node.name: node.shape for node in self._session.get_outputs()}
        if set(inputs) != set(INPUTS) or not set(OUTPUTS) <= set(outputs):
            raise ModelError(
                f"{self._path} has inputs {sorted(inputs)} and outputs {sorted(outputs)}; a bundle needs "
                f"{list(INPUTS)} and {list(OUTPUTS)}: export the model again"
            )
        expected = {name: len(bundle.bands) for name in INPUTS} | {name: len(bundle.classes) for name in OUTPUTS[:2]}
        for name, count in expected.items():
            channels = (inputs | outputs)[name][1]
            if isinstance(channels, int) and channels != count:
                raise ModelError(
                    f"{self._path}: {name} has {channels} channels, mlm.json says {count}; export the model again"
                )

    def run(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> Prediction:
        """Run the graph; see `Backend.run`.

        Raises:
            ModelError: the runtime fails, most often for want of memory.
        """
        try:
            outputs = self._session.run(list(OUTPUTS), {"before": before, "after": after})
        except (*ORT_FAILURES, MemoryError) as error:
            shape = "×".join(str(side) for side in before.shape)
            raise ModelError(
                f"{self._path} failed on a batch of {shape} ({_line(error)}); set a smaller inference.tile or batch"
            ) from error
        return Prediction(*outputs)


class TorchBackend:
    """PyTorch eager, on CUDA where there is one; rebuilt from safetensors, never unpickled."""

    def __init__(self, bundle: Bundle, *, threads: int = 0) -> None:
        """Rebuild the network; arguments as for `OnnxBackend`.

        Raises:
            MissingExtraError: torch or what the network is built with is not installed.
            ModelError: the bundle holds no safetensors, or not those of this network.
        """
        if missing := [name for name in TORCH_PARTS if importlib.util.find_spec(name) is None]:
            raise MissingExtraError(
                f"the torch backend needs {', '.join(missing)}; pip install 'tuban[train]', or use --backend onnx"
            )
        if not bundle.weights_path.exists():
            raise ModelError(f"{bundle.path} holds no model.safetensors; use --backend onnx")
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module = _rebuild(bundle).to(self._device).eval()
        self.name = f"torch-{self._device.type}"

    def run(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> Prediction:
        """Run the module; see `Backend.run`.

        Raises:
            ModelError: torch fails, most often for want of memory.
        """
        torch = self._torch
        try:
            with torch.inference_mode():
                feeds = [torch.from_numpy(array).to(self._device) for array in (before, after)]
                outputs = [output.float().cpu().numpy() for output in self._module(*feeds)]
        except RuntimeError as error:  # torch raises it, or a subclass, for all that goes wrong in a kernel
            shape = "×".join(str(side) for side in before.shape)
            raise ModelError(
                f"torch failed on a batch of {shape} ({_line(error)}); set a smaller inference.tile or batch"
            ) from error
        return Prediction(*outputs)


def _rebuild(bundle: Bundle) -> torch.nn.Module:
    """Build the network of a bundle from its manifest and its safetensors; other weights than its own do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from tuban.models.network import ChangeNet, Deployed, NetworkSpec

    network = ChangeNet(
        NetworkSpec(bands=bundle.bands, classes=bundle.classes, mean=bundle.mean, std=bundle.std), imagenet=False
    )
    slope, intercept = (bundle.calibration.get(key) for key in ("slope", "intercept"))
    if not isinstance(slope, int | float) or not isinstance(intercept, int | float):
        raise ModelError(f"{bundle.path} records no calibration slope and intercept; use --backend onnx")
    try:
        network.load_state_dict(load_file(bundle.weights_path))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{bundle.weights_path} does not fit the network of this version ({_line(error)}); use --backend onnx"
        ) from error
    return Deployed(network, float(slope), float(intercept))


def open_backend(name: BackendName, bundle: Bundle, *, threads: int = 0) -> Backend:
    """Open the backend called `name`; `auto` is ONNX Runtime, which every installation has.

    Raises:
        MissingExtraError: the backend is not installed.
        ModelError: the bundle cannot be loaded by it.
        UsageError: the backend is unknown or not there yet.
    """
    match name:
        case "auto" | "onnx":
            return OnnxBackend(bundle, threads=threads)
        case "torch":
            return TorchBackend(bundle, threads=threads)
        case "openvino":
            raise UsageError("backend 'openvino' is not available in this version; use auto, onnx or torch")
    raise UsageError(f"unknown backend {name!r}; use auto, onnx or torch")


def available_cores() -> int:
    """Return how many cores this process may use (which a container or `taskset` may limit)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
