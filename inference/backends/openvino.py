"""OpenVINO (extra `openvino`): the same `model.onnx`, most often faster than ONNX Runtime on Intel processors."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.errors import MissingExtraError, ModelError, UsageError
from tuban.inference.backends.interface import available_cores, check_graph, failed, finish, needed, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.inference.backends.interface import Device, Feeds, Outputs, Precision
    from tuban.models.bundle import Bundle

# A compiled network holds the memory of its intermediate results: the windows of the run and one other shape (the
# sample for the background, or the turned window of test-time augmentation), no more.
_KEPT = 2


class OpenvinoBackend:
    """OpenVINO on the CPU or an Intel GPU; the network is compiled for the shape of the windows it is given."""

    def __init__(
        self, bundle: Bundle, *, threads: int = 0, device: Device = "auto", precision: Precision = "f32"
    ) -> None:
        """Load the bundle's graph.

        Args:
            bundle: the model.
            threads: threads inside an operator; 0 = one for each core this process may use.
            device: `auto` is the CPU.
            precision: `f32`, or `bf16`: about twice as fast on processors with AMX, results differ by about 0.01.
                Left alone OpenVINO would choose bfloat16 by itself wherever the processor has it.

        Raises:
            MissingExtraError: openvino is not installed.
            ModelError: the graph cannot be loaded, or its inputs and outputs are not those of a bundle.
            UsageError: there is no such device, or it does not compute in that precision.
        """
        self._openvino = load()
        self._core = self._openvino.Core()
        self._path = bundle.onnx_path
        self._device = _device(device, self._core.available_devices)
        if precision == "bf16" and "BF16" not in self._core.get_property(self._device, "OPTIMIZATION_CAPABILITIES"):
            raise UsageError(f"precision 'bf16': this {self._device} does not compute in bfloat16; use precision=f32")
        self._properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",  # one window at a time on all cores, not several side by side
        }
        if self._device == "CPU":
            # Pinned threads would keep the cores from the reader and the writer.
            own = {"INFERENCE_NUM_THREADS": threads or available_cores(), "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
            self._properties |= own
        model = self._read()
        inputs, self._offered = (
            {port.any_name: _sides(port) for port in ports} for ports in (model.inputs, model.outputs)
        )
        check_graph(self._path, inputs, self._offered, bundle)
        self._compiled: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self.notes: tuple[str, ...] = ()
        self.name = f"openvino-{self._device.lower()}" + ("-bf16" if precision == "bf16" else "")

    def run(self, feeds: Feeds, wanted: Sequence[str]) -> Outputs:
        """Run the graph; see `Backend.run`. The first windows of a shape wait for its compilation (about a second)."""
        names = needed(wanted, list(self._offered), self._path)
        try:
            request = self._request(feeds, names)
            made = request.infer({name: np.ascontiguousarray(feed) for name, feed in feeds.items()}, share_inputs=True)
        except (RuntimeError, MemoryError) as error:
            raise failed(self._path, feeds, error) from error
        return finish({name: made[name] for name in names}, wanted)

    def _request(self, feeds: Feeds, names: list[str]) -> Any:
        """Return the network compiled for these shapes and outputs; all else in the graph is cut off."""
        key = (*sorted((name, feed.shape) for name, feed in feeds.items()), *names)
        if key in self._compiled:
            self._compiled.move_to_end(key)
            return self._compiled[key]
        while len(self._compiled) >= _KEPT:
            self._compiled.popitem(last=False)
        model = self._read()
        model.reshape({name: list(feed.shape) for name, feed in feeds.items()})
        cut = self._openvino.Model([model.output(name) for name in names], model.get_parameters())
        self._compiled[key] = self._core.compile_model(cut, self._device, self._properties).create_infer_request()
        return self._compiled[key]

    def _read(self) -> Any:
        try:
            return self._core.read_model(str(self._path))
        except RuntimeError as error:
            raise ModelError(f"{self._path} cannot be loaded ({one_line(error)}); export the model again") from error


def load() -> Any:
    """Import openvino without its telemetry.

    `import openvino` by itself reports to Google Analytics and writes `~/intel`; without `openvino_telemetry` it uses
    a stub of its own.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtraError(
            "the openvino backend needs openvino; pip install 'tuban[openvino]', or use --backend onnx"
        )
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: importing it fails
    return importlib.import_module("openvino")


def _device(device: Device, there: Sequence[str]) -> str:
    if device == "auto":
        return "CPU"
    # Several GPUs are called GPU.0, GPU.1, …; GPU is the first.
    if device not in ("cpu", "gpu") or not any(name.split(".")[0] == device.upper() for name in there):
        raise UsageError(
            f"device {device!r} is not one of OpenVINO's here ({', '.join(there).lower()}); use one of these"
        )
    return device.upper()


def _sides(port: Any) -> list[int | None]:
    return [side.get_length() if side.is_static else None for side in port.partial_shape]
