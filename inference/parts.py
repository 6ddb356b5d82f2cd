"""Parts: what one batch of windows became, as the bytes of a small GeoTIFF that stands on disk until all are there.

A part has one band for each output raster. What was counted while it was made travels in its metadata, so that a run
that is gone on with knows it without looking at pixels. Equal results are equal bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from affine import Affine
from rasterio.io import MemoryFile

from tuban.inference.reading import Damage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tuban.inference.products import RasterSpec
    from tuban.inference.windows import CoreWindow

_TAG = "TUBAN_TALLY"
# Small tiles: the mosaic is read in blocks of its own, and a large tile would be unpacked once for each.
_TILE = 256


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted over some windows.

    Attributes:
        run: windows given to the network.
        skipped: windows without a valid pixel.
        valid_px: pixels that hold a result.
        unseen_px: pixels with data that a cloud mask hides.
        fed_px: pixels given to the network, halos included.
        damage: blocks that could not be read.
        values: for each raster how often each of the 256 values occurs.
    """

    run: int = 0
    skipped: int = 0
    valid_px: int = 0
    unseen_px: int = 0
    fed_px: int = 0
    damage: tuple[Damage, ...] = ()
    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        values = {
            name: tuple(a + b for a, b in zip(self.values.get(name, (0,) * 256), counts, strict=True))
            for name, counts in other.values.items()
        }
        return Tally(
            self.run + other.run,
            self.skipped + other.skipped,
            self.valid_px + other.valid_px,
            self.unseen_px + other.unseen_px,
            self.fed_px + other.fed_px,
            _each_once((*self.damage, *other.damage)),
            {**self.values, **values},
        )

    def to_json(self) -> str:
        """Return it as JSON; counts of values that do not occur are left out."""
        values = {
            name: {str(value): count for value, count in enumerate(counts) if count}
            for name, counts in self.values.items()
        }
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__ if name != "values"}
        return json.dumps({**plain, "values": values}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` wrote."""
        plain = json.loads(text)
        plain["damage"] = tuple(Damage(*entry) for entry in plain["damage"])
        plain["values"] = {
            name: tuple(counts.get(str(value), 0) for value in range(256)) for name, counts in plain["values"].items()
        }
        return cls(**plain)


def _each_once(damage: tuple[Damage, ...]) -> tuple[Damage, ...]:
    """Return every block once: neighbours meet the same in their halos, perhaps for other reasons, in any order."""
    return tuple(sorted({block[:4]: block for block in sorted(damage, reverse=True)}.values()))


@dataclass(frozen=True, slots=True)
class Part:
    """One batch of windows, done.

    Attributes:
        index: of the batch in the plan.
        data: bytes of the GeoTIFF.
        tally: what was counted.
    """

    index: int
    data: bytes
    tally: Tally


def make_part(
    index: int,
    windows: Sequence[CoreWindow],
    arrays: Sequence[Mapping[str, NDArray[np.uint8]]],
    specs: Sequence[RasterSpec],
    tally: Tally,
) -> Part:
    """Pack the rasters of a batch: uint8 `(window.height, window.width)` for each window and raster."""
    width = windows[-1].col + windows[-1].width - windows[0].col
    height = windows[0].height
    planes = np.empty((len(specs), height, width), np.uint8)
    for window, values in zip(windows, arrays, strict=True):
        place = slice(window.col - windows[0].col, window.col - windows[0].col + window.width)
        for plane, spec in zip(planes, specs, strict=True):
            plane[:, place] = values[spec.name]
    counts = {
        spec.name: tuple(np.bincount(plane.ravel(), minlength=256).tolist())
        for plane, spec in zip(planes, specs, strict=True)
    }
    tally += Tally(values=counts)
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": len(specs), "height": height, "width": width,
        "photometric": "minisblack", "alpha": "no", "interleave": "band",
        # Its place in pixels of the grid, counted from 1: GDAL takes an origin of 0, 0 for none at all.
        "transform": Affine(1, 0, windows[0].col + 1, 0, -1, -windows[0].row - 1),
        "tiled": True, "blockxsize": _TILE, "blockysize": _TILE,
        "compress": "deflate", "zlevel": 1,  # read once more, then thrown away
    }  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            dataset.write(planes)
            dataset.update_tags(**{_TAG: tally.to_json()})
        return Part(index, bytes(memory.getbuffer()), tally)


def read_tally(data: bytes) -> Tally:
    """Return what was counted for a part, from its bytes."""
    with MemoryFile(data) as memory, memory.open() as dataset:
        return Tally.from_json(dataset.tags()[_TAG])
