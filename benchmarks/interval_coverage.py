"""Do 95 % intervals of a stratified sample hold the truth in 95 % of samples, where errors are rare too?

    python benchmarks/interval_coverage.py [--simulations 10000]

In each scenario of a map with known errors, samples are drawn over and over; counted is how often the interval of the
area share, of the producer's (recall) and of the user's accuracy (precision) holds the truth, how wide it is on average
and how often it has no width. `clopper-pearson` is what tuban uses, `wilson` and `jeffreys` are the same method with
other limits per stratum, `wald` is estimate ± 1.96 standard errors. Results: `benchmarks/results/interval_coverage.md`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from tuban.training.stratified_interval import METHOD, Interval, Limits, linear, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results" / "interval_coverage.md"
REQUIRED = 0.94


@dataclass(frozen=True, slots=True)
class Scenario:
    """A map by strata: share of each, share of its pixels that are mapped and true, missed, false, and points."""

    name: str
    weights: tuple[float, ...]
    hit: tuple[float, ...]
    missed: tuple[float, ...]
    false: tuple[float, ...]
    points: tuple[int, ...]


# In a stratum of mapped change no pixel is missed, in one of mapped no-change none is a hit or false.
SCENARIOS = (
    Scenario("Olofsson 2014, deforestation", (0.02, 0.015, 0.32, 0.645), (0.88, 0, 0, 0), (0, 0, 0.006, 0.006),
             (0.12, 0, 0, 0), (75, 75, 165, 325)),
    Scenario("change 0.2 %, omission 0.05 %", (0.002, 0.998), (0.8, 0), (0, 0.0005), (0.2, 0), (50, 300)),
    Scenario("change 1 %, omission 0.2 %", (0.01, 0.99), (0.7, 0), (0, 0.002), (0.3, 0), (100, 500)),
    Scenario("change 3 %, omission 1 %, few points", (0.03, 0.97), (0.6, 0), (0, 0.01), (0.4, 0), (50, 150)),
    Scenario("change 0.5 %, omission 0.01 %", (0.005, 0.995), (0.9, 0), (0, 0.0001), (0.1, 0), (50, 1000)),
    Scenario("with a buffer stratum", (0.02, 0.06, 0.92), (0.65, 0, 0), (0, 0.08, 0.003), (0.35, 0, 0),
             (100, 100, 300)),
    Scenario("ten strata of 30 points", (0.004, 0.006, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.2, 0.5), (0.8, *[0.0] * 9),
             (0, 0.3, 0.1, 0.05, 0.02, 0.01, 0.01, 0.005, 0.002, 0.001), (0.2, *[0.0] * 9), (30,) * 10),
    Scenario("nearly perfect", (0.05, 0.95), (0.99, 0), (0, 0.001), (0.01, 0), (60, 200)),
    Scenario("other strata, 10 points", (0.4, 0.3, 0.2, 0.1), (0.5, 0.1, 0.02, 0), (0.2, 0.05, 0.02, 0.01),
             (0.1, 0.1, 0.01, 0.05), (10,) * 4),
    Scenario("other strata, 100 points", (0.4, 0.3, 0.2, 0.1), (0.3, 0.02, 0.01, 0), (0.02, 0.01, 0.002, 0),
             (0.05, 0.01, 0, 0.001), (100,) * 4),
)  # fmt: skip


def wald(weights: NDArray[np.float64], hits: NDArray[np.int64], n: NDArray[np.int64]) -> Interval:
    """Return the usual interval of a share."""
    p = hits / n
    se = np.sqrt((weights**2 * p * (1 - p) / (n - 1)).sum(axis=-1))
    estimate = (weights * p).sum(axis=-1)
    return Interval(estimate, estimate - 1.96 * se, estimate + 1.96 * se)


def wald_ratio(
    weights: NDArray[np.float64], hits: NDArray[np.int64], rest: NDArray[np.int64], n: NDArray[np.int64]
) -> Interval:
    """Return the usual interval of a ratio, by the delta method."""
    y, x = hits / n, (hits + rest) / n
    total = (weights * x).sum(axis=-1)
    r = (weights * y).sum(axis=-1) / np.where(total > 0, total, np.nan)
    variance = y * (1 - y) + r[:, None] ** 2 * x * (1 - x) - 2 * r[:, None] * y * (1 - x)
    se = np.sqrt((weights**2 * variance / (n - 1)).sum(axis=-1)) / np.where(total > 0, total, np.nan)
    return Interval(r, r - 1.96 * se, r + 1.96 * se)


def measure(scenario: Scenario, simulations: int, seed: int) -> Iterator[tuple[str, str, float, float, float]]:
    """Yield quantity, method, coverage, mean width and share of intervals without width."""
    rng = np.random.default_rng(seed)
    weights, n = np.array(scenario.weights), np.array(scenario.points)
    shares = np.stack([scenario.hit, scenario.missed, scenario.false])
    full = np.vstack([shares, 1 - shares.sum(axis=0)]).T
    drawn = np.stack([rng.multinomial(n[h], full[h], simulations) for h in range(len(n))], axis=1)
    hit, missed, false = (drawn[:, :, k] for k in range(3))
    mean = shares @ weights
    quantities = {
        "area share": (mean[0] + mean[1], None),
        "producer's": (mean[0] / (mean[0] + mean[1]), missed),
        "user's": (mean[0] / (mean[0] + mean[2]), false),
    }
    for quantity, (true, rest) in quantities.items():
        for method in ("wald", *get_args(Limits)):
            if rest is None:
                share = hit + missed
                made = wald(weights, share, n) if method == "wald" else linear(weights, share, n, method=method)
            elif method == "wald":
                made = wald_ratio(weights, hit, rest, n)
            else:
                made = ratio(weights, hit, rest, n, method=method)
            width = made.high - made.low
            inside = (made.low <= true + 1e-12) & (true - 1e-12 <= made.high)
            # A sample without the class has no usual interval at all: it holds nothing.
            yield quantity, method, float(inside.mean()), float(np.nanmean(width)), float((~(width > 1e-9)).mean())


def table(simulations: int) -> tuple[str, bool]:
    """Return the results as Markdown, and whether tuban's method keeps what is required everywhere."""
    command = f"`python benchmarks/interval_coverage.py --simulations {simulations}`"
    required = f"Required: {REQUIRED:.0%} in every row of `{METHOD}`, which tuban uses, and no interval without width."
    lines = [
        f"# Coverage of 95 % intervals, {simulations} simulated samples each",
        "",
        f"{command}. {required}",
        "",
        "| scenario | quantity | method | coverage | mean width | without width |",
        "|---|---|---|---|---|---|",
    ]
    kept = True
    worst: dict[str, float] = {}
    for seed, scenario in enumerate(SCENARIOS):
        for quantity, method, coverage, width, none in measure(scenario, simulations, seed):
            worst[method] = min(worst.get(method, 1.0), coverage)
            mark = f"**{coverage:.4f}**" if coverage < REQUIRED else f"{coverage:.4f}"
            lines.append(f"| {scenario.name} | {quantity} | {method} | {mark} | {width:.4f} | {none:.4f} |")
            if method == METHOD:
                kept &= coverage >= REQUIRED and none == 0
    least = ", ".join(f"{method} {coverage:.4f}" for method, coverage in worst.items())
    lines += ["", f"Least coverage of each method: {least}. Required is {'kept' if kept else 'NOT kept'}."]
    return "\n".join(lines) + "\n", kept


def main() -> int:
    """Run all scenarios; exit code 1 where the required coverage is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    text, kept = table(chosen.simulations)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text, encoding="utf-8")
    print(text)
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
