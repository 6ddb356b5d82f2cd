"""Sample points drawn from a class raster, handed to an interpreter, and read back.

A drawn sample is one GeoPackage. Its layer `samples` holds the pixels in random order with nothing but fields to fill
in, so that the interpreter is blind to map class and stratum; the tables `design`, `strata` and `about` hold the rest.
The raster is read in strips of rows, twice: once to count, once to find the pixels drawn, whose ranks (row by row
within their stratum) were chosen from the counts. So the sample depends on the raster and the seed alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import rasterio
import rasterio.warp
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FieldError, GeometryError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from tuban.data.grid import LONLAT, Grid
from tuban.errors import OutputError, SceneError, UsageError, VectorError
from tuban.postprocess.streams import fixed_times
from tuban.training.area_accuracy import StratifiedSample, accuracy_table
from tuban.training.sampling_design import Stratum

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

FILL_IN = ("reference", "confidence", "interpreter", "interpreted_on", "remark")
_STRIP_PX = 4_000_000
_AREA_STEP = 64  # rows between two places where the area of a pixel is measured


def count_strata(raster: str | Path, names: Mapping[int, str], nodata: int | None = None) -> list[Stratum]:
    """Count the pixels of each value of a class raster and their ground area.

    Args:
        raster: band 1 holds integer classes.
        names: what values are called; others take their number.
        nodata: value that is no stratum; None takes the raster's own.

    Raises:
        SceneError: the raster cannot be read, is not of integers or has no CRS.
        UsageError: every pixel is nodata.
    """
    pixels: dict[int, int] = {}
    areas: dict[int, float] = {}
    with _opened(raster) as source:
        grid = Grid(source.crs, source.transform, source.height, source.width)
        at = np.unique(np.append(np.arange(0, source.height, _AREA_STEP), source.height - 1))
        known = [grid.pixel_area_m2(float(row), source.width / 2) for row in at]
        empty = source.nodata if nodata is None else nodata
        for row, values in _strips(source):
            pixel_m2 = np.interp(np.arange(row, row + len(values)), at, known)
            for value in np.unique(values).tolist():
                if value == empty:
                    continue
                by_row = (values == value).sum(axis=1)
                pixels[value] = pixels.get(value, 0) + int(by_row.sum())
                areas[value] = areas.get(value, 0.0) + float(by_row @ pixel_m2)
    if not pixels:
        raise UsageError(f"{raster}: every pixel is nodata ({empty}); there is nothing to assess")
    return [Stratum(v, names.get(v, str(v)), pixels[v], areas[v]) for v in sorted(pixels)]


def draw(raster: str | Path, strata: Sequence[Stratum], out: str | Path, *, seed: int = 0) -> int:
    """Draw `stratum.points` pixels of each stratum without replacement and write the GeoPackage for the interpreter.

    Args:
        raster: as counted by `count_strata`.
        strata: with their points.
        out: GeoPackage; an existing one is not replaced, since somebody may have filled it in.
        seed: of the draw; equal inputs give equal points.

    Returns:
        Points drawn.

    Raises:
        UsageError: `out` exists, or the raster is not the one that was counted.
        SceneError: the raster cannot be read.
        OutputError: the file cannot be written.
    """
    out = Path(out)
    if out.exists():
        raise UsageError(f"{out} exists and may hold interpretations; give another --out or remove it first")
    rng = np.random.default_rng(seed)
    ranks = {s.value: np.sort(rng.choice(s.pixels, size=min(s.points, s.pixels), replace=False)) for s in strata}
    found: list[tuple[int, int, int]] = []
    seen = dict.fromkeys(ranks, 0)
    with _opened(raster) as source:
        for top, values in _strips(source):
            for value, wanted in ranks.items():
                where = np.flatnonzero(values == value)
                here = wanted[(wanted >= seen[value]) & (wanted < seen[value] + where.size)] - seen[value]
                rows, columns = np.divmod(where[here], values.shape[1])
                found += [(value, top + int(r), int(c)) for r, c in zip(rows, columns, strict=True)]
                seen[value] += where.size
        crs, transform = source.crs, source.transform
    if changed := [s.name for s in strata if seen[s.value] != s.pixels]:
        raise UsageError(f"{raster} is not the raster of the plan: {', '.join(changed)} has other pixels; plan again")
    found.sort()
    order = rng.permutation(len(found))
    design = pd.DataFrame([found[i] for i in order], columns=["stratum", "row", "col"])
    design.insert(0, "sample_id", np.arange(1, len(design) + 1))
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    col, row = (design[name].to_numpy()[:, None] for name in ("col", "row"))
    x, y = transform @ (col + corners[:, 0], row + corners[:, 1])
    centres = transform @ (col[:, 0] + 0.5, row[:, 0] + 0.5)
    design["lon"], design["lat"] = (np.round(v, 7) for v in rasterio.warp.transform(crs, LONLAT, *centres))
    blank = {name: pd.Series([None] * len(design), dtype=object) for name in FILL_IN}
    samples = gpd.GeoDataFrame(
        {"sample_id": design["sample_id"], **blank},
        geometry=shapely.polygons(np.stack([x, y], axis=-1)),
        crs=crs.to_wkt(),
    )
    about = {"raster": str(raster), "seed": str(seed), "points": str(len(design))}
    _write(out, samples, design, strata, about)
    return len(design)


def _write(
    out: Path, samples: gpd.GeoDataFrame, design: pd.DataFrame, strata: Sequence[Stratum], about: Mapping[str, str]
) -> None:
    part = out.with_name(f".{out.stem}.part.gpkg")
    tables = {
        "design": design,
        "strata": pd.DataFrame([s.as_dict() for s in strata]),
        "about": pd.DataFrame({"key": list(about), "value": list(about.values())}),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with fixed_times():
            pyogrio.write_dataframe(samples, part, layer="samples", driver="GPKG", geometry_type="Polygon")
            for name, table in tables.items():
                pyogrio.write_dataframe(table, part, layer=name, driver="GPKG", append=True)
        part.replace(out)
    except (OSError, DataSourceError, DataLayerError, FieldError, GeometryError) as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"cannot write {out}: {error}; check that the folder can be written to") from error


def read_interpreted(
    path: str | Path, *, mapped: str | Path | None = None, names: Mapping[int, str] | None = None
) -> tuple[StratifiedSample, dict[str, Any]]:
    """Read a filled-in sample.

    Args:
        path: GeoPackage written by `draw`, its field `reference` filled in with class values or names.
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
    with _opened(raster) as source:
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


def _opened(raster: str | Path) -> Any:
    try:
        source = rasterio.open(raster)
    except RasterioError as error:
        raise SceneError(f"cannot read {raster}: {error}; give a class raster") from error
    if not source.crs or not np.issubdtype(np.dtype(source.dtypes[0]), np.integer):
        kind = source.dtypes[0]
        source.close()
        raise SceneError(
            f"{raster}: band 1 is {kind}, or it has no CRS; give a georeferenced raster of integer classes"
        )
    return source


def _strips(source: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield first row and values of strips of whole rows."""
    height = max(_STRIP_PX // source.width, 1)
    for row in range(0, source.height, height):
        rows = min(height, source.height - row)
        try:
            yield row, source.read(1, window=Window(0, row, source.width, rows))
        except RasterioError as error:
            raise SceneError(f"{source.name}: rows {row}–{row + rows} cannot be read ({error})") from error
