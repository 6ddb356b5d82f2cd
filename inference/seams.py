"""How often a pixel's result hangs on where the scene was cut, for one halo and another.

A network that sees farther than the halo that is fed around each window gives pixels near the window's border other
values than the whole scene would. How many they are is a matter of the trained weights and of the imagery: it is
measured on real windows, each run once with its whole reach and again with smaller halos.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tuban.errors import UsageError
from tuban.inference.predict import NothingToSeeError
from tuban.inference.reading import read_window
from tuban.inference.windows import plan_windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from tuban.inference.backends import Backend
    from tuban.inference.products import Product
    from tuban.inference.reading import Loaded, PixelReader
    from tuban.models.bundle import Bundle

LIMIT = 1e-3
"""Share of pixels that may hang on where the scene was cut."""


class Seam(NamedTuple):
    """What a halo costs.

    Attributes:
        halo: pixels.
        differing: pixels whose value differs from that of the whole reach, by raster.
        pixels: valid pixels compared.
        share: of the worst raster, as it would be in windows of the bundle's `tile`: borders get fewer as windows grow.
    """

    halo: int
    differing: dict[str, int]
    pixels: int
    share: float


def measure_seams(
    source: PixelReader,
    bundle: Bundle,
    backend: Backend,
    product: Product,
    halos: Sequence[int],
    *,
    core: int = 256,
    rasters: Iterable[str] | None = None,
) -> list[Seam]:
    """Compare windows run with each halo with the same windows run with the network's whole reach.

    Args:
        source: a scene or pair like those that will be run.
        bundle: the model.
        backend: runs it.
        product: what is made of its outputs.
        halos: pixels, multiples of the bundle's stride below its reach.
        core: side of the windows, pixels; small ones have more borders and so tell more for the same time.
        rasters: which are compared; None: those of classes, whose values cannot differ by rounding alone.

    Raises:
        UsageError: a halo is no multiple of the stride, or exceeds the reach.
        NothingToSeeError: no pixel is valid.
    """
    if strange := [halo for halo in halos if halo % bundle.stride or not 0 <= halo <= bundle.reach]:
        raise UsageError(
            f"halos {strange} cannot be compared: use multiples of {bundle.stride} from 0 to {bundle.reach}"
        )
    names = [spec.name for spec in product.specs if spec.colors] if rasters is None else list(rasters)
    tile = core + 2 * bundle.reach
    plan = plan_windows(source.height, source.width, tile=tile, halo=bundle.reach, stride=bundle.stride, oblong=False)
    found = {halo: dict.fromkeys(names, 0) for halo in halos}
    pixels = 0
    for window in plan:
        loaded = read_window(source, bundle, plan, window, inputs=product.inputs)
        if not loaded.images:
            continue
        pixels += int(np.count_nonzero(loaded.valid))
        exact = _encoded(loaded, plan.halo, plan.halo, backend, product)
        for halo in halos:
            made = _encoded(loaded, plan.halo, halo, backend, product)
            for name in names:
                found[halo][name] += int(np.count_nonzero(made[name] != exact[name]))
    if not pixels:
        raise NothingToSeeError("no pixel is valid, so nothing can be compared; give imagery with valid pixels")
    side = np.sqrt(plan.core_height * plan.core_width)
    return [
        Seam(halo, counts, pixels, max(counts.values()) / pixels * float(side) / (bundle.tile - 2 * halo))
        for halo, counts in found.items()
    ]


def _encoded(loaded: Loaded, read: int, halo: int, backend: Backend, product: Product) -> dict[str, NDArray[np.uint8]]:
    """Return the rasters of a window that was read with a halo of `read`, from `halo` of it."""
    core = loaded.window
    cut = read - halo
    feeds = {
        name: np.ascontiguousarray(image[None, :, cut : image.shape[1] - cut, cut : image.shape[2] - cut])
        for name, image in loaded.images.items()
    }
    kept = np.s_[halo : halo + core.height, halo : halo + core.width]
    made = {name: output[0][..., *kept] for name, output in backend.run(feeds, product.wanted).items()}
    return product.encode(made, loaded.valid, core)


def least_halo(seams: Iterable[Seam], *, reach: int, limit: float = LIMIT) -> int:
    """Return the smallest halo from which on the share stays within `limit`, pixels; the reach where none does."""
    best = reach
    for seam in sorted(seams, key=lambda seam: -seam.halo):
        if seam.share > limit:
            break
        best = seam.halo
    return best
