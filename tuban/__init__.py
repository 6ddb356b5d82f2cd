"""tuban: satellite and aerial imagery turned into evidence for protecting farmland."""

import os

__version__ = "0.1.0"

# onnxruntime reports its use to Microsoft, and leaves an identifier in ~/.cache, unless told so before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
