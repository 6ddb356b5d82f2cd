"""ONNX Runtime, which every installation has: CPU, and CUDA or TensorRT where the installed runtime offers them."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from tuban.errors import ModelError, UsageError
from tuban.inference.backends.interface import available_cores, check_graph, failed, finish, needed, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tuban.inference.backends.interface import Device, Feeds, Outputs
    from tuban.models.bundle import Bundle

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# onnxruntime's exceptions share no base but Exception.
FAILURES = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxBackend:
    """ONNX Runtime in 32-bit floating point."""

    def __init__(self, bundle: Bundle, *, threads: int = 0, device: Device = "auto") -> None:
        """Load the bundle's graph.

        Args:
            bundle: the model.
            threads: threads inside an operator; 0 = one for each core this process may use.
            device: `auto` is CUDA where the runtime offers it and it works, else the CPU.

        Raises:
            ModelError: the graph cannot be loaded, or its inputs and outputs are not those of a bundle.
            UsageError: the device is not offered by the installed runtime, or does not work.
        """
        self.notes: tuple[str, ...] = ()
        self._path = bundle.onnx_path
        self._session, used = self._on(device, threads)
        self.name = f"onnx-{used}"
        self._offered = [node.name for node in self._session.get_outputs()]
        inputs = {node.name: node.shape for node in self._session.get_inputs()}
        self.inputs = tuple(inputs)
        check_graph(self._path, inputs, {node.name: node.shape for node in self._session.get_outputs()}, bundle)

    def _on(self, device: Device, threads: int) -> tuple[Any, str]:
        """Return a session that really runs on the device, and the device's name."""
        wished = _device(device)
        if wished != "cpu":
            session, reason = _accelerated(self._path, wished, threads)
            if session is not None:
                return session, wished
            broken = f"onnxruntime {onnxruntime.__version__} offers {wished} but cannot start it ({reason})"
            if device != "auto":
                raise UsageError(f"{broken}; install the driver, CUDA and cuDNN that it asks for, or set device=cpu")
            self.notes = (f"{broken}: the CPU was used",)
        try:
            return _session(self._path, [PROVIDERS["cpu"]], threads), "cpu"
        except FAILURES as error:
            raise ModelError(f"{self._path} cannot be loaded ({one_line(error)}); export the model again") from error

    def run(self, feeds: Feeds, wanted: Sequence[str]) -> Outputs:
        """Run the graph; see `Backend.run`."""
        names = needed(wanted, self._offered, self._path)
        try:
            outputs = self._session.run(names, dict(feeds))
        except (*FAILURES, MemoryError) as error:
            raise failed(self._path, feeds, error) from error
        return finish(dict(zip(names, outputs, strict=True)), wanted)


def offered() -> list[str]:
    """Return the devices that the installed onnxruntime offers, fastest first."""
    there = onnxruntime.get_available_providers()
    return [device for device in ("tensorrt", "cuda", "cpu") if PROVIDERS[device] in there]


def _device(device: Device) -> str:
    there = offered()
    if device == "auto":
        return "cuda" if "cuda" in there else "cpu"
    if device not in there:
        raise UsageError(
            f"device {device!r} is not offered by the installed onnxruntime ({', '.join(there)}); "
            "for CUDA or TensorRT: pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )
    return device


def _accelerated(path: Path, device: str, threads: int) -> tuple[Any, str]:
    """Return a session on CUDA or TensorRT, or None and why there is none."""
    # TF32 keeps 10 bits of the mantissa: results would differ from the CPU's by far more than rounding.
    cuda = (PROVIDERS["cuda"], {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"})
    providers = [*([PROVIDERS["tensorrt"]] if device == "tensorrt" else []), cuda, PROVIDERS["cpu"]]
    if device == "tensorrt":  # it has no option for it; NVIDIA's libraries read the environment as they load
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    onnxruntime.set_default_logger_severity(4)  # what it would log is told by the caller
    told = io.StringIO()
    with contextlib.redirect_stdout(told):  # where it prints what it misses
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds CUDA and cuDNN in their pip packages
    try:
        session = _session(path, providers, threads)
    except (*FAILURES, RuntimeError, ValueError) as error:
        return None, one_line(error)
    if session.get_providers()[0] == PROVIDERS[device]:
        return session, ""
    # A provider whose libraries are missing is left out of the session without a word.
    return None, next(iter(told.getvalue().splitlines()), "it was left out of the session")


def _session(path: Path, providers: list[Any], threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # The pattern plans all memory as one block: 3 % faster, but a third more at the peak (2.1 for 1.5 GB at 1024²).
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors only: warnings about unused initialisers are no business of the user
    # Idle workers that spin would take the cores from the reader and the writer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # With its fallback it would print on stdout and go on with the CPU, here and in every run.
    return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
