"""Finds the clouds and shadows of a scene with the networks of ukis-csmask, tile by tile, in bounded memory.

The networks want 256 x 256 pixels of about 30 m. Tiles lie on one lattice that starts at the scene's corner and are
blended, both as ukis-csmask does it, so the mask of a scene is the one that `ukis_csmask.mask.CSmask` gives for the
whole of it, and the same whatever part is asked for.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import onnxruntime
from rasterio.transform import Affine
from rasterio.windows import Window
from scipy.signal.windows import tukey

from tuban.data.bands import sensor_key
from tuban.data.grid import Grid
from tuban.data.mask_files import MaskRef
from tuban.errors import MissingExtraError, SceneError
from tuban.inference.backends import available_cores
from tuban.inference.cog import CogSpec, write_cog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tuban.data.scene import Scene

_log = logging.getLogger(__name__)

Level = Literal["l1c", "l2a"]
NODATA = 255
# What the networks call the bands, and ours.
_BANDS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "swir16": "B11", "swir22": "B12"}
_GSD_M = 30.0
# As in ukis_csmask.utils: tiles of 256 that overlap by a fifth.
_TILE, _OVERLAP = 256, 51
_STEP = _TILE - _OVERLAP - 1
# Pixels read at once; bounds memory where the scene is far finer than 30 m (6 bands: 100 MB).
_MAX_SOURCE_PX = 4_000_000
_COLORS = {0: (0, 0, 0, 0), 1: (255, 255, 255, 255), 2: (60, 60, 90, 255)}
_L2A = re.compile(r"L2A|L2SP|SURFACE|(?:^|[^A-Z])(?:SR|BOA)(?:[^A-Z]|$)", re.IGNORECASE)
_L1C = re.compile(r"L1C|L1TP|L1GT|L1GS|(?:^|[^A-Z])TOA(?:[^A-Z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class CsMask:
    """Predicts cloud masks; a `tuban.data.mask_choice.CloudPredictor`.

    Attributes:
        folder: where the masks are written: `clouds_before.tif` and `clouds_after.tif`, uint8 COGs of 0 clear, 1 cloud,
            2 shadow, 255 no data.
        level: what the scenes are; "auto" reads it from their names and tags.
        threads: threads of the network; 0 = every core this process may use.
    """

    folder: Path
    level: Literal["auto", "l1c", "l2a"] = "auto"
    threads: int = 0

    def __call__(self, scene: Scene, window: Window, role: str) -> MaskRef:
        """Write the mask of a window of a scene.

        Args:
            scene: Sentinel-2 or Landsat reflectance; other sensors are tried and noted.
            window: in pixels of the scene.
            role: "before" or "after"; names the file.

        Raises:
            MissingExtraError: ukis-csmask is not installed.
            SceneError: a band is missing, the values are no reflectance, or the file is damaged.
            OutputError: the mask cannot be written.
        """
        level, notes = _level_of(scene, self.level)
        network = _Network.load(scene, level, self.threads)
        pooled = _Pooled.of(scene, network.names)
        target = self.folder / f"clouds_{role}.tif"
        part = pooled.part(window)
        tags = {"TUBAN_CLOUDS": f"ukis-csmask {network.version}"}
        spec = CogSpec(("csmask",), nodata=NODATA, colors=_COLORS, tags=tags, rows=True)
        write_cog(target, pooled.grid(part), spec, _strips(pooled, part, network))
        _log.info("%s: clouds of %d x %d px at %.0f m", role, part.height, part.width, pooled.factor * scene.gsd_m)
        return MaskRef(str(target), "csmask", f"predicted by ukis-csmask {network.version}", notes=notes, made=True)


class _Part(NamedTuple):
    """Rows and columns of the pooled scene."""

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True)
class _Network:
    """One of the four networks that ukis-csmask ships, and how its input is scaled."""

    session: Any
    names: tuple[str, ...]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    version: str

    @classmethod
    def load(cls, scene: Scene, level: Level, threads: int) -> _Network:
        """Choose the network by the bands that the scene has, and load it from the installed package."""
        if find_spec("ukis_csmask") is None:
            raise MissingExtraError("clouds are predicted by ukis-csmask: install `tuban[clouds]`")
        missing = scene.missing(tuple(_BANDS.values()))
        if set(missing) - {"B11", "B12"}:
            raise SceneError(
                f"{scene.path}: clouds cannot be predicted without {', '.join(missing)} (blue, green, red and near "
                "infrared are needed); name the bands in scene.json, give a mask, or choose pair.clouds.source=none"
            )
        if scene.radiometry != "reflectance":
            raise SceneError(
                f"{scene.path}: clouds are predicted from reflectance, and the scale of these values is not known; "
                "give `scale` in scene.json, or choose pair.clouds.source=none"
            )
        # Resources of a package that is imported nowhere: its module is not needed, only its networks are.
        folder = files("ukis_csmask")
        stem = f"model_{4 if missing else 6}b_{level}"
        known = json.loads(folder.joinpath(f"{stem}.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            folder.joinpath(f"{stem}.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        statistics = known["data"]["dataset_statistics"]
        mean, std = (np.asarray(values, dtype=np.float32)[:, None, None] for values in statistics["img"])
        names = tuple(_BANDS[name] for name in statistics["band_names"])
        return cls(session, names, mean, std, str(known["model"]["version"]))

    def run(self, tile: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities `(3, 256, 256)` of clear, cloud and shadow for reflectances `(bands, 256, 256)`."""
        feed = ((tile - self.mean) / self.std)[None]
        logits = self.session.run(None, {self.session.get_inputs()[0].name: feed})[0][0]
        powers = np.exp(logits - logits.max(axis=0))
        return np.asarray(powers / powers.sum(axis=0), dtype=np.float32)


