"""Joins the parts of a run into Cloud Optimized GeoTIFFs, checked before they take their final names.

The parts of each raster are listed in a VRT, from which GDAL makes the COG with its overviews in one pass over the
pixels; nothing is held but GDAL's block cache. Statistics come from what was counted while parts were made.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError

try:
    from rasterio._err import CPLE_BaseError
except ImportError:  # pragma: no cover
    CPLE_BaseError = RasterioError

from tuban.errors import OutputError
from tuban.inference.settings import block_cache

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from tuban.inference.parts import Tally
    from tuban.inference.products import RasterSpec
    from tuban.inference.windows import WindowPlan

log = logging.getLogger(__name__)

COG_BLOCK = 512
# Of DEFLATE: a third of the time of GDAL's 6 is saved, files are a fifth larger.
_LEVEL = 4
# Every pixel passes once: no more of GDAL's block cache than a row of blocks needs, so that memory stays that of the
# network however large the scene.
_CACHE_MB = 32
# Parts that GDAL keeps open, of all rasters together: its usual 100 hold 50 MB more. A part is read by the two or three
# rows of blocks that it lies in, so opening it again costs next to nothing.
_OPEN_PARTS = 24
# GDAL makes overviews of whole rows of blocks, and holds 70 MB more for threads of its own: wider rasters are made one
# after the other by one thread, so that memory stays that of the network.
_WIDE = 16384
# GDAL's own errors surface either through rasterio's classes or, from copies, as bare CPLE_* errors.
WRITE_FAILURES = (OSError, RasterioError, CPLE_BaseError)


def write_mosaic(
    folder: Path,
    plan: WindowPlan,
    batch: int,
    parts: Mapping[int, Path],
    specs: Sequence[RasterSpec],
    tally: Tally,
    *,
    crs: CRS,
    transform: Affine,
    threads: int = 1,
) -> dict[str, Path]:
    """Make one COG of each raster, read it back, and give all of them their final names.

    Args:
        folder: where the final files will stand; made if it does not exist.
        plan: of the windows.
        batch: windows in a part.
        parts: file of each part.
        specs: the rasters, in the order of the parts' bands.
        tally: what was counted over all parts.
        crs: CRS of the grid.
        transform: affine transform of the grid.
        threads: rasters made at the same time, and threads that compress, unless they are wide; the bytes do not
            depend on it.

    Returns:
        The path of each raster by name.

    Raises:
        OutputError: a part is missing, the disk is full, or what is on disk is not what was made.
    """
    if missing := [index for index in range(plan.groups(batch)) if index not in parts]:
        first = plan.group(missing[0], batch)[0]
        raise OutputError(
            f"{len(missing)} of {plan.groups(batch)} parts were never made, the first at row {first.row}, column "
            f"{first.col}; nothing was kept: run again and report this"
        )
    with contextlib.ExitStack() as stack:
        final = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".tuban-partial-", dir=folder))
            stack.callback(shutil.rmtree, partial, ignore_errors=True)
            stack.enter_context(block_cache(_CACHE_MB, GDAL_MAX_DATASET_POOL_SIZE=_OPEN_PARTS))
            threads = threads if plan.width <= _WIDE else 1
            at_once = min(threads, len(specs))
            pool = stack.enter_context(ThreadPoolExecutor(at_once, thread_name_prefix="tuban-cog"))
            share = max(1, threads // at_once)
            ready = {}
            for band, spec in enumerate(specs, start=1):
                vrt = partial / f"{spec.name}.vrt"
                counts = tally.values[spec.name]
                with vrt.open("w", encoding="utf-8") as stream:
                    stream.writelines(_vrt(plan, batch, parts, spec, band, counts, crs, transform))
                ready[folder / f"{spec.name}.tif"] = pool.submit(_to_cog, vrt, spec, counts, share)
            for final, cog in ready.items():  # noqa: B007 (names the file in the error)
                cog.result()
            for final, cog in ready.items():
                cog.result().replace(final)
        except WRITE_FAILURES as error:
            raise _output_error(final, error) from error
    return {spec.name: folder / f"{spec.name}.tif" for spec in specs}


def _vrt(
    plan: WindowPlan,
    batch: int,
    parts: Mapping[int, Path],
    spec: RasterSpec,
    band: int,
    counts: Sequence[int],
    crs: CRS,
    transform: Affine,
) -> Iterator[str]:
    """Yield the XML of a mosaic of parts, https://gdal.org/drivers/raster/vrt.html."""
    yield f'<VRTDataset rasterXSize="{plan.width}" rasterYSize="{plan.height}">\n'
    yield f"<SRS>{escape(crs.to_wkt())}</SRS>\n"
    yield f"<GeoTransform>{', '.join(repr(value) for value in transform.to_gdal())}</GeoTransform>\n"
    yield from _metadata(spec.tags)
    yield '<VRTRasterBand dataType="Byte" band="1">\n'
    yield f"<Description>{escape(spec.description)}</Description>\n<NoDataValue>{spec.nodata}</NoDataValue>\n"
    yield from _metadata(statistics(counts, spec.nodata))
    if spec.colors:
        yield "<ColorInterp>Palette</ColorInterp>\n<ColorTable>\n"
        for value in range(256):
            red, green, blue = spec.colors.get(value, (0, 0, 0))
            alpha = 0 if value == spec.nodata else 255
            yield f'<Entry c1="{red}" c2="{green}" c3="{blue}" c4="{alpha}"/>\n'
        yield "</ColorTable>\n"
    else:
        yield "<ColorInterp>Gray</ColorInterp>\n"
    for index, path in parts.items():
        group = plan.group(index, batch)
        width, height = group[-1].col + group[-1].width - group[0].col, group[0].height
        size = f'xSize="{width}" ySize="{height}"'
        yield (
            f"<SimpleSource><SourceFilename>{escape(str(path.absolute()))}</SourceFilename><SourceBand>{band}"
            f'</SourceBand><SourceProperties RasterXSize="{width}" RasterYSize="{height}" DataType="Byte" '
            f'BlockXSize="256" BlockYSize="256"/><SrcRect xOff="0" yOff="0" {size}/>'
            f'<DstRect xOff="{group[0].col}" yOff="{group[0].row}" {size}/></SimpleSource>\n'
        )
    yield "</VRTRasterBand>\n</VRTDataset>\n"


