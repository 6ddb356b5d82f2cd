"""One backend measured in a process of its own: a task as JSON on stdin, the answer as JSON on stdout.

Run by `trial.py` as `python -m tuban.inference.backends.probe`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from tuban.errors import TubanError
from tuban.inference.backends import open_backend
from tuban.models.bundle import Bundle


def main() -> int:
    """Open the backend, run it once to warm up and then for time; write its outputs and say the best time."""
    task = json.load(sys.stdin)
    with np.load(task["sample"], allow_pickle=False) as stored:
        feeds = {name: stored[name] for name in stored.files}
    best = float("inf")
    try:
        bundle = Bundle.load(task["bundle"])
        backend = open_backend(task["backend"], bundle, threads=task["threads"], device=task["device"])
        made = backend.run(feeds, task["wanted"])
        for _ in range(task["runs"] - 1):
            started = time.perf_counter()
            made = backend.run(feeds, task["wanted"])
            best = min(best, time.perf_counter() - started)
    except TubanError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    np.savez(Path(task["out"]), allow_pickle=False, **made)
    sys.stdout.write(json.dumps({"name": backend.name, "seconds": best, "notes": list(backend.notes)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
