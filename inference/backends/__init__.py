"""Runs the network on batches of windows, behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuban.errors import UsageError
from tuban.inference.backends.interface import (
    Backend,
    BackendName,
    Device,
    Feeds,
    Outputs,
    Precision,
    available_cores,
    largest,
)
from tuban.inference.backends.onnx import OnnxBackend

if TYPE_CHECKING:
    from tuban.models.bundle import Bundle

__all__ = [
    "Backend",
    "BackendName",
    "Device",
    "Feeds",
    "OnnxBackend",
    "Outputs",
    "Precision",
    "available_cores",
    "largest",
    "open_backend",
]


def open_backend(
    name: BackendName,
    bundle: Bundle,
    *,
    threads: int = 0,
    device: Device = "auto",
    precision: Precision = "f32",
    compiled: bool = False,
    sample: Feeds | None = None,
) -> Backend:
    """Open the backend called `name`.

    Args:
        name: `auto` is ONNX Runtime, which every installation has; `trial.trial` measures which one it should be.
        bundle: the model.
        threads: threads inside an operator; 0 = one for each core this process may use.
        device: what to run on; `auto` is CUDA where the backend has it, else the CPU. A device asked for by name is
            used or refused.
        precision: `bf16` with openvino and torch only; it changes results by about 0.01 and stands in the name.
        compiled: `torch.compile`, with torch only.
        sample: a batch to run once, so that whatever is slow or fails does so here and not in the run.

    Raises:
        MissingExtraError: the backend is not installed.
        ModelError: the bundle cannot be loaded by it.
        UsageError: the backend is unknown, or lacks the device, the precision or the compiler.
    """
    if compiled and name != "torch":
        raise UsageError(f"compile: true needs backend torch, not {name}")
    backend: Backend
    match name:
        case "auto" | "onnx":
            if precision != "f32":
                raise UsageError(f"precision {precision!r}: {name} runs in f32; use backend openvino or torch")
            backend = OnnxBackend(bundle, threads=threads, device=device)
        case "torch":
            from tuban.inference.backends.torch import TorchBackend

            backend = TorchBackend(bundle, threads=threads, device=device, precision=precision, compiled=compiled)
        case "openvino":
            from tuban.inference.backends.openvino import OpenvinoBackend

            backend = OpenvinoBackend(bundle, threads=threads, device=device, precision=precision)
        case _:
            raise UsageError(f"unknown backend {name!r}; use auto, onnx, openvino or torch")
    if sample is not None:
        backend.run(sample, ["landcover" if "image" in sample else "change"])
    return backend
