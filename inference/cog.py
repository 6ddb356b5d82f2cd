"""Writes a small uint8 raster piece by piece, then as a COG under its final name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from tuban.errors import OutputError, TubanError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rasterio.windows import Window

    from tuban.data.grid import Grid

BLOCK = 512


@dataclass(frozen=True, slots=True)
class CogSpec:
    """What is written besides pixels.

    Attributes:
        bands: description of each band.
        nodata: value that means no data, or None.
        colors: value -> red, green, blue, opacity; of the first band.
        tags: metadata of the file.
        rows: whether pieces are strips of whole rows; else they are blocks of `BLOCK` pixels on multiples of it.
    """

    bands: tuple[str, ...]
    nodata: int | None = None
    colors: Mapping[int, tuple[int, int, int, int]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    rows: bool = False


def write_cog(target: Path, grid: Grid, spec: CogSpec, pieces: Iterable[tuple[Window, NDArray[np.uint8]]]) -> None:
    """Write a raster whose pieces come one after the other; nothing stands under its name before all is written.

    Args:
        target: path of the COG; its folder is made.
        grid: CRS, transform and size.
        spec: bands and metadata.
        pieces: windows and values `(bands, height, width)`, each pixel once.

    Raises:
        OutputError: the folder or the disk does not take it.
    """
    work, cog = (target.with_name(f".{target.stem}.{stage}.tif") for stage in ("work", "cog"))
    # A block is compressed once, when it is whole: so the bytes do not depend on when a cache is emptied.
    blocks = {"blockysize": 1} if spec.rows else {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": len(spec.bands), "height": grid.height, "width": grid.width,
        "crs": grid.crs, "transform": grid.transform, "nodata": spec.nodata, "compress": "deflate", "zlevel": 1,
        "photometric": "minisblack", "interleave": "band", "bigtiff": "if_safer", **blocks,
    }  # fmt: skip
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(work, "w", **profile) as dataset:
            dataset.descriptions = spec.bands
            dataset.colorinterp = [ColorInterp.palette if spec.colors and not i else ColorInterp.undefined
                                   for i in range(len(spec.bands))]  # fmt: skip
            if spec.colors:
                dataset.write_colormap(1, dict(spec.colors))
            dataset.update_tags(**spec.tags)
            for window, values in pieces:
                dataset.write(values, window=window)
        rasterio.shutil.copy(
            work, cog, driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=BLOCK, OVERVIEW_RESAMPLING="NEAREST",
            BIGTIFF="IF_SAFER",
        )  # fmt: skip
        cog.replace(target)
    except (OSError, RasterioError) as error:
        if isinstance(error, TubanError):
            raise
        text = " ".join(str(error).split())
        raise OutputError(f"{target} cannot be written ({text}); free space or choose another --out") from error
    finally:
        if target.parent.is_dir():
            for leftover in (work, cog):
                leftover.unlink(missing_ok=True)
