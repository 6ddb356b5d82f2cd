"""What the jobs have in common: opening inputs, running a bundle, and telling what was measured."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from rasterio.windows import Window

from inference_parts import inputs

# ru_maxrss is in kB on Linux and in bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def report(**facts: Any) -> None:
    """Print the report of this process, with its peak memory and processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    facts |= {"peak_mb": used.ru_maxrss * RSS_UNIT / 1e6, "cpu": facts.get("cpu", used.ru_utime + used.ru_stime)}
    print(json.dumps(facts))


def read(kind: str, path: str) -> Any:
    """Open an input: a `scene`, a `pair`, or an `empty` scene of `path` pixels a side."""
    return inputs.Nothing(int(path)) if kind == "empty" else getattr(inputs, kind)(Path(path))


def tiles(source: Any, side: int) -> list[Window]:
    """Return windows that cover the source without overlap."""
    return [
        Window(col, row, side, side) for row in range(0, source.height, side) for col in range(0, source.width, side)
    ]


def predict(bundle: str, source: Any, out: str | Path, **settings: Any) -> tuple[Any, Any]:
    """Run a bundle over a source; return it and the result."""
    from tuban.inference.change import predict_change
    from tuban.inference.landcover import predict_landcover
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import resolve

    model = resolve(bundle)
    run = predict_change if model.task == "change" else predict_landcover
    return model, run(source, model, out, settings=InferenceSettings(**settings))
