"""`tuban sample plan` and `estimate`: the files between a map, its interpreter and the estimate."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

import rasterio
from rasterio.errors import RasterioError

from tuban.data.classes import classes
from tuban.data.replacing import write_text
from tuban.errors import SceneError, UsageError
from tuban.training.interpreted import estimate
from tuban.training.sample_points import count_strata
from tuban.training.sampling_design import (
    Allocation,
    Stratum,
    allocate,
    expected_errors,
    named,
    sample_size,
    with_points,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CHANGE_NAMES = {0: "unchanged", 1: "changed"}


def class_names(raster: str | Path) -> dict[int, str]:
    """Return names by value: unchanged and changed where nodata is 255, as in `change.tif`, else the unified classes.

    Raises:
        SceneError: the raster cannot be read.
    """
    try:
        with rasterio.open(raster) as source:
            change = source.nodata == 255
    except RasterioError as error:
        raise SceneError(f"cannot read {raster}: {error}; give a class raster") from error
    return dict(CHANGE_NAMES) if change else {value: entry.name for value, entry in classes().items()}


def plan(
    raster: Path,
    out: Path,
    *,
    standard_error: float,
    total: int | None,
    allocation: str,
    minimum: int,
    expected: Mapping[str, float] | None = None,
    default: float = 0.9,
    names: Mapping[int, str] | None = None,
    nodata: int | None = None,
) -> dict[str, Any]:
    """Count the strata of a raster, decide how many points each gets, and write the plan.

    Args:
        raster: class raster.
        out: JSON file.
        standard_error: aimed at for the overall accuracy, a share.
        total: points in all; None takes what the standard error needs.
        allocation: rule, see `tuban.training.sampling_design.allocate`.
        minimum: fewest points of a stratum.
        expected: user's accuracy expected, by class name or value.
        default: the same for classes not named.
        names: class names by value.
        nodata: value that is no class.

    Returns:
        The content of the file.

    Raises:
        UsageError: an unknown rule or class, or a value out of range.
        SceneError: the raster cannot be read.
        OutputError: the file cannot be written.
    """
    if allocation not in get_args(Allocation):
        raise UsageError(f"allocation {allocation!r} is unknown; use one of: {', '.join(get_args(Allocation))}")
    strata = count_strata(raster, names or class_names(raster), nodata)
    present = {s.name for s in strata} | {str(s.value) for s in strata}
    if unknown := sorted(set(expected or {}) - present):
        raise UsageError(f"{raster} has no class {unknown[0]!r}; it has {', '.join(s.name for s in strata)}")
    strata = [Stratum(s.value, s.name, s.pixels, s.area_m2, named(expected, s.name, s.value, default)) for s in strata]
    whole = sum(s.area_m2 for s in strata)
    needed = sample_size([s.area_m2 / whole for s in strata], [s.expected for s in strata], standard_error)
    rule: Allocation = allocation  # type: ignore[assignment]  # checked above
    strata = with_points(strata, allocate(strata, total or needed, allocation=rule, minimum=minimum))
    made = {
        "raster": str(raster),
        "allocation": allocation,
        "minimum": minimum,
        "standard_error": standard_error,
        "needed": needed,
        "points": sum(s.points for s in strata),
        "strata": [s.as_dict() for s in strata],
        "expected_errors": expected_errors(strata),
    }
    write_text(out, json.dumps(made, indent=2, ensure_ascii=False) + "\n")
    return made


def read_plan(path: Path) -> tuple[str, list[Stratum]]:
    """Return raster and strata of a plan.

    Raises:
        UsageError: no plan of `tuban sample plan`.
    """
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        return str(made["raster"]), [Stratum(**entry) for entry in made["strata"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no plan of `tuban sample plan` ({error}); make one first") from error


def write_estimate(
    samples: Path, out: Path, *, mapped: Path | None, names: Mapping[int, str] | None, level: float
) -> dict[str, Any]:
    """Estimate and write `estimate.json` and `estimate.md`; arguments and errors as `interpreted.estimate`."""
    known = names or {value: entry.name for value, entry in classes().items() if value}
    result = estimate(samples, mapped=mapped, names=known, level=level)
    write_text(out / "estimate.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    write_text(out / "estimate.md", "\n".join(estimate_lines(result)) + "\n")
    return result


def estimate_lines(result: Mapping[str, Any]) -> list[str]:
    """Return an estimate as Markdown, one line an element."""
    level = f"{result['level']:.0%}"
    head = f"| class | user's accuracy ({level}) | producer's accuracy ({level}) | area km² ({level}) | flags |"
    rows = []
    for row in result["classes"].values():
        flags = sorted({flag for key in ("users", "producers", "share") for flag in row[key]["flags"]})
        area = _shown(row["area_m2"], 1e-6, 3)
        rows.append(
            f"| {row['name']} | {_shown(row['users'])} | {_shown(row['producers'])} | {area} | {'; '.join(flags)} |"
        )
    return [
        f"# Accuracy from {result['points']} interpreted points",
        "",
        f"Overall accuracy {_shown(result['overall'])}, {level} interval in brackets ({result['interval']}).",
        *result["notes"],
        *result["flags"],
        "",
        head,
        "|---|---|---|---|---|",
        *rows,
    ]


def _shown(estimate_: Mapping[str, Any], factor: float = 1, digits: int = 3) -> str:
    value = estimate_["value"]
    low, high = (f"{factor * estimate_[key]:.{digits}f}" for key in ("low", "high"))
    return f"{'unknown' if value is None else f'{factor * value:.{digits}f}'} [{low}, {high}]"
