"""The table and the plot of `benchmarks/inference.py`."""

from __future__ import annotations

from typing import Any

TIMES, MEMORY_MB, FLAT, LOOP, GEO, RAY, GPU = 1.3, 1500, 1.10, 4, 6, 0.85, 0.85
"""Limits: whole over bare, peak memory, peak over the smallest scene's, times faster than the peers, efficiency, and
throughput over the bare model's."""


def table(found: dict[str, Any]) -> str:
    """Return the Markdown of what was measured."""
    parts = {"speed": _speed, "pair": _pair, "memory": _memory, "seams": _seams, "resume": _resume, "ray": _ray}
    parts |= {"faults": _faults, "gpu": _gpu}
    rows = [row for name, make in parts.items() if name in found for row in make(found[name])]
    when = [f"{name} {part['when']} (load before {part['load']:.1f})" for name, part in found.items()]
    lines = [
        "# Inference",
        "",
        (
            "`python benchmarks/inference.py`. Bare: `session.run` of ONNX Runtime alone, windows of 512 px without "
            "overlap, default session. Whole: a fresh process from start to COGs in place, by the backend that this "
            "machine remembers from an earlier run's trial (cold: with the trial). Processor: user and system time "
            "of the whole process over that of the bare runs, which other work on the machine disturbs less."
        ),
        "",
        f"Measured: {'; '.join(when)}; {next(iter(found.values()))['machine']}.",
        "",
        "| what | measured | limit | |",
        "|---|---|---|---|",
        *(f"| {what} | {measured} | {limit} | {_sign(good)} |" for what, measured, limit, good in rows),
    ]
    return "\n".join(lines) + "\n"


Row = tuple[str, str, str, bool | None]


def _sign(good: bool | None) -> str:
    return "" if good is None else "✓" if good else "✗"


def _whole(run: dict[str, Any], cold: dict[str, Any], bare: dict[str, Any], what: str) -> list[Row]:
    ratio, work = run["wall"] / bare["seconds"], run["cpu"] / bare["cpu"]
    told = (
        f"{run['wall']:.1f} s = **{ratio:.2f} ×** bare (cold {cold['wall'] / bare['seconds']:.2f} ×; processor "
        f"{work:.2f} ×)"
    )
    how = f"{run['backend']}, windows {run['window'][0]} × {run['window'][1]}, halo {run['halo']}, fed {run['fed']:.2f}"
    peak = max(run["peak_mb"], cold["peak_mb"])
    return [
        (f"{what}: bare", f"{bare['seconds']:.1f} s", "", None),
        (f"… tuban, whole process ({how})", told, f"≤ {TIMES} ×", ratio <= TIMES),
        ("… its peak memory", f"{peak:.0f} MB", f"≤ {MEMORY_MB} MB", peak <= MEMORY_MB),
    ]


def _speed(part: dict[str, Any]) -> list[Row]:
    run = part["warm"]
    what = f"U-Net / EfficientNet-Lite0, 5 classes, {part['size']}²"
    rows = _whole(run, part["cold"], part["bare"], what)
    for name, label, least in (("loop", "rasterio + torch window loop", LOOP), ("geo", "geo-inference 3.2.4", GEO)):
        if name not in part:
            rows.append((f"… {label}", "not measured: no environment with it was named", f"≥ {least} ×", None))
            continue
        seconds = part[name]["seconds"] * part["share"]
        times = seconds / run["wall"]
        told = f"{seconds:.1f} s: tuban is **{times:.1f} ×** faster"
        size = f", without its start; 1/{part['share']:g} of the scene, × {part['share']:g}"
        rows.append((f"… {label}{size if part['share'] > 1 else ''}", told, f"≥ {least} ×", times >= least))
    return rows


def _pair(part: dict[str, Any]) -> list[Row]:
    return _whole(part["warm"], part["cold"], part["bare"], f"`{part['warm']['model']}`, pair of {part['size']}²")


