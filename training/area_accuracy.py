"""Accuracy and area of each class from a stratified random sample of interpreted points.

One estimator serves both cases: strata that are the map's own classes (Olofsson et al. 2014) and any others (Stehman
2014), because everything needed is how many points of each stratum had each pair of map and reference class. Standard
errors are those of the papers; the limits are those of `tuban.training.stratified_interval`, which keep their level
where errors are rare and never have zero width.

References:
    Olofsson et al., "Good practices for estimating area and assessing accuracy of land change", Remote Sensing of
        Environment 2014.
    Stehman, "Estimating area and map accuracy for stratified random sampling when the strata are different from the
        map classes", International Journal of Remote Sensing 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.errors import UsageError
from tuban.training.stratified_interval import METHOD, linear, ratio

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy.typing import NDArray

# Below this many points a stratum's own variance is a guess.
FEW = 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """One number with its uncertainty.

    Attributes:
        value: the estimate; NaN where the sample says nothing about it.
        se: standard error by the papers' formulas; 0 where no variation was seen, NaN with one point in a stratum.
        low: lower limit.
        high: upper limit.
        flags: what the reader must know: `no variation seen`, `not seen`, `one point in a stratum`.
    """

    value: float
    se: float
    low: float
    high: float
    flags: tuple[str, ...] = ()

    def times(self, factor: float) -> Estimate:
        """Return the same in other units."""
        return Estimate(self.value * factor, self.se * factor, self.low * factor, self.high * factor, self.flags)

    def as_dict(self, digits: int = 4) -> dict[str, Any]:
        """Return it JSON-ready; NaN becomes None."""
        numbers = {name: getattr(self, name) for name in ("value", "se", "low", "high")}
        return {n: None if math.isnan(v) else round(v, digits) for n, v in numbers.items()} | {"flags": [*self.flags]}


@dataclass(frozen=True, slots=True)
class StratifiedSample:
    """A sample reduced to what all estimates need.

    Attributes:
        strata: names, in the order of the first axis.
        classes: names, in the order of the other two.
        sizes: `(strata,)` pixels of each stratum, for weights and finite population correction.
        counts: `(strata, classes, classes)` points by stratum, map class and reference class.
    """

    strata: tuple[Hashable, ...]
    classes: tuple[Hashable, ...]
    sizes: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        strata: Sequence[Hashable],
        mapped: Sequence[Hashable],
        reference: Sequence[Hashable],
        sizes: Mapping[Any, float],
    ) -> StratifiedSample:
        """Count points.

        Args:
            strata: stratum of each point.
            mapped: map class of each point.
            reference: class that the interpreter saw at each point.
            sizes: pixels of each stratum, those without a point included.

        Raises:
            UsageError: no points, a stratum without size, or a stratum without a point.
        """
        if not len(strata):
            raise UsageError("the sample has no interpreted point; fill in the reference class of the points first")
        names = tuple(sizes)
        if strangers := sorted({str(s) for s in strata if s not in sizes}):
            raise UsageError(f"strata {', '.join(strangers)} have no size; give the pixels of every stratum")
        if empty := [str(name) for name in names if name not in set(strata) and sizes[name] > 0]:
            raise UsageError(
                f"strata {', '.join(empty)} have no interpreted point, so nothing can be said about the whole; "
                "interpret at least 2 points in each"
            )
        classes = tuple(sorted({*mapped, *reference}, key=lambda c: (str(type(c)), c)))
        row, column = {n: i for i, n in enumerate(names)}, {n: i for i, n in enumerate(classes)}
        counts = np.zeros((len(names), len(classes), len(classes)), np.int64)
        for stratum, this, true in zip(strata, mapped, reference, strict=True):
            counts[row[stratum], column[this], column[true]] += 1
        return cls(names, classes, np.array([sizes[n] for n in names], float), counts)

    @property
    def points(self) -> NDArray[np.int64]:
        """Points of each stratum, `(strata,)`."""
        return np.asarray(self.counts.sum(axis=(1, 2)))

    @property
    def weights(self) -> NDArray[np.float64]:
        """Share of each stratum, `(strata,)`."""
        return np.asarray(self.sizes / self.sizes.sum())

    def matrix(self) -> NDArray[np.float64]:
        """Return the error matrix in shares of the area, `(map classes, reference classes)`."""
        return np.asarray(np.tensordot(self.weights / self.points, self.counts, axes=1))

    def overall(self, level: float = 0.95) -> Estimate:
        """Return the overall accuracy."""
        return self._share(np.trace(self.counts, axis1=1, axis2=2), level)

    def area(self, name: Hashable, level: float = 0.95) -> Estimate:
        """Return the share of the area that is truly of class `name`."""
        return self._share(self.counts[:, :, self.classes.index(name)].sum(axis=1), level)

    def users(self, name: Hashable, level: float = 0.95) -> Estimate:
        """Return the user's accuracy (precision) of class `name`."""
        k = self.classes.index(name)
        return self._ratio(self.counts[:, k, k], self.counts[:, k].sum(axis=1), level)

    def producers(self, name: Hashable, level: float = 0.95) -> Estimate:
        """Return the producer's accuracy (recall) of class `name`."""
        k = self.classes.index(name)
        return self._ratio(self.counts[:, k, k], self.counts[:, :, k].sum(axis=1), level)

    def _share(self, hits: NDArray[np.int64], level: float) -> Estimate:
        n = self.points
        p = hits / n
        interval = linear(self.weights, hits, n, level, METHOD)
        se = self._se(p * (1 - p))
        return Estimate(float(interval.estimate), se, float(interval.low), float(interval.high), self._flags(se))

    def _ratio(self, hits: NDArray[np.int64], total: NDArray[np.int64], level: float) -> Estimate:
        n, weights = self.points, self.weights
        y, x = hits / n, total / n
        interval = ratio(weights, hits, total - hits, n, level, METHOD)
        if not (weights * x).sum():
            return Estimate(math.nan, math.nan, 0.0, 1.0, ("not seen",))
        r = float(interval.estimate)
        # Population variances within the strata of y - r x; y is 1 only where x is.
        variance = y * (1 - y) + r**2 * x * (1 - x) - 2 * r * (y - y * x)
        se = self._se(variance) / float((weights * x).sum())
        return Estimate(r, se, float(interval.low), float(interval.high), self._flags(se))

    def _se(self, variance: NDArray[np.float64]) -> float:
        """Return the standard error of a stratified mean, from variances with divisor n."""
        n = self.points
        if (n < 2).any():
            return math.nan
        left = np.clip(1 - n / self.sizes, 0, None)
        return float(np.sqrt((self.weights**2 * left * np.clip(variance, 0, None) / (n - 1)).sum()))

    def _flags(self, se: float) -> tuple[str, ...]:
        if math.isnan(se):
            return ("one point in a stratum",)
        # Rounding leaves a trace of variance where there is none.
        return ("no variation seen",) if se < 1e-12 else ()


