"""Measures whole-scene inference, all that is promised of it: one command, a table and a plot.

    python benchmarks/inference.py                       # everything; about 25 minutes on two idle cores
    python benchmarks/inference.py speed memory          # some parts; results of the others are kept
    python benchmarks/inference.py --small               # everything at a small size, to see that it runs
    python benchmarks/inference.py --geo /path/python    # Python of an environment with geo-inference 3.2.4

Parts: speed, pair, memory, seams, resume, ray, faults, gpu. Each figure comes from fresh processes run one after the
other on this machine. Results go to `benchmarks/results/inference.json`, `inference.md` and `inference.svg` as soon as
a part is done, so a run that was stopped loses one part. `--small` writes into a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_parts.report import plot, table

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
MINUTES = {"speed": 6, "pair": 2, "memory": 5, "seams": 2, "resume": 4, "ray": 4, "faults": 3, "gpu": 1}
FULL = {"scene": 6144, "peers": 3072, "pair": 4096, "memory": [4096, 12288, 40960], "begun": 100_000, "seams": 1024,
        "kills": 30, "killed": 1024, "ray": 3584, "tile": 1024, "repeat": 2}  # fmt: skip
SMALL = {"scene": 2048, "peers": 1536, "pair": 1024, "memory": [2048, 4096], "begun": 20_000, "seams": 512,
         "kills": 2, "killed": 512, "ray": 1024, "tile": 384, "repeat": 1}  # fmt: skip
FAULTS = {
    "two nodes in network namespaces, one of them lost": "tests/inference/test_cluster_nodes.py",
    "a Ray worker killed; the same hash": "tests/inference/test_cluster.py",
    "corrupt blocks, a vanishing file, --keep-going": "tests/inference/test_change.py",
    "full disk, damaged parts": "tests/inference/test_mosaic.py tests/inference/test_journal.py",
    "stalled and broken servers": "tests/data/test_remote.py",
}


class Bench:
    """Runs jobs in fresh processes, all inputs in one folder."""

    def __init__(self, folder: Path, sizes: dict[str, Any], geo: str | None, bundle: str) -> None:
        """In `folder`; `geo` is the Python of the peer's environment."""
        self.folder, self.sizes, self.geo, self.bundle = folder, sizes, geo, bundle

    def job(self, job: str, *arguments: object, python: str = sys.executable) -> dict[str, Any]:
        """Run one job; return what it reports and its wall time."""
        command = [python, "-m", "inference_parts.jobs", job, *map(str, arguments)]
        started = time.perf_counter()
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=3600, cwd=HERE,
            env=os.environ | {"TUBAN_CACHE": str(self.folder / "cache")},
        )  # fmt: skip
        wall = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
        return {"wall": wall, **json.loads(done.stdout.strip().splitlines()[-1])}

    def made(self, kind: str, size: int = 0) -> Path:
        """Make an input once."""
        path = self.folder / (f"{kind}{size}.tif" if kind == "scene" else f"{kind}{size or ''}")
        if not path.exists():
            self.job("make", kind, path, size or "")
        return path

    def _whole(self, bundle: object, kind: str, source: Path) -> dict[str, Any]:
        """Bare, cold (this machine remembers no trial of backends) and warm (it remembers the cold run's)."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        found = {"bare": self.job("bare", bundle, kind, source)}
        for name in ("cold", "warm"):
            found[name] = self.job("whole", bundle, kind, source, self.folder / f"{kind}-{name}")
        return found

    def speed(self) -> dict[str, Any]:
        """Time the whole process over the bare runtime, and the peers."""
        size, part = self.sizes["scene"], self.sizes["peers"]
        unet = self.made("unet")
        found = {"size": size, "share": (size / part) ** 2, **self._whole(unet, "scene", self.made("scene", size))}
        # The peers' time is a matter of pixels: a part of the scene says it.
        smaller = self.made("scene", part)
        found["loop"] = self.job("loop", unet, smaller, self.folder / "loop.tif")
        if self.geo:
            found["geo"] = self.job("geo", unet, smaller, self.folder / "geo", python=self.geo)
        return found

    def pair(self) -> dict[str, Any]:
        """Time a pair the same way."""
        size = self.sizes["pair"]
        return {"size": size, **self._whole(self.bundle, "pair", self.made("pair", size))}

    def memory(self) -> dict[str, Any]:
        """Peak memory with a stub network for each size, and of a scene that is begun and stopped."""
        stub, begun = self.made("stub"), self.sizes["begun"]
        runs = {}
        for size in self.sizes["memory"]:
            out = self.folder / f"memory{size}"
            runs[str(size)] = self.job("whole", stub, "empty", size, out, "onnx")
            shutil.rmtree(out)
        return {"runs": runs | {f"{begun} (begun)": self.job("begin", stub, begun, self.folder / "begun")}}

    def seams(self) -> dict[str, Any]:
        """Count how much results differ between ways to cut the same scene."""
        size = self.sizes["seams"]
        # The U-Net's reach of 640 px makes windows of 10 times the pixels that they keep: half the side will do.
        unet, scene, pair = self.made("unet"), self.made("scene", max(512, size // 2)), self.made("pair", size)
        name = Path(self.bundle).name
        return {
            "runs": {
                name: self.job("seams", self.bundle, "pair", pair, "bundle"),
                f"{name}, whole reach": self.job("seams", self.bundle, "pair", pair, "exact"),
                "U-Net, whole reach": self.job("seams", unet, "scene", scene, "exact"),
                "U-Net, untrained": self.job("seams", unet, "scene", scene, "bundle"),
            }
        }

    def resume(self) -> dict[str, Any]:
        """Kill a run at random moments; count how often its hashes were those of a run that was not killed."""
        pair = self.made("pair", self.sizes["killed"])
        return self.job("resume", self.bundle, pair, self.folder / "killed", self.sizes["kills"])

    def ray(self) -> dict[str, Any]:
        """Time one and two workers; compare hashes with this process alone."""
        size = self.sizes["ray"]
        pair, runs = self.made("pair", size), {"0": [], "1": [], "2": []}
        for _ in range(self.sizes["repeat"]):  # in turn, so that a load that comes and goes meets all alike
            for workers, group in runs.items():
                group.append(self.job("ray", self.bundle, pair, workers, self.sizes["tile"]))
        return {"size": size, "runs": runs}

    def faults(self) -> dict[str, Any]:
        """Run the tests that do harm: nodes, workers, disks, files and servers that fail."""
        runs = {}
        for name, where in FAULTS.items():
            record = self.folder / "tests.xml"
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={record}"]
            subprocess.run([*command, *where.split()], check=False, capture_output=True, cwd=HERE.parent, timeout=1200)
            suite = ET.parse(record).getroot()[0].attrib  # noqa: S314 (written a moment ago)
            count = {key: int(suite[key]) for key in ("tests", "failures", "errors", "skipped")}
            failed = count["failures"] + count["errors"]
            passed = count["tests"] - failed - count["skipped"]
            runs[name] = {"where": where, "passed": passed, "failed": failed, "skipped": count["skipped"]}
        return {"runs": runs}

    def gpu(self) -> dict[str, Any]:
        """Throughput on a graphics card over the bare model's there, where there is one."""
        card = _card()
        if card is None:
            return {"why": "no CUDA device on this machine: not measured"}
        pair, (backend, name) = self.made("pair", self.sizes["pair"]), card
        found = self.job("gpu", self.bundle, pair, self.folder / "gpu", backend, "cuda", name)
        return found | {"size": self.sizes["pair"]}


