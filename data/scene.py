"""One georeferenced image of one date, read window by window."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from tuban.data.address import redacted
from tuban.data.describe import Description, describe
from tuban.data.grid import Grid
from tuban.data.remote import RemoteSettings
from tuban.data.source import Source
from tuban.data.stac import is_item, read_item
from tuban.errors import ReadError, SceneError

if TYPE_CHECKING:
    import datetime as dt
    import os
    from collections.abc import Iterator, Sequence

    from rasterio.crs import CRS
    from rasterio.transform import Affine

    from tuban.data.bands import Band
    from tuban.data.mask_files import MaskRef

FloatImage = NDArray[np.float32]
Mask = NDArray[np.bool_]


class SceneSettings(BaseModel):
    """How scenes are checked when they are opened."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_size: int = Field(2, ge=1, description="pixels a side; a smaller scene is refused")
    probe_window: int = Field(
        512, ge=16, description="pixels a side of the windows in which a valid pixel is looked for"
    )
    tolerate_damage: bool = Field(
        default=False, description="go on where a part that is only checked or measured cannot be read"
    )
    remote: RemoteSettings = RemoteSettings()


@dataclass(frozen=True)
class Scene:
    """A scene: what is known about it, and windowed reading of scaled values.

    Pixels are opened when first read and again in every process, so a scene can be pickled; it is not for use by
    several threads at once. Close it, or use it as a context manager.

    Attributes:
        path: as given, without secrets: a file, a URL, `/vsi...`, or a STAC item.
        crs: coordinate reference system.
        transform: pixel corner to CRS units.
        height: rows.
        width: columns.
        bands: roles; `value = stored * scale + offset`.
        nodata: stored value that means no data, or None.
        date: day of acquisition, or None.
        date_source: "option", "scene.json", "STAC item", "tag ..." or "".
        sensor: what the metadata call the sensor, or "".
        radiometry: "reflectance" where the scale is known, else "dn".
        gsd_m: side of a pixel on the ground in metres, at the centre.
        notes: what was guessed or degraded.
        mask: its cloud mask, where one was found; not opened yet.
        eight_bit: whether what is stored are 8-bit numbers.
    """

    path: str
    crs: CRS
    transform: Affine
    height: int
    width: int
    bands: tuple[Band, ...]
    nodata: float | None
    date: dt.date | None
    date_source: str
    sensor: str
    radiometry: Literal["reflectance", "dn"]
    gsd_m: float
    notes: tuple[str, ...]
    source: Source = field(repr=False, compare=False)
    nodata_in_all: bool = False
    mask: MaskRef | None = None
    eight_bit: bool = False

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, date: str | dt.date | None = None, settings: SceneSettings | None = None
    ) -> Scene:
        """Open a scene and check that it can be used.

        Args:
            path: anything rasterio opens, `https://`, `s3://` and `/vsi...` included, or the JSON of a STAC item, by
                path or URL.
            date: day of acquisition; goes before all metadata.
            settings: checks; the defaults suit every sensor.

        Raises:
            SceneError: missing, not a raster, damaged, no CRS, no transform, too small, no valid pixel, or metadata
                that contradict the image.
            ReadError: a server or file fails while it is opened.
            ForbiddenAddressError: it is not on the allow-list of this service.
            UsageError: `date` is not a date.
        """
        settings = settings or SceneSettings()
        text = str(path)
        with _without_secrets(), ExitStack() as opened:
            item = read_item(text, settings.remote) if is_item(text) else None
            source = Source(text, settings.remote, target=item.source if item else None)
            opened.callback(source.close)
            grid, known = source.read(
                lambda dataset: (
                    _georeferenced(source.name, dataset, settings),
                    describe(text, dataset, item=item, date=date, remote=settings.remote),
                )
            )
            scene = _checked(cls._of(source, grid, known), settings, guess_units=known.float_without_scale)
            opened.pop_all()  # it stays open only where the scene can be used
        return scene

    @classmethod
    def _of(cls, source: Source, grid: Grid, known: Description) -> Scene:
        return cls(
            path=source.name, source=source,
            crs=grid.crs, transform=grid.transform, height=grid.height, width=grid.width,
            bands=known.bands, nodata=known.nodata, nodata_in_all=known.nodata_in_all, date=known.date,
            date_source=known.date_source, sensor=known.sensor, radiometry=known.radiometry,
            gsd_m=grid.pixel_size_m(), notes=known.notes, mask=known.mask, eight_bit=known.eight_bit,
        )  # fmt: skip

    @property
    def grid(self) -> Grid:
        """The pixel grid."""
        return Grid(self.crs, self.transform, self.height, self.width)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the bands, in file order."""
        return tuple(band.name for band in self.bands)

    def missing(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of `names` that the scene lacks, in the order given."""
        return tuple(name for name in names if name not in self.names)

    def read(self, window: Window, names: Sequence[str]) -> tuple[FloatImage, Mask]:
        """Read scaled values.

        A pixel is invalid outside the scene, where any band read is nodata, NaN or infinite (for 8-bit files with a
        nodata value: where every band read holds it, for 0 is also a common dark value), and where the mask or
        alpha band says so.

        Args:
            window: in pixels of the scene; may reach beyond it.
            names: canonical band names; the order is kept.

        Returns:
            Values `(bands, height, width)` float32, 0 where invalid, NaN in a band the scene lacks; and validity
            `(height, width)` bool.

        Raises:
            ReadError: it cannot be read there, damaged, gone, or its server fails; it names file, bands and window.
        """
        height, width = int(window.height), int(window.width)
        values = np.zeros((len(names), height, width), dtype=np.float32)
        valid = np.zeros((height, width), dtype=bool)
        have = {band.name: band for band in self.bands}
        wanted = [have[name] for name in names if name in have]
        values[[i for i, name in enumerate(names) if name not in have]] = np.nan
        row0, col0 = max(0, int(window.row_off)), max(0, int(window.col_off))
        row1 = min(self.height, int(window.row_off) + height)
        col1 = min(self.width, int(window.col_off) + width)
        if row1 <= row0 or col1 <= col0:
            return values, valid
        part = Window(col0, row0, col1 - col0, row1 - row0)
        inside = (
            slice(row0 - int(window.row_off), row1 - int(window.row_off)),
            slice(col0 - int(window.col_off), col1 - int(window.col_off)),
        )
        stored, ok = self._stored(part, [band.index for band in wanted or self.bands[:1]])
        valid[inside] = ok
        for target, layer in zip([i for i, name in enumerate(names) if name in have], stored, strict=False):
            band = have[names[target]]
            scaled = layer.astype(np.float32) * np.float32(band.scale) + np.float32(band.offset)
            values[(target, *inside)] = np.where(ok, scaled, 0)
        return values, valid

    def close(self) -> None:
        """Close the file; reading opens it again."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stored(self, part: Window, indexes: list[int]) -> tuple[NDArray[Any], Mask]:
        """Stored values and validity of a window that lies inside the scene."""

        def work(dataset: Any) -> tuple[NDArray[Any], Mask]:
            stored = dataset.read(indexes, window=part)
            ok = np.isfinite(stored).all(axis=0)
            if self.nodata is not None and not np.isnan(self.nodata):
                empty = stored == np.asarray(self.nodata, dtype=np.float64)
                ok &= ~(empty.all(axis=0) if self.nodata_in_all else empty.any(axis=0))
            if MaskFlags.per_dataset in dataset.mask_flag_enums[indexes[0] - 1]:
                ok &= dataset.read_masks(indexes[0], window=part) > 0
            return stored, np.asarray(ok, dtype=bool)

        return self.source.read(work, bands=indexes, window=part)


def _checked(scene: Scene, settings: SceneSettings, *, guess_units: bool) -> Scene:
    """Return the scene, with its units judged, once its corners can be read and it has a valid pixel."""
    corners = (Window(col, row, 1, 1) for row in (0, scene.height - 1) for col in (0, scene.width - 1))
    damaged: ReadError | None = None
    for window in (*corners, *scene.grid.tiles(settings.probe_window)):  # a file cut short fails here, not hours later
        try:
            values, valid = scene.read(window, scene.names)
        except ReadError as error:
            if not settings.tolerate_damage:
                raise
            damaged = damaged or error
            continue
        if window.width == window.height == 1 or not valid.any():
            continue
        if damaged is not None:
            scene = replace(scene, notes=(*scene.notes, f"damaged: {damaged}"))
        if guess_units and float(np.median(values[:, valid])) > 2:
            note = "float values well above 1 and no scale: taken as digital numbers; give `scale` in scene.json"
            return replace(scene, radiometry="dn", notes=(*scene.notes, note))
        return scene
    if damaged is not None:
        raise damaged
    raise SceneError(
        f"{scene.path}: no valid pixel in {scene.height} x {scene.width} (nodata {scene.nodata}); "
        "check the nodata value or give `nodata` in scene.json"
    )


def _georeferenced(path: str, dataset: Any, settings: SceneSettings) -> Grid:
    """Return the grid of a dataset that is georeferenced and large enough."""
    if dataset.crs is None:
        raise SceneError(f"{path}: has no CRS; assign the right one with `gdal_edit -a_srs EPSG:... FILE`")
    if dataset.transform.is_identity or dataset.transform.determinant == 0:
        remedy = (
            "resample it with `gdalwarp -tps IN OUT`" if dataset.gcps[0] else "add a world file or `gdal_edit -a_ullr`"
        )
        raise SceneError(f"{path}: has no georeferencing transform; {remedy}")
    if min(dataset.height, dataset.width) < settings.min_size:
        size = f"{dataset.height} x {dataset.width}"
        raise SceneError(f"{path}: is {size} px; at least {settings.min_size} x {settings.min_size} px are needed")
    return Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)


@contextmanager
def _without_secrets() -> Iterator[None]:
    """Whatever is said about a scene that cannot be opened, its address is said without its secrets."""
    try:
        yield
    except SceneError as error:
        hidden = redacted(str(error))
        if hidden == str(error):
            raise
        clean = type(error)(hidden)
        clean.__dict__.update(error.__dict__)
        raise clean from None
