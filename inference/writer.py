"""Streams class rasters to disk and turns them into Cloud Optimized GeoTIFFs under their final names.

While a run goes on, each raster is a working GeoTIFF whose tiles are the windows themselves: a window is one tile,
compressed once, written in any order, and never read again. Nothing of it is kept in memory. At the end each is
copied into a COG, read back, and only then do all of them take their final names.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError
from rasterio.windows import Window

try:
    from rasterio._err import CPLE_BaseError
except ImportError:  # pragma: no cover
    CPLE_BaseError = RasterioError

from tuban.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from tuban.inference.windows import CoreWindow, WindowPlan

log = logging.getLogger(__name__)

COG_BLOCK = 512
# GDAL's own errors surface either through rasterio's classes or, from copies, as bare CPLE_* errors.
WRITE_FAILURES = (OSError, RasterioError, CPLE_BaseError)


@dataclass(frozen=True, slots=True)
class RasterSpec:
    """One uint8 output raster.

    Attributes:
        name: file name without `.tif`.
        nodata: value of pixels that hold no result.
        description: what the band holds.
        colors: value -> `(red, green, blue)`, or empty for grey.
        resampling: how overviews are made: NEAREST for classes.
        tags: metadata of the file.
    """

    name: str
    nodata: int
    description: str
    colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    resampling: str = "NEAREST"
    tags: Mapping[str, str] = field(default_factory=dict)


class RasterWriter:
    """Context manager that writes a set of rasters of one grid window by window.

    Nothing stands under a final name before `finish` has returned; without `finish` nothing is left behind.

    Example:
        >>> import pathlib, tempfile
        >>> from rasterio.crs import CRS
        >>> from affine import Affine
        >>> from tuban.inference.windows import plan_windows
        >>> plan = plan_windows(20, 30, tile=16, halo=0, stride=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RasterWriter(pathlib.Path(folder), plan, CRS.from_epsg(32650), Affine.scale(10, -10),
        ...                       [RasterSpec("change", 255, "change")]) as writer:
        ...         for window in plan:
        ...             writer.write(window, {"change": np.zeros((window.height, window.width), np.uint8)})
        ...         paths = writer.finish()
        ...     paths["change"].name
        'change.tif'
    """

    def __init__(
        self,
        folder: Path,
        plan: WindowPlan,
        crs: CRS,
        transform: Affine,
        specs: list[RasterSpec],
        *,
        threads: int = 1,
    ) -> None:
        """Describe the outputs; files are made on entering the context.

        Args:
            folder: where the final files will stand; made if it does not exist.
            plan: the windows that will be written, each exactly once.
            crs: CRS of the grid.
            transform: affine transform of the grid.
            specs: the rasters.
            threads: threads that compress the COGs; the bytes do not depend on it.
        """
        self._folder, self._plan, self._crs, self._transform = folder, plan, crs, transform
        self._specs, self._threads = specs, threads
        self._written = bytearray(len(plan))
        self._valid = dict.fromkeys((spec.name for spec in specs), 0)
        self._datasets: dict[str, Any] = {}
        self._partial: Path | None = None

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._partial = Path(tempfile.mkdtemp(prefix=".tuban-partial-", dir=self._folder))
            for spec in self._specs:
                self._datasets[spec.name] = self._create(spec, self._partial / f"{spec.name}.work.tif")
        except WRITE_FAILURES as error:
            self._clean()
            raise _output_error(self._folder, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    def _create(self, spec: RasterSpec, path: Path) -> Any:
        profile = {
            "driver": "GTiff",
            "dtype": "uint8",
            "count": 1,
            "height": self._plan.height,
            "width": self._plan.width,
            "crs": self._crs,
            "transform": self._transform,
            "nodata": spec.nodata,
            "tiled": True,
            "blockysize": self._plan.core_height,
            "blockxsize": self._plan.core_width,
            "compress": "deflate",
            "zlevel": 1,  # read once more, then thrown away
            "sparse_ok": True,  # a tile of nothing but nodata costs no bytes
            "bigtiff": "if_safer",
        }
        dataset = rasterio.open(path, "w", **profile)
        dataset.set_band_description(1, spec.description)
        if spec.colors:
            dataset.write_colormap(1, {value: (*color, 255) for value, color in spec.colors.items()})
        dataset.update_tags(**spec.tags)
        return dataset

    def write(self, window: CoreWindow, values: Mapping[str, NDArray[np.uint8]]) -> None:
        """Write one window of every raster.

        Args:
            window: a window of the plan, not written before.
            values: uint8 `(window.height, window.width)` for each raster by name.

        Raises:
            OutputError: the disk is full or the file cannot be written.
            ValueError: the window was written before (a fault of the caller).
        """
        if self._written[window.index]:
            raise ValueError(f"window {window.index} at row {window.row}, column {window.col} was written before")
        place = Window(window.col, window.row, window.width, window.height)
        for spec in self._specs:
            array = values[spec.name]
            try:
                self._datasets[spec.name].write(array, 1, window=place)
            except WRITE_FAILURES as error:
                raise _output_error(self._folder / f"{spec.name}.tif", error) from error
            self._valid[spec.name] += int(np.count_nonzero(array != spec.nodata))
        self._written[window.index] = 1

    def finish(self) -> dict[str, Path]:
        """Make the COGs, read them back, and give them their final names.

        Returns:
            The path of each raster by name.

        Raises:
            OutputError: a window was never written, the disk is full, or what is on disk is not what was written.
        """
        if missing := self._written.count(0):
            first = self._plan.window(self._written.index(0))
            raise OutputError(
                f"{missing} of {len(self._plan)} windows were never written, the first at row {first.row}, column "
                f"{first.col}; nothing was kept: run again and report this"
            )
        if self._partial is None:
            raise ValueError("finish() outside the writer's context")
        ready = {}
        for spec in self._specs:
            final = self._folder / f"{spec.name}.tif"
            try:
                self._datasets.pop(spec.name).close()
                ready[final] = self._to_cog(spec, self._partial)
            except WRITE_FAILURES as error:
                raise _output_error(final, error) from error
        for final, cog in ready.items():
            try:
                cog.replace(final)
            except OSError as error:
                raise _output_error(final, error) from error
        return {spec.name: self._folder / f"{spec.name}.tif" for spec in self._specs}

    def _to_cog(self, spec: RasterSpec, partial: Path) -> Path:
        work, cog = partial / f"{spec.name}.work.tif", partial / f"{spec.name}.tif"
        rasterio.shutil.copy(
            work,
            cog,
            driver="COG",
            BLOCKSIZE=COG_BLOCK,
            COMPRESS="DEFLATE",
            OVERVIEW_RESAMPLING=spec.resampling,
            BIGTIFF="IF_SAFER",
            NUM_THREADS=self._threads,
        )
        # GDAL may close a file on a full disk without a word, and a tile that is not there reads as nodata.
        with rasterio.open(cog) as dataset:
            found = sum(int(np.count_nonzero(block != spec.nodata)) for block in _blocks(dataset))
        if found != self._valid[spec.name]:
            raise OSError(f"it holds {found} valid pixels of the {self._valid[spec.name]} that were written")
        work.unlink()
        return cog

    def _clean(self) -> None:
        for dataset in self._datasets.values():
            try:
                dataset.close()
            except WRITE_FAILURES as error:
                # The file is thrown away in the next line and the error that matters is already on its way.
                log.debug("closing an unfinished raster: %s", error)
        self._datasets.clear()
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = None


def _blocks(dataset: Any) -> Iterator[NDArray[np.uint8]]:
    for _, window in dataset.block_windows(1):
        yield dataset.read(1, window=window)


def _output_error(path: Path, error: BaseException) -> OutputError:
    """Name the file, what the system says, and the remedy in one line."""
    cause = error.__cause__ or error.__context__
    parts = [" ".join(str(part).split()) for part in (error, cause) if part is not None]
    reason = "; ".join(dict.fromkeys(parts))
    return OutputError(f"{path} cannot be written ({reason}); free space, check permissions, or choose another --out")
