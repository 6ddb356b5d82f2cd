"""What can be wrong with the later image of a pair, injected into its file: shift, gain, haze, season, offset."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from scipy import ndimage

from tuban.data.pictures import open_file, scale_of
from tuban.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tuban.data.dataset import DatasetFolder
    from tuban.data.layout import Item

Kind = Literal["shift", "gain", "haze", "season", "offset"]
UNITS: dict[Kind, str] = {
    "shift": "pixels",
    "gain": "factor",
    "haze": "reflectance added in the blue",
    "season": "share of near infrared lost by vegetation",
    "offset": "counts",
}
# Path radiance relative to blue, about the fourth power of the wavelength's inverse, flattened by aerosol.
_HAZE = {"B02": 1.0, "B03": 0.7, "B04": 0.45, "B05": 0.4, "B06": 0.33, "B07": 0.28, "B08": 0.23, "B8A": 0.2}
_HAZE_FAR = 0.05
_NEAR_INFRARED = ("B06", "B07", "B08", "B8A")
_HALO = 16
_STRIP = 512


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One thing wrong with an image.

    `shift` moves it by `amount` pixels, along the direction (2, 1), by cubic splines; `gain` multiplies all bands;
    `haze` adds path radiance, most in the blue, and takes as much contrast; `season` takes this share of the near
    infrared from vegetation and gives red and shortwave half as much; `offset` adds ten-thousandths of reflectance, as
    the +1000 counts of Sentinel-2 since 2022 where nobody took them off.
    """

    kind: Kind
    amount: float

    def __str__(self) -> str:
        return f"{self.kind} {self.amount:g}"


CURVES: tuple[Perturbation, ...] = (
    *(Perturbation("shift", a) for a in (0.25, 0.5, 1.0, 1.5, 2.0)),
    *(Perturbation("gain", a) for a in (0.8, 0.9, 1.1, 1.25)),
    *(Perturbation("haze", a) for a in (0.02, 0.05, 0.1)),
    *(Perturbation("season", a) for a in (0.15, 0.3, 0.5)),
    Perturbation("offset", 1000.0),
)


def perturbed_files(folder: DatasetFolder, item: Item, scratch: Path, what: Perturbation) -> dict[str, Path]:
    """Copy the later image of an item, in one file or one a band, with one thing wrong.

    Args:
        folder: the data set, which names the bands and their scale.
        item: the place.
        scratch: folder to write into, with the image's `scene.json`.
        what: to do.

    Returns:
        The files as `Item.files["after"]` holds them.

    Raises:
        SceneError: the image cannot be read, or is a picture with a palette.
    """
    role, made = folder.layout.role("after"), {}
    for band, path in item.files["after"].items():
        facts = _facts(path)
        if facts:
            shutil.copy(path.with_name("scene.json"), scratch / "scene.json")
        names = [band] if band else [str(name) for name in facts.get("bands", folder.bands)]
        made[band] = scratch / f"{band or 'after'}.tif"
        with open_file(path) as source:
            scale = float(facts.get("scale", scale_of(role, source.dtypes[0])))
            nodata = next((v for v in (role.nodata, source.nodata, facts.get("nodata")) if v is not None), None)
        write_perturbed(path, made[band], what, names=names, scale=scale, nodata=nodata)
    return made


def write_perturbed(
    image: Path, out: Path, perturbation: Perturbation, *, names: Sequence[str], scale: float, nodata: float | None
) -> None:
    """Copy an image with one thing wrong, strip by strip.

    Args:
        image: any raster.
        out: GeoTIFF to write.
        perturbation: what to do.
        names: of its bands; further ones are copied as they are.
        scale: from stored value to reflectance.
        nodata: stored value that means no data in all bands.

    Raises:
        SceneError: it cannot be read, or has fewer bands than names.
    """
    with open_file(image) as source:
        if source.count < len(names):
            raise SceneError(f"{image}: has {source.count} bands, {len(names)} are described; store it as colour bands")
        profile = source.profile | {"driver": "GTiff", "tiled": False, "compress": None, "blockysize": 1}
        for key in ("blockxsize", "photometric", "interleave"):
            profile.pop(key, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            target = rasterio.open(out, "w", **profile)
        with target:
            target.descriptions = source.descriptions
            for row in range(0, source.height, _STRIP):
                rows = min(_STRIP, source.height - row)
                top = max(row - _HALO, 0)
                bottom = min(row + rows + _HALO, source.height)
                values = source.read(window=Window(0, top, source.width, bottom - top))
                part = _perturbed(values[: len(names)], list(names), 1 / scale, nodata, perturbation)
                values[: len(names)] = part
                target.write(values[:, row - top : row - top + rows], window=Window(0, row, source.width, rows))


def _facts(image: Path) -> dict[str, Any]:
    path = image.with_name("scene.json")
    if not path.is_file():
        return {}
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def _perturbed(
    raw: NDArray[np.generic], names: list[str], counts: float, nodata: float | None, what: Perturbation
) -> NDArray[np.generic]:
    """Return the values with one thing wrong; nodata stays, and no value becomes nodata."""
    empty = np.zeros(raw.shape[1:], bool) if nodata is None else (raw == nodata).all(axis=0)
    values = raw.astype(np.float64)
    if what.kind == "shift":
        move = np.array([1.0, 2.0]) / np.sqrt(5) * what.amount
        values = np.stack([ndimage.shift(band, move, order=3, mode="nearest") for band in values])
        empty = ndimage.shift(empty.astype(float), move, order=1, mode="constant", cval=1.0) > 1e-6
    elif what.kind == "gain":
        values *= what.amount
    elif what.kind == "offset":
        values += what.amount * 1e-4 * counts
    elif what.kind == "haze":
        weight = np.array([_HAZE.get(name, _HAZE_FAR) for name in names])[:, None, None] * what.amount
        values = values * (1 - weight) + weight * counts
    else:
        values = _season(values, names, what.amount)
    if np.issubdtype(raw.dtype, np.integer):
        low, high = np.iinfo(raw.dtype).min, np.iinfo(raw.dtype).max  # type: ignore[type-var]
        values = np.clip(np.round(values), low, high)
    made = values.astype(raw.dtype)
    if nodata is not None:
        made[made == nodata] += raw.dtype.type(1)
        made[:, empty] = nodata
    return made


def _season(values: NDArray[np.float64], names: list[str], share: float) -> NDArray[np.float64]:
    if not {"B04", "B08"} <= set(names):
        return values
    red, infrared = values[names.index("B04")], values[names.index("B08")]
    index = (infrared - red) / np.maximum(infrared + red, 1)
    lost = share * np.clip((index - 0.2) / 0.5, 0, 1)
    factors = [1 - lost if name in _NEAR_INFRARED else 1 + lost / 2 for name in names]
    return values * np.where(np.isin(names, ["B02", "B03"])[:, None, None], 1.0, np.stack(factors))
