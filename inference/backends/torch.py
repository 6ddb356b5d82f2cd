"""PyTorch (extra `train`): eager or compiled, CPU or CUDA, f32 or bf16; rebuilt from safetensors, never unpickled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

from tuban.errors import MissingExtraError, ModelError, UsageError
from tuban.inference.backends.interface import failed, finish, needed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from tuban.inference.backends.interface import Device, Feeds, Outputs, Precision
    from tuban.models.bundle import Bundle


# What the torch backend is rebuilt with; the extra `train` brings it.
PARTS = ("torch", "safetensors", "segmentation_models_pytorch", "timm")
COMPILERS = ("c++", "g++", "clang++")


class TorchBackend:
    """PyTorch with the bundle's network."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int = 0,
        device: Device = "auto",
        precision: Precision = "f32",
        compiled: bool = False,
    ) -> None:
        """Rebuild the network.

        Args:
            bundle: the model.
            threads: threads inside an operator; 0 = torch's own choice.
            device: `auto` is CUDA where there is one, else the CPU.
            precision: `bf16` computes convolutions in bfloat16; results differ by about 0.01.
            compiled: run through `torch.compile`; the first windows of a shape wait for it, half a minute or more.

        Raises:
            MissingExtraError: torch or what the network is built with is not installed.
            ModelError: the bundle holds no safetensors, or not those of this network.
            UsageError: there is no such device, or nothing to compile with.
        """
        if missing := [name for name in PARTS if importlib.util.find_spec(name) is None]:
            raise MissingExtraError(
                f"the torch backend needs {', '.join(missing)}; pip install 'tuban[train]', or use --backend onnx"
            )
        if not bundle.weights_path.exists():
            raise ModelError(f"{bundle.path} holds no model.safetensors; use --backend onnx")
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.notes: tuple[str, ...] = ()
        self._torch, self._path = torch, bundle.weights_path
        self._device = torch.device(_device(device, cuda=torch.cuda.is_available()))
        if self._device.type == "cuda":
            # TF32, torch's own choice for convolutions, keeps 10 bits of the mantissa: not the CPU's results.
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined] # made at import
        self._bf16, self._compiled = precision == "bf16", compiled
        self._shapes: set[tuple[int, ...]] = set()
        # Channels last is the layout that the kernels of both devices work in.
        from tuban.models.rebuild import rebuild

        module = rebuild(bundle).to(self._device).to(memory_format=torch.channels_last).eval()
        self._inputs, self._outputs = module.inputs, module.outputs
        self._module: Callable[..., Any] = self._compile(module) if compiled else module
        self.name = f"torch-{self._device.type}{'-bf16' * self._bf16}{'-compiled' * compiled}"

    def _compile(self, module: torch.nn.Module) -> Callable[..., Any]:
        on_cpu = self._device.type == "cpu"
        if on_cpu and not any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))):
            raise UsageError(
                f"compile: torch.compile needs a C++ compiler ({', '.join(COMPILERS)}); install one, or compile=false"
            )
        if not on_cpu and importlib.util.find_spec("triton") is None:
            raise UsageError("compile: torch.compile needs triton on CUDA; pip install triton, or compile=false")
        # Freezing folds the weights into the kernels; without it nothing is gained on a CPU.
        return self._torch.compile(module, dynamic=False, options={"freezing": True} if on_cpu else None)

    def run(self, feeds: Feeds, wanted: Sequence[str]) -> Outputs:
        """Run the module; see `Backend.run`."""
        torch = self._torch
        names = needed(wanted, self._outputs, self._path)
        started, shape = time.perf_counter(), next(iter(feeds.values())).shape
        try:
            with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
                tensors = [
                    torch.from_numpy(feeds[name]).to(self._device, memory_format=torch.channels_last)
                    for name in self._inputs
                ]
                made = self._module(*tensors)
                # Only what is asked for leaves the device: of a class one byte a pixel.
                raw = {name: _array(tensor) for name, tensor in zip(self._outputs, made, strict=True) if name in names}
        except RuntimeError as error:  # torch raises it, or a subclass, for all that goes wrong in a kernel
            raise failed("torch", feeds, error) from error
        if self._compiled and shape not in self._shapes:
            self._shapes.add(shape)
            seconds, sides = time.perf_counter() - started, "×".join(map(str, shape))
            self.notes += (f"torch.compile and the first batch of {sides} took {seconds:.1f} s",)
        return finish(raw, wanted)


def _array(tensor: torch.Tensor) -> Any:
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().cpu().numpy()


def _device(device: Device, *, cuda: bool) -> str:
    if device == "auto":
        return "cuda" if cuda else "cpu"
    if device not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is not one of the torch backend; use auto, cpu or cuda")
    if device == "cuda" and not cuda:
        raise UsageError("device 'cuda': torch sees no CUDA device; install its driver and torch's CUDA build, or cpu")
    return device
