"""A sample that an interpreter filled in, read back and turned into accuracy and areas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyogrio
import rasterio.warp
from pyogrio.errors import DataLayerError, DataSourceError

from tuban.data.grid import LONLAT
from tuban.errors import UsageError, VectorError
from tuban.training.area_accuracy import StratifiedSample, accuracy_table
from tuban.training.class_raster import opened

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


def read_interpreted(
    path: str | Path, *, mapped: str | Path | None = None, names: Mapping[int, str] | None = None
) -> tuple[StratifiedSample, dict[str, Any]]:
    """Read a filled-in sample.

    Args:
        path: GeoPackage of `tuban.training.sample_points.draw`, its field `reference` filled in with class values or
            names.
        mapped: another class raster of the same place to be judged by the same points; None judges the one that the
            points were drawn from.
        names: further names by value that `reference` may use, beside those of the strata.

    Returns:
        The sample, its classes as names, and facts: points, those left blank, strata's area in m², notes.

    Raises:
        VectorError: not a sample of `draw`, or points were added or removed.
        UsageError: an unknown class, or a stratum without an interpreted point.
        SceneError: `mapped` cannot be read.
    """
    try:
        samples = pyogrio.read_dataframe(path, layer="samples", read_geometry=False)
        design = pyogrio.read_dataframe(path, layer="design", read_geometry=False)
        strata = pyogrio.read_dataframe(path, layer="strata", read_geometry=False)
    except (DataSourceError, DataLayerError) as error:
        raise VectorError(f"{path} is no sample of `tuban sample draw` ({error}); give its file") from error
    known = {**(names or {}), **dict(zip(strata["value"].astype(int), strata["name"].astype(str), strict=True))}
    table = design.merge(samples, on="sample_id", how="outer", indicator=True)
    if (table["_merge"] != "both").any() or samples["sample_id"].duplicated().any():
        raise VectorError(f"{path}: points of `samples` were added, removed or renumbered; restore the drawn ones")
    text = table["reference"].map(lambda v: "" if v is None or v != v else str(v).strip())  # noqa: PLR0124
    done = table[text != ""].assign(reference=[_class(v, known, path) for v in text[text != ""]])
    values = done["stratum"].to_numpy() if mapped is None else _values_at(mapped, done["lon"], done["lat"])
    sizes = dict(zip(strata["name"], strata["area_m2"] / strata["area_m2"].sum() * strata["pixels"].sum(), strict=True))
    sample = StratifiedSample.of(
        [known[int(v)] for v in done["stratum"]],
        [known.get(int(v), str(int(v))) for v in values],
        list(done["reference"]),
        sizes,
    )
    blank = len(table) - len(done)
    notes = [f"{blank} of {len(table)} points are not interpreted: they are left out as if missing at random"]
    return sample, {
        "points": len(done),
        "blank": blank,
        "total_area_m2": float(strata["area_m2"].sum()),
        "notes": notes if blank else [],
    }


def estimate(
    path: str | Path,
    *,
    mapped: str | Path | None = None,
    names: Mapping[int, str] | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Return accuracy and areas from a filled-in sample, JSON-ready; arguments as `read_interpreted`.

    Raises:
        UsageError: `level` is no confidence; further as `read_interpreted`.
    """
    if not 0.5 <= level < 1:
        raise UsageError(f"level {level} is out of range; give the confidence as a share, e.g. 0.95")
    sample, facts = read_interpreted(path, mapped=mapped, names=names)
    return accuracy_table(sample, level=level, total_area=facts["total_area_m2"]) | {
        "blank": facts["blank"],
        "total_area_m2": round(facts["total_area_m2"], 1),
        "notes": facts["notes"],
        "sample": str(path),
        "map": None if mapped is None else str(mapped),
    }


def _class(text: str, known: Mapping[int, str], path: str | Path) -> str:
    """Return the class that an interpreter wrote, as a name."""
    if text in known.values():
        return text
    number = text.removesuffix(".0")
    if number.isdecimal() and int(number) in known:
        return known[int(number)]
    accepted = ", ".join(f"{value} {name}" for value, name in sorted(known.items()))
    raise UsageError(f"{path}: reference class {text!r} is unknown; use one of: {accepted}")


def _values_at(raster: str | Path, lon: Any, lat: Any) -> NDArray[np.int64]:
    with opened(raster) as source:
        x, y = rasterio.warp.transform(LONLAT, source.crs, list(lon), list(lat))
        inside = [
            source.bounds.left <= a <= source.bounds.right and source.bounds.bottom <= b <= source.bounds.top
            for a, b in zip(x, y, strict=True)
        ]
        if not all(inside):
            raise UsageError(
                f"{raster} does not cover {inside.count(False)} of the points; give a map of the same place"
            )
        return np.array([value[0] for value in source.sample(zip(x, y, strict=True))], np.int64)
