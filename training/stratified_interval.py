"""Confidence intervals from a stratified random sample that hold their level where errors are rare.

The usual interval, estimate ± 1.96 standard errors, fails where a stratum shows few errors or none: with no omission
among 300 points it has no width at all, and over repeated samples it covers far less than 95 % (`docs/evaluation.md`,
`benchmarks/interval_coverage.py`). Here each stratum's proportion gets an exact interval of its own, and these are
put together by the method of variance estimates recovery (MOVER): the distance from the estimate to each limit is the
root of the sum of squares of the strata's distances. A ratio (user's and producer's accuracy) is the set of values r
for which `(1 - r) Y - r Z` may be 0 (Fieller's argument), Y being the hits and Z the rest of the denominator.

Everything works on arrays with any leading dimensions, so that 10,000 simulated samples are one call.

References:
    Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
        Biometrika 1934.
    Zou, Huang & Zhang, "A note on confidence interval estimation for a linear function of binomial proportions",
        Computational Statistics & Data Analysis 2009.
    Donner & Zou, "Closed-form confidence intervals for functions of the normal mean and standard deviation",
        Statistical Methods in Medical Research 2012 (ratios).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtri

if TYPE_CHECKING:
    from numpy.typing import NDArray

Limits = Literal["clopper-pearson", "jeffreys", "wilson"]
# The narrowest of those that keep 94 % in every scenario of benchmarks/interval_coverage.py.
METHOD: Limits = "clopper-pearson"
_BISECTIONS = 50


class Interval(NamedTuple):
    """An estimate with its limits, each an array of the leading shape."""

    estimate: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def binomial(
    hits: NDArray[Any], n: NDArray[Any], level: float = 0.95, method: Limits = METHOD
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lower and upper limit of a proportion of which `hits` of `n` were seen; arrays broadcast."""
    x, n = np.broadcast_arrays(np.asarray(hits, float), np.asarray(n, float))
    tail = (1 - level) / 2
    if method == "wilson":
        z = float(ndtri(1 - tail))
        centre = (x + z * z / 2) / (n + z * z)
        half = z / (n + z * z) * np.sqrt(x * (n - x) / n + z * z / 4)
        return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    prior = 0.5 if method == "jeffreys" else 0.0
    extra = 0.5 if method == "jeffreys" else 1.0
    low = np.where(x > 0, betaincinv(np.maximum(x + prior, 1e-9), n - x + extra, tail), 0.0)
    high = np.where(x < n, betaincinv(x + extra, np.maximum(n - x + prior, 1e-9), 1 - tail), 1.0)
    return low, high


def linear(
    weights: NDArray[Any], hits: NDArray[Any], n: NDArray[Any], level: float = 0.95, method: Limits = METHOD
) -> Interval:
    """Return the interval of `sum(weights * proportions)`.

    Args:
        weights: `(strata,)` share of each stratum, adding up to 1.
        hits: `(..., strata)` sample points of each stratum that have the attribute.
        n: `(..., strata)` sample points of each stratum, at least 1.
        level: confidence.
        method: limits of one stratum.
    """
    p = hits / n
    low, high = binomial(hits, n, level, method)
    estimate = (weights * p).sum(axis=-1)
    below = np.sqrt((weights**2 * (p - low) ** 2).sum(axis=-1))
    above = np.sqrt((weights**2 * (high - p) ** 2).sum(axis=-1))
    return Interval(estimate, np.clip(estimate - below, 0, 1), np.clip(estimate + above, 0, 1))


def ratio(
    weights: NDArray[Any],
    hits: NDArray[Any],
    rest: NDArray[Any],
    n: NDArray[Any],
    level: float = 0.95,
    method: Limits = METHOD,
) -> Interval:
    """Return the interval of `Y / (Y + Z)`, the weighted sums of two attributes that exclude each other.

    Args:
        weights: `(strata,)` share of each stratum.
        hits: `(..., strata)` points with the first attribute (map and reference agree on the class).
        rest: `(..., strata)` points with the second (the class in one of them only).
        n: `(..., strata)` points of each stratum.
        level: confidence.
        method: limits of one stratum.

    Returns:
        Where neither attribute was seen the estimate is NaN and the limits are 0 and 1.
    """
    y, z = hits / n, rest / n
    y_low, y_high = binomial(hits, n, level, method)
    z_low, z_high = binomial(rest, n, level, method)
    # Of one multinomial sample: a point with one attribute cannot have the other.
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.nan_to_num(-np.sqrt(y * z / ((1 - y) * (1 - z))), nan=0.0, posinf=0.0, neginf=0.0)
    total_y, total_z = (weights * y).sum(axis=-1), (weights * z).sum(axis=-1)
    seen = total_y + total_z > 0
    estimate = np.where(seen, total_y / np.where(seen, total_y + total_z, 1), np.nan)
    start = np.where(seen, estimate, 0.5)

    def excess(r: NDArray[np.float64], dy: NDArray[np.float64], dz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far `|(1 - r) Y - r Z|` is beyond what chance allows."""
        a, b = (1 - r)[..., None] * dy, r[..., None] * dz
        chance = np.sqrt((weights**2 * (a * a + b * b - 2 * correlation * a * b)).sum(axis=-1))
        return np.asarray(np.abs((1 - r) * total_y - r * total_z) - chance)

    low = _boundary(lambda r: excess(r, y - y_low, z_high - z), start, np.zeros_like(start))
    high = _boundary(lambda r: excess(r, y_high - y, z - z_low), start, np.ones_like(start))
    return Interval(estimate, np.where(seen, low, 0.0), np.where(seen, high, 1.0))


def _boundary(excess: Any, inside: NDArray[np.float64], outside: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bisect between a value that chance allows and one beyond; stays at `outside` where that is allowed too."""
    allowed = excess(outside) <= 0
    near, far = inside, outside
    for _ in range(_BISECTIONS):
        middle = (near + far) / 2
        within = excess(middle) <= 0
        near, far = np.where(within, middle, near), np.where(within, far, middle)
    return np.where(allowed, outside, far)
