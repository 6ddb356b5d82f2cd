"""How well clouds are found and how often clear land is taken for cloud: painted clouds on real Sentinel-2 scenes.

    python benchmarks/clouds.py [--data ../shared/data/oscd] [--pictures FOLDER]

The 28 scenes of OSCD are (nearly) free of clouds, so whatever is masked on them is a false mask. No cloudy scene with
a licence that lets it be used is at hand, so clouds and their shadows are painted onto the same scenes: opaque in the
middle, ragged and thin at the edge, with the spectra of real clouds. A network may find painted clouds easier or
harder than real ones; the published accuracy on real clouds is that of CloudSEN12+ and SPARCS (ukis-csmask's README).
Results go to `benchmarks/results/clouds.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import rasterio
from rasterio.windows import Window
from scipy import ndimage

from tuban.data.cloud_mask import CloudMask, CloudSettings
from tuban.data.scene import Scene
from tuban.inference.clouds import CsMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results" / "clouds.md"
DATA = Path(__file__).parents[2] / "shared" / "data" / "oscd"
CLOUD, SHADOW = 1, 3  # codes of configs/cloud_masks.yaml
METRES = (0.0, 60.0, 120.0)
# Top-of-atmosphere reflectance of thick cumulus, and what is left of the land's in its shadow: the sky still lights it
# and haze above it still shines, most in the blue.
BRIGHT = {
    "B02": 0.56, "B03": 0.54, "B04": 0.56, "B05": 0.57, "B06": 0.59, "B07": 0.60, "B08": 0.60, "B8A": 0.61, "B11": 0.42,
    "B12": 0.32,
}  # fmt: skip
SHADED = {
    "B02": 0.80, "B03": 0.68, "B04": 0.58, "B05": 0.52, "B06": 0.45, "B07": 0.43, "B08": 0.42, "B8A": 0.40, "B11": 0.36,
    "B12": 0.36,
}  # fmt: skip


class Painted(NamedTuple):
    """A scene with painted clouds.

    Attributes:
        values: `(bands, height, width)` reflectance.
        cloud: opacity of the cloud, 0 to 1, `(height, width)`.
        shadow: depth of its shadow where no cloud covers it, 0 to 1.
    """

    values: NDArray[np.float32]
    cloud: NDArray[np.float32]
    shadow: NDArray[np.float32]


def paint(
    values: NDArray[np.float32], names: tuple[str, ...], seed: int, *, cover: float = 0.15, size: float = 25.0,
    offset: tuple[int, int] = (-24, -9),
) -> Painted:  # fmt: skip
    """Paint clouds and their shadows.

    Args:
        values: reflectance `(bands, height, width)`.
        names: the bands.
        seed: of the noise that makes their shapes.
        cover: share of the scene under cloud, at an opacity above one half.
        size: pixels; the scale of the larger clouds.
        offset: rows and columns from a cloud to its shadow; the default is that of a northern morning.
    """
    rng = np.random.default_rng(seed)
    shape = values.shape[1:]
    field = sum(
        weight * _standard(ndimage.gaussian_filter(rng.normal(size=shape), size * scale))
        for scale, weight in ((1.0, 1.0), (0.3, 0.35), (0.1, 0.12))
    )
    threshold = np.quantile(field, 1 - cover)
    cloud = np.clip(0.5 + (field - threshold) / 0.35, 0, 1).astype(np.float32)
    cast = ndimage.shift(cloud, offset, order=1, mode="constant")
    shadow = (ndimage.gaussian_filter(cast, 1.5) * (1 - cloud)).astype(np.float32)
    # Lit tops and grey undersides.
    relief = 1 + 0.12 * _standard(ndimage.gaussian_filter(rng.normal(size=shape), 4)) * cloud
    painted = values.copy()
    for place, name in enumerate(names):
        shaded = painted[place] * (1 - shadow * (1 - SHADED[name]))
        painted[place] = (1 - cloud) * shaded + cloud * BRIGHT[name] * relief
    return Painted(painted, cloud, shadow)


def write_painted(source: Path, target: Path, seed: int, **options: object) -> Painted:
    """Write a copy of a Sentinel-2 scene of OSCD with painted clouds, and its `scene.json`."""
    with rasterio.open(source) as dataset:
        stored, profile, names = dataset.read(), dataset.profile, dataset.descriptions
    painted = paint(stored.astype(np.float32) * 1e-4, names, seed, **options)  # type: ignore[arg-type]
    values = np.where(stored == 0, 0, np.clip(np.round(painted.values * 1e4), 1, 65535)).astype(np.uint16)
    target.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(target, "w", **profile) as dataset:
        dataset.write(values)
        dataset.descriptions = names
    sidecar = source.with_name("scene.json")
    target.with_name("scene.json").write_bytes(sidecar.read_bytes())
    return painted


class Predicted(NamedTuple):
    """What was predicted for a scene.

    Attributes:
        grown: codes of causes `(height, width)` on the scene's grid, grown by each of `METRES`.
        valid: where the scene has data.
        seconds: CPU time.
    """

    grown: list[NDArray[np.uint8]]
    valid: NDArray[np.bool_]
    seconds: float


def predicted(path: Path, folder: Path) -> Predicted:
    """Predict the clouds of a scene; the mask itself is left in `folder`."""
    with Scene.open(path) as scene:
        whole = Window(0, 0, scene.width, scene.height)
        started = time.process_time()
        ref = CsMask(folder)(scene, whole, path.stem)
        seconds = time.process_time() - started
        grown = []
        for metres in METRES:
            with contextlib.closing(CloudMask.open(ref, CloudSettings(dilate_m=metres))) as mask:
                grown.append(mask.read_on_grid(scene.grid, spacing=scene.grid.spacing_m()))
        return Predicted(grown, scene.read(whole, ["B02", "B11"])[1], seconds)


def _standard(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    return noise / noise.std()


def _scores(found: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_]) -> str:
    both, either = (found & truth & valid).sum(), ((found | truth) & valid).sum()
    return f"{both / max(either, 1):.2f} | {both / max((truth & valid).sum(), 1):.2f}"


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--pictures", type=Path, help="write a picture of each painted scene and its mask here")
    options = parser.parse_args()
    clear, painted, seconds, pixels = [], [], 0.0, 0
    with tempfile.TemporaryDirectory() as scratch:
        for number, city in enumerate(sorted(path.parent.name for path in options.data.glob("*/before.tif"))):
            shares, hidden = [], False
            for date in ("before", "after"):
                found = predicted(options.data / city / f"{date}.tif", Path(scratch))
                seconds, pixels = seconds + found.seconds, pixels + found.valid.size
                plain, grown = found.grown[:2]
                hidden = hidden | (grown > 0)
                shares += [(layer & found.valid).sum() / found.valid.sum()
                           for layer in (plain == CLOUD, plain == SHADOW, grown > 0)]  # fmt: skip
                if options.pictures:
                    _picture(options.data / city / f"{date}.tif", plain, grown, options.pictures / f"{city}_{date}.png")
            shares.append(_lost_changes(options.data / city / "change.tif", np.asarray(hidden)))
            clear.append(f"| {city} | " + " | ".join(f"{100 * share:.2f}" for share in shares) + " |")
            target = Path(scratch) / city / "after.tif"
            truth = write_painted(options.data / city / "after.tif", target, seed=number)
            found = predicted(target, Path(scratch))
            painted.append(f"| {city} | {_row(found, truth)} |")
            if options.pictures:
                _picture(target, *found.grown[:2], options.pictures / f"{city}_painted.png")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(_page(clear, painted, seconds / (pixels / 1e6)), encoding="utf-8")


def _lost_changes(path: Path, hidden: NDArray[np.bool_]) -> float:
    """Share of the labelled changes of a city that would be hidden at either date; NaN where there are no labels."""
    if not path.exists():
        return float("nan")
    with rasterio.open(path) as dataset:
        changed = dataset.read(1) == 1
    return float((changed & hidden).sum() / changed.sum())


def _row(found: Predicted, truth: Painted) -> str:
    """Scores of one painted scene."""
    cloud, shadow = truth.cloud > 0.3, (truth.shadow > 0.3) & (truth.cloud <= 0.3)
    touched, valid = (truth.cloud > 0.05) | (truth.shadow > 0.1), found.valid
    plain = found.grown[0]
    cells = [
        _scores(plain == CLOUD, cloud, valid),
        _scores(plain == SHADOW, shadow, valid),
        _scores(plain > 0, cloud | shadow, valid),
    ]
    for area, wanted in ((touched & valid, False), (~touched & valid, True)):
        cells += [f"{100 * (area & ((codes > 0) == wanted)).sum() / area.sum():.1f}" for codes in found.grown]
    return " | ".join(cells)


def _page(clear: list[str], painted: list[str], seconds: float) -> str:
    return "\n".join([
        "# Clouds predicted by ukis-csmask",
        "",
        f"Made by `python benchmarks/clouds.py`; {seconds:.2f} s of CPU time per million 10 m pixels.",
        "",
        "## The scenes as they are: per cent of the land that is masked",
        "",
        "All of it is false, but for paris after: two clouds and a shadow are there to be seen.",
        "`+60 m`: cloud and shadow together, grown by 60 m. `changes`: per cent of the labelled changes (new buildings",
        "and roads) that both dates' masks together would hide.",
        "",
        "| scene | before: cloud | shadow | +60 m | after: cloud | shadow | +60 m | changes |",
        "|---|---|---|---|---|---|---|---|",
        *clear,
        "",
        "## Painted clouds (15 % of the scene, AFTER)",
        "",
        "Truth: opacity or depth above 0.3. `missed`: per cent of what is touched at all (opacity above 0.05, shadow",
        "above 0.1) that is not masked; `lost`: per cent of clear land that is.",
        "",
        "| scene | cloud IoU | recall | shadow | recall | both | recall | missed | +60 m | +120 | lost | +60 | +120 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *painted,
        "",
    ])  # fmt: skip


def _picture(path: Path, codes: NDArray[np.uint8], grown: NDArray[np.uint8], target: Path) -> None:
    from PIL import Image

    with rasterio.open(path) as dataset:
        rgb = np.clip(dataset.read([3, 2, 1]).transpose(1, 2, 0) / 3500 * 255, 0, 255).astype(np.uint8)
    outlined = rgb.copy()
    for code, color in ((CLOUD, (255, 0, 0)), (SHADOW, (0, 120, 255))):
        outlined[(codes == code) & ~ndimage.binary_erosion(codes == code)] = color
    outlined[(grown > 0) & ~ndimage.binary_erosion(grown > 0)] = (255, 255, 0)
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([rgb, outlined], axis=1)).save(target)


if __name__ == "__main__":
    main()