def _metadata(tags: Mapping[str, str]) -> Iterator[str]:
    yield "<Metadata>\n"
    for name, value in tags.items():
        yield f"<MDI key={quoteattr(name)}>{escape(value)}</MDI>\n"
    yield "</Metadata>\n"


def statistics(counts: Sequence[int], nodata: int) -> dict[str, str]:
    """Return GDAL's statistics of a raster from how often each value occurs; empty where no pixel is valid."""
    weights = np.array(counts, np.float64)
    total = weights.sum()
    weights[nodata] = 0
    valid = weights.sum()
    if valid == 0:
        return {}
    values = np.arange(256)
    mean = float((values * weights).sum() / valid)
    present = np.flatnonzero(weights)
    return {
        "STATISTICS_MINIMUM": str(present[0]),
        "STATISTICS_MAXIMUM": str(present[-1]),
        "STATISTICS_MEAN": repr(mean),
        "STATISTICS_STDDEV": repr(float(np.sqrt(((values - mean) ** 2 * weights).sum() / valid))),
        "STATISTICS_VALID_PERCENT": f"{100 * valid / total:.4g}",
    }


def _to_cog(vrt: Path, spec: RasterSpec, counts: Sequence[int], threads: int) -> Path:
    cog = vrt.with_suffix(".tif")
    rasterio.shutil.copy(
        vrt,
        cog,
        driver="COG",
        BLOCKSIZE=COG_BLOCK,
        COMPRESS="DEFLATE",
        LEVEL=_LEVEL,
        OVERVIEW_RESAMPLING=spec.resampling,
        BIGTIFF="IF_SAFER",
        NUM_THREADS=threads,
    )
    # GDAL may close a file on a full disk without a word, and a tile that is not there reads as nodata.
    with rasterio.open(cog) as dataset:
        found = sum(int(np.count_nonzero(block != spec.nodata)) for block in _blocks(dataset))
    if found != (expected := sum(counts) - counts[spec.nodata]):
        raise OSError(f"it holds {found} valid pixels of the {expected} that were made")
    return cog


def _blocks(dataset: Any) -> Iterator[NDArray[np.uint8]]:
    for _, window in dataset.block_windows(1):
        yield dataset.read(1, window=window)


def _output_error(path: Path, error: BaseException) -> OutputError:
    """Name the file, what the system says, and the remedy in one line."""
    cause = error.__cause__ or error.__context__
    parts = [" ".join(str(part).split()) for part in (error, cause) if part is not None]
    reason = "; ".join(dict.fromkeys(parts))
    return OutputError(f"{path} cannot be written ({reason}); free space, check permissions, or choose another --out")
