"""How many points an accuracy assessment needs, and how many of them each stratum gets.

References:
    Cochran, "Sampling Techniques", 3rd ed., Wiley 1977, eq. 5.25 (size) and 5.26 (Neyman allocation).
    Olofsson et al., "Good practices for estimating area and assessing accuracy of land change", Remote Sensing of
        Environment 2014, section 5.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tuban.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Allocation = Literal["proportional", "optimal", "equal", "minimum"]


@dataclass(frozen=True, slots=True)
class Stratum:
    """One stratum of the map to be assessed.

    Attributes:
        value: value in the raster.
        name: what it is called.
        pixels: how many there are.
        area_m2: ground area.
        expected: user's accuracy that is expected, 0–1; decides the sample size and the optimal allocation.
        points: points allotted to it.
    """

    value: int
    name: str
    pixels: int
    area_m2: float
    expected: float = 0.9
    points: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "value": self.value,
            "name": self.name,
            "pixels": self.pixels,
            "area_m2": round(self.area_m2, 1),
            "expected": self.expected,
            "points": self.points,
        }


def sample_size(weights: Sequence[float], expected: Sequence[float], standard_error: float) -> int:
    """Return the points needed for a standard error of the overall accuracy.

    Args:
        weights: share of each stratum, adding up to 1.
        expected: user's accuracy expected in each stratum, 0–1.
        standard_error: aim, e.g. 0.01; the interval is about twice that to each side.

    Raises:
        UsageError: a value is out of range.

    Example:
        >>> sample_size([0.02, 0.015, 0.32, 0.645], [0.7, 0.6, 0.9, 0.95], 0.01)
        641
    """
    if not 0 < standard_error < 0.5:
        raise UsageError(f"standard error {standard_error} is out of range; give a share between 0 and 0.5, e.g. 0.01")
    if bad := [u for u in expected if not 0 <= u <= 1]:
        raise UsageError(f"expected accuracy {bad[0]} is out of range; give a share from 0 to 1")
    deviation = sum(w * math.sqrt(u * (1 - u)) for w, u in zip(weights, expected, strict=True))
    return max(math.ceil((deviation / standard_error) ** 2 - 1e-9), 1)


def allocate(strata: Sequence[Stratum], total: int, *, allocation: Allocation, minimum: int = 50) -> list[int]:
    """Return the points of each stratum.

    Every stratum gets `minimum` points, or as many as it has pixels. What is left goes to the others

    - `proportional`: by area; best for the overall accuracy and the areas.
    - `optimal`: by area times the deviation expected (Neyman); best where accuracies differ much.
    - `equal`: evenly; best for the user's accuracy of every class.
    - `minimum`: proportional over the strata that are not held at the minimum, as Olofsson et al. recommend.

    Args:
        strata: at least one, each with pixels.
        total: points in all; raised to what the minimums need.
        allocation: rule.
        minimum: fewest points of a stratum; below 2 no standard error can be had.

    Raises:
        UsageError: no strata, or a minimum below 2.
    """
    if not strata:
        raise UsageError("the raster has no stratum: every pixel is nodata")
    if minimum < 2:
        raise UsageError(f"a minimum of {minimum} points gives no standard error; give at least 2, better 50")
    pixels = np.array([s.pixels for s in strata], float)
    floor = np.minimum(minimum, pixels)
    share = {
        "proportional": pixels,
        "minimum": pixels,
        "optimal": pixels * np.sqrt([max(s.expected * (1 - s.expected), 1e-4) for s in strata]),
        "equal": np.ones(len(strata)),
    }[allocation]
    points = floor.copy()
    held = np.zeros(len(strata), bool)
    # Strata whose fair share is below their floor are held there, or full ones at their pixels; the rest share anew.
    while not held.all():
        left = max(total - points[held].sum(), 0)
        fair = np.where(held, points, left * share / share[~held].sum())
        wrong = ~held & ((fair < floor) | (fair > pixels))
        if not wrong.any():
            points = fair
            break
        points[wrong] = np.clip(fair[wrong], floor[wrong], pixels[wrong])
        held |= wrong
    return _rounded(points, pixels)


def _rounded(points: Any, pixels: Any) -> list[int]:
    """Round by largest remainder, so that the sum stays; ties go to the earlier stratum."""
    whole = np.floor(points + 1e-9).astype(int)
    missing = round(float(points.sum())) - int(whole.sum())
    order = np.argsort(-(points - whole), kind="stable")
    for index in [i for i in order if whole[i] < pixels[i]][:missing]:
        whole[index] += 1
    return [int(n) for n in whole]


def expected_errors(strata: Sequence[Stratum]) -> dict[str, Any]:
    """Return the standard errors to be expected from the points allotted: overall, and user's accuracy by stratum."""
    weights = np.array([s.area_m2 for s in strata])
    weights = weights / weights.sum()
    spread = np.array([s.expected * (1 - s.expected) for s in strata])
    points = np.maximum([s.points for s in strata], 2)
    return {
        "overall": round(float(np.sqrt((weights**2 * spread / (points - 1)).sum())), 5),
        "users": {s.name: round(math.sqrt(v / (n - 1)), 4) for s, v, n in zip(strata, spread, points, strict=True)},
    }


def with_points(strata: Sequence[Stratum], points: Sequence[int]) -> list[Stratum]:
    """Return the strata with their points."""
    return [Stratum(s.value, s.name, s.pixels, s.area_m2, s.expected, n) for s, n in zip(strata, points, strict=True)]


def named(expected: Mapping[str, float] | None, name: str, value: int, default: float) -> float:
    """Return the accuracy expected of a stratum, given by its name or value."""
    chosen = expected or {}
    return float(chosen.get(name, chosen.get(str(value), default)))
