"""Sample points drawn from a class raster and handed to an interpreter; `interpreted` reads them back.

A drawn sample is one GeoPackage. Its layer `samples` holds the pixels in random order with nothing but fields to fill
in, so that the interpreter is blind to map class and stratum; the tables `design`, `strata` and `about` hold the rest.
The raster is read in strips of rows, twice: once to count, once to find the pixels drawn, whose ranks (row by row
within their stratum) were chosen from the counts. So the sample depends on the raster and the seed alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import rasterio.warp
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FieldError, GeometryError

from tuban.data.grid import LONLAT, Grid
from tuban.errors import OutputError, UsageError
from tuban.postprocess.streams import fixed_times
from tuban.training.class_raster import opened, strips
from tuban.training.sampling_design import Stratum

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FILL_IN = ("reference", "confidence", "interpreter", "interpreted_on", "remark")
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
    with opened(raster) as source:
        grid = Grid(source.crs, source.transform, source.height, source.width)
        at = np.unique(np.append(np.arange(0, source.height, _AREA_STEP), source.height - 1))
        known = [grid.pixel_area_m2(float(row), source.width / 2) for row in at]
        empty = source.nodata if nodata is None else nodata
        for row, values in strips(source):
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
    with opened(raster) as source:
        for top, values in strips(source):
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