@dataclass(frozen=True)
class _Pooled:
    """A scene averaged over squares of `factor` pixels, from its upper left corner."""

    scene: Scene
    names: tuple[str, ...]
    factor: int

    @classmethod
    def of(cls, scene: Scene, names: tuple[str, ...]) -> _Pooled:
        return cls(scene, names, max(1, round(_GSD_M / scene.gsd_m)))

    @property
    def height(self) -> int:
        return -(-self.scene.height // self.factor)

    @property
    def width(self) -> int:
        return -(-self.scene.width // self.factor)

    def part(self, window: Window) -> _Part:
        """The pooled pixels that a window of the scene touches."""
        row, col = int(window.row_off) // self.factor, int(window.col_off) // self.factor
        row1 = -(-int(window.row_off + window.height) // self.factor)
        col1 = -(-int(window.col_off + window.width) // self.factor)
        return _Part(row, col, min(row1, self.height) - row, min(col1, self.width) - col)

    def read(self, part: _Part) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Mean values `(bands, height, width)` over valid pixels, and where there was one `(height, width)`."""
        values = np.zeros((len(self.names), part.height, part.width), dtype=np.float32)
        valid = np.zeros((part.height, part.width), dtype=bool)
        k = self.factor
        rows = max(1, _MAX_SOURCE_PX // (part.width * k * k))
        for top in range(0, part.height, rows):
            count = min(rows, part.height - top)
            window = Window(part.col * k, (part.row + top) * k, part.width * k, count * k)
            read, ok = self.scene.read(window, self.names)
            squares = read.reshape(len(self.names), count, k, part.width, k).sum(axis=(2, 4))
            there = ok.reshape(count, k, part.width, k).sum(axis=(1, 3))
            values[:, top : top + count] = squares / np.maximum(there, 1)
            valid[top : top + count] = there > 0
        return values, valid

    def tile(self, row: int, col: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """A tile of the lattice, mirrored where it reaches beyond the scene; what is no data has the tile's medians."""
        rows, cols = _mirrored(row, self.height), _mirrored(col, self.width)
        top, left = int(rows.min()), int(cols.min())
        values, valid = self.read(_Part(top, left, int(rows.max()) - top + 1, int(cols.max()) - left + 1))
        values = values.take(rows - top, axis=1).take(cols - left, axis=2)
        valid = valid.take(rows - top, axis=0).take(cols - left, axis=1)
        if valid.any() and not valid.all():
            values[:, ~valid] = np.median(values[:, valid], axis=1)[:, None]
        return values, valid

    def grid(self, part: _Part) -> Grid:
        """The pixel grid of a part."""
        k = self.factor
        moved = self.scene.transform @ Affine.translation(part.col * k, part.row * k) @ Affine.scale(k)
        return Grid(self.scene.crs, moved, part.height, part.width)


def _mirrored(start: int, size: int) -> NDArray[np.intp]:
    """Source positions of a tile on an axis mirrored at both ends, border pixels repeated (numpy's "symmetric")."""
    folded = np.arange(start, start + _TILE) % (2 * size)
    return np.minimum(folded, 2 * size - 1 - folded)


def _origins(start: int, stop: int) -> range:
    """Origins of the lattice's tiles that reach into `start` to `stop`."""
    first = max(0, (start + _OVERLAP - _TILE) // _STEP + 1)
    return range(first * _STEP - _OVERLAP, stop, _STEP)


def _strips(pooled: _Pooled, part: _Part, network: _Network) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """Yield strips that cover a part from top to bottom: where they lie in it, and their classes."""
    taper = tukey(_TILE, alpha=2 * 0.2).astype(np.float32)
    weight = taper[:, None] * taper[None]
    sums = np.zeros((3, _TILE, part.width), dtype=np.float32)
    there = np.zeros((_TILE, part.width), dtype=bool)
    origins = _origins(part.row, part.row + part.height)
    for origin in origins:
        for left in _origins(part.col, part.col + part.width):
            values, valid = pooled.tile(origin, left)
            col0, col1 = max(left, part.col), min(left + _TILE, part.col + part.width)
            source, target = slice(col0 - left, col1 - left), slice(col0 - part.col, col1 - part.col)
            there[:, target] |= valid[:, source]
            if valid.any():
                sums[:, :, target] += (network.run(values) * weight)[:, :, source]
        # Rows below the step also belong to the next tiles; those above are done.
        done = _STEP if origin != origins[-1] else _TILE
        classes = np.where(there, sums.argmax(axis=0), NODATA).astype(np.uint8)[:done]
        first, last = max(origin, part.row), min(origin + done, part.row + part.height)
        if last > first:
            strip = Window(0, first - part.row, part.width, last - first)
            yield strip, classes[None, first - origin : last - origin]
        sums = np.concatenate([sums[:, done:], np.zeros((3, done, part.width), dtype=np.float32)], axis=1)
        there = np.concatenate([there[done:], np.zeros((done, part.width), dtype=bool)])


def _level_of(scene: Scene, asked: str) -> tuple[Level, tuple[str, ...]]:
    """Whether the values are of the top of the atmosphere, from names and tags; and what was guessed."""
    notes = []
    if sensor_key([scene.sensor]) not in {"sentinel-2", "landsat-oli", "landsat-tm"}:
        notes.append(
            "clouds are predicted by networks made for Sentinel-2 and Landsat; "
            f"the sensor is {scene.sensor or 'unknown'}"
        )
    if asked in {"l1c", "l2a"}:
        return ("l1c" if asked == "l1c" else "l2a"), tuple(notes)
    for words in (scene.sensor, scene.path):
        for level, pattern in (("l2a", _L2A), ("l1c", _L1C)):
            if pattern.search(words):
                return ("l1c" if level == "l1c" else "l2a"), tuple(notes)
    notes.append(
        "clouds are predicted as for top-of-atmosphere values, for nothing says which they are; "
        "set pair.clouds.level=l2a for surface reflectance"
    )
    return "l1c", tuple(notes)