def _memory(part: dict[str, Any]) -> list[Row]:
    runs = part["runs"]
    first = next(iter(runs.values()))["peak_mb"]
    rows: list[Row] = []
    for name, run in runs.items():
        peak = run["peak_mb"]
        told = f"{peak:.0f} MB = {peak / first:.2f} × the first ({run['wall']:.0f} s)"
        rows.append((f"stub network, {name} px a side", told, f"≤ {FLAT:.2f} ×", peak / first <= FLAT))
    return rows


def _seams(part: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, run in part["runs"].items():
        share, exact = run["differing"] / run["pixels"], run["exact"]
        what = f"seams, {name}, halo {run['halo']} ({'covers' if exact else 'smaller than'} the reach)"
        told = (
            f"{run['differing']} of {run['pixels']} classes ({100 * share:.4f} %) between tiles of {run['tiles']}; "
            f"probability by at most {run['probability']:.1e}"
        )
        good: bool | None = (run["differing"] == 0 and run["probability"] <= 1e-4) if exact else share <= 1e-3
        limit = "0; 1e-4" if exact else "≤ 0.1 %"
        if not exact and "untrained" in name:
            # Its decoder is as initialised: classes hang on threads, and no halo is chosen for such a network.
            good, limit = None, "none: random weights"
        rows.append((what, told, limit, good))
    return rows


def _resume(part: dict[str, Any]) -> list[Row]:
    kills = part["kills"]
    told = f"{part['equal']} of {kills} equal to the byte ({part['finished']} had been finished)"
    again = f"{part['again']} of {kills * part['parts']}"
    return [
        (f"SIGKILL at {kills} random moments, run again", told, "all", part["equal"] == kills),
        ("… parts that were done and made again", again, "0", part["again"] == 0),
    ]


def _ray(part: dict[str, Any]) -> list[Row]:
    runs = part["runs"]
    best = {workers: min(one["work"] for one in group) for workers, group in runs.items()}
    whole = {workers: min(one["inside"] for one in group) for workers, group in runs.items()}
    efficiency = best["1"] / (2 * best["2"])
    digests = {one["hash"] for group in runs.values() for one in group}
    what = f"Ray, `{runs['1'][0]['model']}`, pair of {part['size']}², one thread a worker"
    told = (
        f"**{efficiency:.2f}**: {best['1']:.1f} s by one, {best['2']:.1f} s by two; whole, with the start of Ray and "
        f"the COGs, {whole['1']:.1f} and {whole['2']:.1f} s, without Ray {whole['0']:.1f} s"
    )
    return [
        (f"{what}: efficiency from one to two", told, f"≥ {RAY}", efficiency >= RAY),
        ("… hashes of none, one and two workers", f"{len(digests)} of {sum(map(len, runs.values()))} runs", "1",
         len(digests) == 1),
    ]  # fmt: skip


def _faults(part: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, run in part["runs"].items():
        told = f"{run['passed']} tests pass, {run['failed']} fail, {run['skipped']} are skipped"
        rows.append((f"{name} ({run['where']})", told, "all", not run["failed"] and run["passed"] > 0))
    return rows


def _gpu(part: dict[str, Any]) -> list[Row]:
    if "bare" not in part:
        return [("GPU", part["why"], f"≥ {GPU} ×", None)]
    ratio = part["whole"] / part["bare"]
    told = f"{part['whole']:.1f} Mpx/s = **{ratio:.2f} ×** bare ({part['bare']:.1f}); fed {part['fed']:.2f}"
    return [(f"{part['card']}, {part['backend']}, pair of {part['size']}²", told, f"≥ {GPU} ×", ratio >= GPU)]


def plot(part: dict[str, Any]) -> str:
    """Return a bar chart of the times as SVG."""
    bars = [("bare runtime", part["bare"]["seconds"]), ("tuban", part["warm"]["wall"])]
    peers = (("loop", "window loop"), ("geo", "geo-inference"))
    bars += [(label, part[name]["seconds"] * part["share"]) for name, label in peers if name in part]
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
    title = f"{part['size']}² px, U-Net / EfficientNet-Lite0, 5 classes: whole process"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" font-family="sans-serif" '
        f'font-size="13"><rect width="100%" height="100%" fill="white"/><text x="20" y="22">{title}</text>'
        + "".join(rows)
        + "</svg>\n"
    )
