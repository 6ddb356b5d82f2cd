"""Measures whole-scene inference: speed against the bare runtime and against peers, memory, seams, resume.

    python benchmarks/inference.py                     # everything; about a quarter of an hour on two cores
    python benchmarks/inference.py --only speed seams
    python benchmarks/inference.py --geo-inference /path/to/python   # of an environment with geo-inference 3.2.4

Each figure is a ratio of fresh processes run one after the other on this machine. Results go to
`benchmarks/results/inference.json`, `inference.md` and `inference.svg`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
JOBS = HERE / "inference_jobs.py"
RESULTS = HERE / "results"
LIMITS = {"speed": 1.3, "memory_mb": 1500, "flat": 1.10, "loop": 4.0, "geo-inference": 6.0}


def child(
    job: str, *arguments: object, python: str = sys.executable, timeout: float = 3600, cache: Path | None = None
) -> dict[str, Any]:
    """Run one job in a fresh process, its remembered trials in `cache`; return what it reports and its wall time."""
    started = time.perf_counter()
    command = [python, str(JOBS), job, *map(str, arguments)]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | ({"TUBAN_CACHE": str(cache)} if cache else {}),
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    wall = time.perf_counter() - started
    return {"wall": wall, **json.loads(done.stdout.strip().splitlines()[-1])}


def speed(folder: Path, size: int, pair_size: int, geo: str | None) -> dict[str, Any]:
    """Return whole-process time over bare runtime time, for one scene and for a pair, and the peers' times."""
    child("make-unet", folder / "unet")
    child("make-scene", folder / "scene.tif", size)
    found: dict[str, Any] = {"size": size, "bare": child("bare", folder / "unet", folder / "scene.tif")["seconds"]}
    # Cold: this machine remembers no trial of backends; warm: that of the run before.
    for name in ("cold", "tuban"):
        found[name] = child("whole", folder / "unet", folder / "scene.tif", folder / name, cache=folder / "cache")
    # The peers' time is a matter of pixels: a quarter of the scene says it.
    child("make-scene", folder / "quarter.tif", size // 2)
    found["loop"] = 4 * child("loop", folder / "unet", folder / "quarter.tif", folder / "loop.tif")["wall"]
    if geo:
        peer = child("geo", folder / "unet", folder / "quarter.tif", folder / "geo", python=geo)
        found["geo-inference"] = 4 * peer["wall"]
    child("make-pair", folder / "pair", pair_size)
    found["pair_size"] = pair_size
    found["pair_bare"] = child("bare-pair", "s2-change", folder / "pair")["seconds"]
    for name in ("pair_cold", "pair"):
        found[name] = child("whole-pair", "s2-change", folder / "pair", folder / name, cache=folder / "cache")
    return found


def memory(folder: Path, sizes: list[int]) -> dict[str, Any]:
    """Return peak memory with a stub network for each size, and of a 100,000² scene that is begun and stopped."""
    child("make-stub", folder / "stub")
    found = {str(size): child("whole-empty", folder / "stub", size, folder / f"m{size}") for size in sizes}
    found["100000 (begun)"] = child("begin-empty", folder / "stub", 100_000, folder / "m100k")
    return found


def seams(folder: Path) -> dict[str, Any]:
    """Return how much results differ between ways to cut the same scene."""
    child("make-unet", folder / "unet")
    child("make-scene", folder / "small.tif", 1536)
    child("make-pair", folder / "small-pair", 1024)
    return {
        "s2-change": child("seams-pair", "s2-change", folder / "small-pair"),
        "unet, halo 64": child("seams", folder / "unet", folder / "small.tif"),
    }


def resume(folder: Path, kills: int) -> dict[str, Any]:
    """Kill a run at random moments; return how often its hashes were those of a run that was not killed."""
    child("make-pair", folder / "kill-pair", 1024)
    return child("resume", folder / "kill-pair", folder / "killed", kills)


def table(found: dict[str, Any]) -> str:
    """Return the Markdown of the results."""
    lines = [
        "# Inference",
        "",
        (
            f"`python benchmarks/inference.py`; {found['machine']}. Bare: `session.run` of ONNX Runtime alone, windows "
            "of 512 px without overlap, default session. Whole: a fresh process from start to COGs in place, "
            "by the backend that an earlier run's trial found (cold: with the trial)."
        ),
        "",
        "| what | measured | limit |",
        "|---|---|---|",
    ]
    if "speed" in found:
        s = found["speed"]
        whole, pair = s["tuban"], s["pair"]
        lines += [
            f"| U-Net / EfficientNet-Lite0, 5 classes, {s['size']}²: bare | {s['bare']:.1f} s | |",
            (
                f"| … tuban, whole process ({whole['backend']}, tile {whole['tile']}, halo {whole['halo']}) "
                f"| {whole['wall']:.1f} s = **{whole['wall'] / s['bare']:.2f} ×** bare (cold "
                f"{s['cold']['wall'] / s['bare']:.2f} ×); {whole['peak_mb']:.0f} MB "
                f"| ≤ {LIMITS['speed']} ×; ≤ {LIMITS['memory_mb']} MB |"
            ),
            (
                f"| … rasterio + torch loop (a quarter of the scene, × 4) | {s['loop']:.1f} s: tuban is "
                f"{s['loop'] / whole['wall']:.1f} × faster "
                f"| ≥ {LIMITS['loop']:g} × |"
            ),
        ]
        if "geo-inference" in s:
            lines.append(
                f"| … geo-inference 3.2.4 | {s['geo-inference']:.1f} s: tuban is "
                f"{s['geo-inference'] / whole['wall']:.1f} × faster | ≥ {LIMITS['geo-inference']:g} × |"
            )
        lines += [
            f"| `{pair['model']}`, pair of {s['pair_size']}²: bare | {s['pair_bare']:.1f} s | |",
            (
                f"| … tuban, whole process ({pair['backend']}, tile {pair['tile']}, halo {pair['halo']}) "
                f"| {pair['wall']:.1f} s = **{pair['wall'] / s['pair_bare']:.2f} ×** bare (cold "
                f"{s['pair_cold']['wall'] / s['pair_bare']:.2f} ×); {pair['peak_mb']:.0f} MB "
                f"| ≤ {LIMITS['speed']} ×; ≤ {LIMITS['memory_mb']} MB |"
            ),
        ]
    if "memory" in found:
        sizes = {name: run["peak_mb"] for name, run in found["memory"].items()}
        first = next(iter(sizes.values()))
        for name, peak in sizes.items():
            lines.append(
                f"| stub network, {name} px a side | {peak:.0f} MB = {peak / first:.2f} × the first "
                f"| ≤ {LIMITS['flat']:.2f} × |"
            )
    for name, run in found.get("seams", {}).items():
        exact = "halo covers the reach" if run["exact"] else "halo smaller than the reach"
        limit = "0; 1e-4" if run["exact"] else "≤ 0.1 %"
        lines.append(
            f"| seams, {name} ({exact}): pixels whose class differs between tiles of {run['tiles']} "
            f"| {run['differing']} of {run['pixels']} ({100 * run['differing'] / run['pixels']:.4f} %); "
            f"probability by at most {run['probability']:.1e} | {limit} |"
        )
    if "resume" in found:
        r = found["resume"]
        lines.append(
            f"| killed with SIGKILL at {r['kills']} random moments, run again | {r['equal']} of {r['kills']} equal to "
            f"the byte; parts made in all {r['made']} for {r['parts']} parts and {r['kills']} kills: at most "
            f"{r['most_lost']} lost by a kill | all; work done is not done again |"
        )
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any]) -> str:
    """Return a bar chart of the times as SVG."""
    s = found["speed"]
    bars = [("bare runtime", s["bare"]), ("tuban", s["tuban"]["wall"]), ("window loop", s["loop"])]
    if "geo-inference" in s:
        bars.append(("geo-inference", s["geo-inference"]))
    longest = max(seconds for _, seconds in bars)
    rows = []
    for place, (name, seconds) in enumerate(bars):
        y, width = 40 + 34 * place, 420 * seconds / longest
        color = "#2a6f4e" if name == "tuban" else "#9aa5a0"
        rows.append(
            f'<text x="120" y="{y + 15}" text-anchor="end">{name}</text>'
            f'<rect x="130" y="{y}" width="{width:.1f}" height="22" fill="{color}"/>'
            f'<text x="{136 + width:.1f}" y="{y + 15}">{seconds:.0f} s</text>'
        )
    height = 50 + 34 * len(bars)
    title = f"{s['size']}² px, U-Net / EfficientNet-Lite0, 5 classes: whole process"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" font-family="sans-serif" '
        f'font-size="13"><rect width="100%" height="100%" fill="white"/><text x="20" y="22">{title}</text>'
        + "".join(rows)
        + "</svg>\n"
    )


