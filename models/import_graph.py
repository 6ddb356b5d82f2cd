"""Imports a graph: a TensorFlow SavedModel, converted in a process of its own, or an ONNX file."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.errors import MissingExtraError, ModelError, UsageError
from tuban.models.bundle import ONNX_NAME, Bundle
from tuban.models.bundle_spec import declared
from tuban.models.card import CARD_NAME, model_card
from tuban.models.mlm import write_mlm

if TYPE_CHECKING:
    from pathlib import Path

    from tuban.models.import_card import ImportCard

_OPSET = 17
# What of a SavedModel is converted: its usual signature, or, where it has none, what it does when it is called.
_FUNCTIONS = (("--signature_def", "serving_default"), ("--concrete_function", "0"))
_UNSIGNED = "Specified signature not in model"
_ONE = "The graph takes one image at a time: leave inference.batch at 1."
_UNBOUNDED_HALO = 64


def convert(folder: Path, target: Path, python: Path | None = None) -> None:
    """Write a SavedModel as ONNX with tf2onnx, in a process of its own.

    Raises:
        MissingExtraError: tensorflow or tf2onnx is not installed there.
        ModelError: it cannot be converted.
    """
    command = [str(python or sys.executable), "-m", "tf2onnx.convert", "--saved-model", str(folder)]
    command += ["--opset", str(_OPSET), "--output", str(target)]
    remedy = (
        "python -m venv tf && tf/bin/pip install tensorflow-cpu tf2onnx, then --tf-python tf/bin/python; or convert "
        f"it elsewhere ({' '.join(['python', *command[1:-1], 'model.onnx'])}) and import model.onnx"
    )
    absent = [name for name in ("tensorflow", "tf2onnx") if python is None and importlib.util.find_spec(name) is None]
    if absent:
        raise MissingExtraError(f"a SavedModel needs {' and '.join(absent)} to be converted: {remedy}")
    last = ""
    for choice in _FUNCTIONS:
        try:
            done = subprocess.run([*command, *choice], capture_output=True, text=True, check=False)
        except OSError as error:
            raise UsageError(f"--tf-python {python} cannot be run ({error.strerror}); {remedy}") from error
        if not done.returncode and target.is_file():
            return
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        last = lines[-1][:300] if lines else f"exit code {done.returncode}"
        if "No module named" in last:
            raise MissingExtraError(f"{python or sys.executable}: {last}; {remedy}")
        if _UNSIGNED not in last:
            break
    raise ModelError(f"{folder} cannot be converted by tf2onnx ({last}); convert it elsewhere and give the ONNX file")


def from_graph(path: Path, out: Path, card: ImportCard) -> Bundle:
    """Make a bundle of an ONNX graph; nothing of the graph itself is changed.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: the graph is not what the card says.
        OutputError: the folder cannot be written.
        UsageError: what the card says is out of range.
    """
    if importlib.util.find_spec("onnx") is None:
        raise MissingExtraError("importing a graph needs onnx; run: pip install 'tuban[train]'")
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from tuban.models.export import bundle_folder
    from tuban.models.graph import wrapped

    try:
        model = onnx.load(str(path))
        whole = wrapped(model, card)
        onnx.checker.check_model(whole)
    except (OSError, ValueError, RuntimeError, DecodeError, onnx.checker.ValidationError) as error:
        if isinstance(error, ModelError):
            raise
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"{path} is no ONNX graph that can be used ({line}); export it again") from error
    classes = tuple(dict.fromkeys(value for value in card.classes if value))
    halo = -(-(_UNBOUNDED_HALO if card.halo is None else card.halo) // card.stride) * card.stride
    with bundle_folder(out) as scratch:
        onnx.save(whole, str(scratch / ONNX_NAME))
        training = {"network": "imported as a graph", **card.training}
        if not trial_graph(scratch / ONNX_NAME, card, len(classes)):
            training["limits"] = [*training.get("limits", []), _ONE]
        bundle = write_mlm(
            declared(
                **card.declared(),
                classes=classes,
                std=card.std or tuple(1.0 for _ in card.bands),
                tile=-(-(card.tile or max(1024, 4 * halo)) // card.stride) * card.stride,
                halo=halo,
                stride=card.stride,
                training=training,
            ),
            scratch,
            architecture=str(card.training.get("network", "imported graph")),
            created=datetime.now(tz=UTC).replace(microsecond=0),
            framework="ONNX",
            framework_version=onnx.__version__,
        )
        (scratch / CARD_NAME).write_text(model_card(bundle), encoding="utf-8")
    return Bundle.load(out)


def trial_graph(path: Path, card: ImportCard, classes: int) -> bool:
    """Run a graph at two sizes, missing values included, and check what it gives.

    Returns:
        Whether it takes several images at once.

    Raises:
        ModelError: it does not run at every size, or gives no probabilities of the expected shape.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails here is told below, or is no failure
    failures = _ort_errors()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except failures as error:
        raise ModelError(
            f"the graph cannot be loaded ({' '.join(str(error).split())[:300]}); export it again"
        ) from error
    _tried(session, card, classes, (1, 4, 4))
    try:
        _tried(session, card, classes, (2, 3, 5))
    except ModelError:
        _tried(session, card, classes, (1, 3, 5))
        return False
    return True


def _tried(session: Any, card: ImportCard, classes: int, size: tuple[int, int, int]) -> None:
    """Run the graph on `size`: images, and rows and columns in cells of at least 32 pixels, multiples of the stride."""
    rng, wanted = np.random.default_rng(0), "landcover" if card.task == "landcover" else "change"
    mean = np.array(card.mean, np.float32).reshape(1, -1, 1, 1)
    count, shape = size[0], tuple(cells * -(-32 // card.stride) * card.stride for cells in size[1:])
    feeds = {
        entry.name: (mean * rng.uniform(0.5, 1.5, (count, len(card.bands), *shape))).astype(np.float32)
        for entry in session.get_inputs()
    }
    next(iter(feeds.values()))[:, :, :3, :3] = np.nan
    try:
        (made,) = session.run([wanted], feeds)
    except _ort_errors() as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the graph does not run on {count} images of {shape[0]} × {shape[1]} ({line}); export it with free "
            "height and width, or correct the card's stride, layout or channels"
        ) from error
    expected = (count, classes, *shape) if wanted == "landcover" else (count, *shape)
    if made.shape != expected:
        raise ModelError(
            f"the graph gives {wanted} {made.shape} for {count} images of {shape}, expected {expected}; correct the "
            "card's classes, channel or layout"
        )
    if not (made.min() >= -1e-3 and made.max() <= 1.001):
        raise ModelError(
            f"the graph gives {made.min():g} to {made.max():g}, not probabilities; correct the card's activation"
        )


def _ort_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.RuntimeException, state.NotImplemented)
    return (RuntimeError, ValueError, *own)
