"""How much of 199 digitised Belgian field parcels a land-cover bundle maps as cropland.

    python benchmarks/accuracy_fields.py [--model s2-landcover] [--data ../shared/data]

The image is a display composite, 8 bits, near infrared, red and green. It is no input that `tuban landcover` accepts:
values without a scale, and the blue band is missing. So this is a hard test, and says so: each band's median and spread
are mapped onto the bundle's training statistics (as `tuban.inference.units` does for pairs), green stands in for blue,
and the other bands are fed as missing. A recall alone could be had by mapping everything as cropland; the share of the
whole image is given too.
Results: `benchmarks/results/accuracy_fields.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pyogrio
import rasterio
from rasterio.features import geometry_mask, rasterize

from tuban.data.classes import classes
from tuban.data.scene import Scene
from tuban.inference.landcover import SceneReader, predict_landcover
from tuban.models.bundle import Bundle, resolve

RESULTS = Path(__file__).parent / "results" / "accuracy_fields.md"
BANDS = ("B08", "B04", "B03", "B02")
FROM = (0, 1, 2, 2)  # green stands in for blue
CROPLAND = 1
_NORMAL_IQR = 1.349  # interquartile range of a normal distribution in standard deviations


def in_units_of(bundle: Bundle, source: Path, out: Path) -> None:
    """Write the composite as reflectance: median and spread of each band are those of the bundle's training."""
    with rasterio.open(source) as image:
        values, profile = image.read().astype(np.float64), image.profile
    made = np.empty((len(BANDS), *values.shape[1:]), np.uint16)
    for index, (name, band) in enumerate(zip(BANDS, FROM, strict=True)):
        low, middle, high = np.percentile(values[band], [25, 50, 75])
        mean, std = (stats[bundle.bands.index(name)] for stats in (bundle.mean, bundle.std))
        reflectance = mean + (values[band] - middle) * std * _NORMAL_IQR / max(high - low, 1)
        made[index] = np.clip(np.round(reflectance * 1e4), 1, 65535)
    profile.update(driver="GTiff", dtype="uint16", count=len(BANDS), nodata=0)
    with rasterio.open(out, "w", **profile) as target:
        target.write(made)
        target.descriptions = BANDS
    facts = {"bands": list(BANDS), "scale": 1e-4, "nodata": 0, "date": "2023-07-01"}
    out.with_name("scene.json").write_text(json.dumps(facts), encoding="utf-8")


def measure(bundle: Bundle, folder: Path) -> list[str]:
    """Return the results as Markdown."""
    parcels = pyogrio.read_dataframe(folder / "fields_polygons.gpkg", layer="polygons")
    empty = int(parcels.geometry.isna().sum())
    parcels = parcels[parcels.geometry.notna()]
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.tif"
        in_units_of(bundle, folder / "s2_2023_B08_B04_B03.tif", image)
        with Scene.open(image) as scene:
            made = predict_landcover(SceneReader(scene), bundle, Path(scratch) / "out")
        with rasterio.open(made.paths["landcover"]) as source:
            mapped = source.read(1)
            grid = {"out_shape": source.shape, "transform": source.transform}
            parcels = parcels.to_crs(source.crs)
    inside = ~geometry_mask(parcels.geometry, **grid)
    number = rasterize(zip(parcels.geometry, range(1, len(parcels) + 1), strict=True), fill=0, dtype="int32", **grid)
    pixels = np.bincount(number.ravel(), minlength=len(parcels) + 1)[1:]
    right = np.bincount(number[mapped == CROPLAND], minlength=len(parcels) + 1)[1:]
    held = pixels > 0
    counts = np.bincount(mapped[inside], minlength=256)
    command = f"`python benchmarks/accuracy_fields.py --model {bundle.name}`."
    left_out = f"{empty} parcel has no outline, {int((~held).sum())} hold no pixel of their own (outside the image)."
    return [
        f"# {bundle.model_id} over {len(parcels)} Belgian field parcels",
        "",
        f"{command} {left_out}",
        "8-bit display composite of three bands, units guessed, green for blue: see the head of the script.",
        "",
        f"- farmland recall: {right.sum() / pixels.sum():.3f} of {pixels.sum()} pixels",
        f"- parcels mostly cropland: {int((right[held] * 2 > pixels[held]).sum())} of {int(held.sum())}",
        f"- cropland in the whole image: {(mapped == CROPLAND).mean():.3f}",
        "",
        "| class in the parcels | share |",
        "|---|---|",
        *(f"| {classes()[v].name} | {counts[v] / counts.sum():.3f} |" for v in np.flatnonzero(counts).tolist()),
    ]


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="s2-landcover")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TUBAN_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    text = "\n".join(measure(resolve(chosen.model, task="landcover"), chosen.data / "s2_fields_belgium")) + "\n"
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