def main() -> None:
    """Run the parts that are asked for, keep the others' results, write table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["speed", "memory", "seams", "resume"])
    parser.add_argument("--size", type=int, default=6144, help="side of the scene for speed")
    parser.add_argument("--pair-size", type=int, default=4096, help="side of the pair for speed")
    parser.add_argument("--memory", type=int, nargs="+", default=[4096, 12288, 40960], help="sides for memory")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument(
        "--geo-inference", help="Python of an environment with geo-inference 3.2.4; else it is left out"
    )
    options = parser.parse_args()
    parts = options.only or ["speed", "memory", "seams", "resume"]
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / "inference.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    found["machine"] = f"{platform.machine()}, {len(__import__('os').sched_getaffinity(0))} cores"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = {
            "speed": lambda: speed(folder, options.size, options.pair_size, options.geo_inference),
            "memory": lambda: memory(folder, options.memory),
            "seams": lambda: seams(folder),
            "resume": lambda: resume(folder, options.kills),
        }
        for part in parts:
            found[part] = runs[part]()
            kept.write_text(json.dumps(found, indent=1) + "\n")
            print(part, json.dumps(found[part]), flush=True)
    (RESULTS / "inference.md").write_text(table(found), encoding="utf-8")
    if "speed" in found:
        (RESULTS / "inference.svg").write_text(plot(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
