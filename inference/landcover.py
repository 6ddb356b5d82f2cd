"""Predicts the land cover of one scene of any size: scene + bundle in, two COGs out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tuban.inference.predict import Predicted, predict
from tuban.inference.products import LandcoverProduct
from tuban.inference.units import BYTE

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS
    from rasterio.windows import Window

    from tuban.data.cloud_mask import CloudMask
    from tuban.data.scene import Scene
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle


class SceneWindow(NamedTuple):
    """A window of a scene: `(bands, h, w)` float32; which pixels may hold a result; which a cloud hides, `(h, w)`."""

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    unseen: NDArray[np.bool_]


@dataclass(frozen=True)
class SceneReader:
    """A scene as inference reads it; a `tuban.inference.reading.PixelReader`.

    Attributes:
        scene: what is read.
        clouds: its cloud mask, or None.
        gain: multiplies what the scene holds; the model's units may be others.
    """

    scene: Scene
    clouds: CloudMask | None = None
    gain: float = 1.0

    @property
    def height(self) -> int:
        """Rows."""
        return self.scene.height

    @property
    def width(self) -> int:
        """Columns."""
        return self.scene.width

    @property
    def crs(self) -> CRS:
        """Coordinate reference system."""
        return self.scene.crs

    @property
    def transform(self) -> Affine:
        """Pixel corner to CRS units."""
        transform: Affine = self.scene.transform
        return transform

    def read(self, window: Window, names: Sequence[str]) -> SceneWindow:
        """Read a window; a band that the scene lacks is NaN.

        Raises:
            ReadError: the scene is damaged there.
        """
        image, valid = self.scene.read(window, names)
        if self.gain != 1.0:
            image *= np.float32(self.gain)
        hidden = np.zeros(valid.shape, np.bool_)
        if self.clouds is not None:
            grid = self.scene.grid
            hidden = valid & (self.clouds.read_on_grid(grid.window(window), spacing=grid.spacing_m()) != 0)
        return SceneWindow(image, valid & ~hidden, hidden)


def predict_landcover(
    source: SceneReader,
    bundle: Bundle,
    out_dir: str | os.PathLike[str],
    *,
    settings: InferenceSettings | None = None,
    identity: Mapping[str, object] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Write `landcover.tif` (unified classes, 0 nodata) and `confidence.tif` (probability × 254, 255 nodata).

    8-bit numbers are divided by 255 for a bundle that was made for them. Args and errors are those of
    `tuban.inference.predict.predict`.
    """
    if bundle.units == "byte" and source.scene.radiometry == "dn" and source.scene.eight_bit:
        source = replace(source, gain=BYTE)
    return predict(
        source,
        bundle,
        LandcoverProduct(bundle),
        out_dir,
        settings=settings,
        identity=identity,
        resume=resume,
        progress=progress,
    )
