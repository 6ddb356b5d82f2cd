"""Models made elsewhere become bundles: a SavedModel, an ONNX graph, or plain weights; no pickle is executed."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tuban.errors import MissingExtraError, UsageError
from tuban.models.bundle import ONNX_NAME
from tuban.models.import_card import read_card

if TYPE_CHECKING:
    from tuban.models.bundle import Bundle

_WEIGHTS = {".safetensors", ".pth", ".pt", ".ckpt"}


def import_model(source: Path, out: Path, *, card: str, python: Path | None = None) -> Bundle:
    """Make a bundle of a model made elsewhere.

    Args:
        source: folder of a SavedModel, an ONNX file, or weights (safetensors, or `.pth` that holds tensors only).
        out: the bundle's folder; made if missing, its files replaced.
        card: name under `configs/imports` (`dynamicworld`), or the path of such a YAML file.
        python: interpreter that has tensorflow and tf2onnx, for a SavedModel; None is this one.

    Raises:
        MissingExtraError: what converts or reads it is not installed.
        ModelError: it cannot be read, or is not what the card says.
        OutputError: the folder cannot be written.
        UsageError: the card is wrong, or `source` is none of these.
    """
    from tuban.models.import_graph import convert, from_graph

    told = read_card(card)
    if (source / "saved_model.pb").is_file():
        with tempfile.TemporaryDirectory(prefix="tuban-import-") as scratch:
            converted = Path(scratch) / ONNX_NAME
            convert(source, converted, python)
            return from_graph(converted, out, told)
    if source.suffix == ".onnx" and source.is_file():
        return from_graph(source, out, told)
    if source.suffix in _WEIGHTS and source.is_file():
        if missing := [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]:
            raise MissingExtraError(f"importing weights needs {' and '.join(missing)}; run: pip install 'tuban[train]'")
        from tuban.models.import_weights import from_weights

        return from_weights(source, out, told)
    raise UsageError(
        f"{source} is no model that can be imported; give the folder of a SavedModel (with saved_model.pb), a .onnx "
        "file, or weights as .safetensors or .pth"
    )