def _card() -> tuple[str, str] | None:
    """Return the backend that reaches a CUDA device here, and the card's name."""
    code = (
        "import onnxruntime as o, torch\n"
        "if torch.cuda.is_available():\n"
        "    print('onnx' if 'CUDAExecutionProvider' in o.get_available_providers() else 'torch')\n"
        "    print(torch.cuda.get_device_name())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return (lines[0], lines[1]) if len(lines) == 2 else None


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write what was measured until now."""
    folder.mkdir(exist_ok=True)
    (folder / "inference.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "inference.md").write_text(table(found), encoding="utf-8")
    if "speed" in found:
        (folder / "inference.svg").write_text(plot(found["speed"]), encoding="utf-8")


def main() -> None:
    """Run the parts that are asked for, keep the others' results, write table and plot after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="any of " + ", ".join(MINUTES))
    parser.add_argument("--geo", help="Python of an environment with geo-inference 3.2.4; else it is left out")
    parser.add_argument("--bundle", default="s2-change", help="the change model")
    parser.add_argument("--whole-peers", action="store_true", help="give the peers the whole scene; 5 minutes more")
    parser.add_argument("--small", action="store_true", help="a small size, into a temporary folder")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(MINUTES):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; use any of {', '.join(MINUTES)}")
    sizes = dict(SMALL if options.small else FULL)
    if options.whole_peers:
        sizes["peers"] = sizes["scene"]
    with tempfile.TemporaryDirectory(prefix="tuban-bench-") as name:
        results = Path(name) / "results" if options.small else HERE / "results"
        kept = results / "inference.json"
        found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        bench = Bench(Path(name), sizes, options.geo, options.bundle)
        for part in options.parts or MINUTES:
            expected = "" if options.small else f": about {MINUTES[part]} minutes on two idle cores"
            print(f"{part}{expected} …", flush=True)
            began, load = time.perf_counter(), os.getloadavg()[0]
            measure: Callable[[], dict[str, Any]] = getattr(bench, part)
            found[part] = {
                **measure(),
                "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
                "load": load,
                "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            }
            found = {name: found[name] for name in MINUTES if name in found}
            write(results, found)
            print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
        print(table(found))


if __name__ == "__main__":
    main()