def accuracy_table(
    sample: StratifiedSample,
    *,
    level: float = 0.95,
    total_area: float | None = None,
    names: Mapping[Any, str] | None = None,
) -> dict[str, Any]:
    """Return all estimates JSON-ready: overall, and per class user's, producer's, share and area.

    Args:
        sample: the interpreted sample.
        level: confidence of the intervals.
        total_area: area of all strata in m²; None leaves areas out.
        names: what classes are called; None takes them as they are.
    """
    names = names or {}
    few = [str(s) for s, n in zip(sample.strata, sample.points, strict=True) if n < FEW]
    return {
        "level": level,
        "interval": f"{METHOD} per stratum, put together by MOVER",
        "points": int(sample.points.sum()),
        "strata": {
            str(s): {"pixels": float(size), "weight": round(float(w), 6), "points": int(n)}
            for s, size, w, n in zip(sample.strata, sample.sizes, sample.weights, sample.points, strict=True)
        },
        "flags": [f"strata {', '.join(few)} have fewer than {FEW} points"] if few else [],
        "overall": sample.overall(level).as_dict(),
        "classes": {
            str(c): {
                "name": names.get(c, str(c)),
                "users": sample.users(c, level).as_dict(),
                "producers": sample.producers(c, level).as_dict(),
                "share": sample.area(c, level).as_dict(6),
                **({"area_m2": sample.area(c, level).times(total_area).as_dict(1)} if total_area else {}),
            }
            for c in sample.classes
        },
        "matrix": {"classes": [str(c) for c in sample.classes], "share": sample.matrix().round(6).tolist()},
    }
