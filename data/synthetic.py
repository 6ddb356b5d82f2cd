"""Writes the built-in pair, its truth and its drawn plan to a folder, the same bytes for the same seed."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio
import shapely
import yaml
from pyogrio.errors import DataSourceError
from rasterio.errors import RasterioError
from rasterio.features import shapes, sieve
from scipy import ndimage

from tuban.data.drawing import DemoSettings, demo_settings, to_map
from tuban.data.painting import load_chip, ndvi, paint
from tuban.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FIXED_TIME = "2000-01-01T00:00:00Z"  # a GeoPackage insists on a time; a second run must give the same bytes
PERMIT_LAYERS = {"conversion": "ZZ_NYDZYFW", "temporary": "LSYD_XMZDFW", "opinion": "YXRWHD_YJ"}
LAYERS = {
    "permanent_basic_farmland": ("YJJBNTTB", 1.0),
    "ecological_red_line": ("STBHHX", 10.0),  # 1 mm on a 1:10000 sheet: edges are unclear on purpose
    "urban_development_boundary": ("CZKFBJ", 1.0),
}
DRAWN_ACCURACY_M = 1.0  # of baseline and permits: 0.2 mm at 1:5000


@dataclass(frozen=True, slots=True)
class DemoPair:
    """Where the pair lies: two GeoTIFFs, `plan.yaml`, the painted sites (`truth.gpkg`), and what was drawn."""

    before: Path
    after: Path
    plan: Path
    truth: Path
    facts: dict[str, Any]


def make_demo(folder: str | Path, *, seed: int = 0, settings: DemoSettings | None = None) -> DemoPair:
    """Write the built-in pair, plan and truth into `folder`.

    Args:
        folder: made if missing; files of an earlier demo are replaced.
        seed: of the spectra and the noise; the sites stay where `configs/demo.yaml` draws them.
        settings: another drawing than the shipped one.

    Returns:
        The paths, and `facts` (JSON-ready): what is real, what is drawn.

    Raises:
        MissingExtraError: spyndex is not installed.
        OutputError: the folder cannot be written.
    """
    settings = settings or demo_settings()
    folder = Path(folder)
    chip = load_chip()
    after = paint(chip.values, settings, seed)
    with _staged(folder) as stage:
        _write_image(stage / "before.tif", chip.values, settings)
        _write_image(stage / "after.tif", after, settings)
        _write_json(stage / "scene.json", _scene_facts(settings))
        _write_plan(stage, chip.values, settings)
        _write_truth(stage / "truth.gpkg", settings)
    facts = {
        "real": {"image": chip.source, "sha256": chip.sha256, "licence": "spyndex, MIT; Copernicus Sentinel-2 data"},
        "drawn": "place, dates, construction sites, decoy fields, season and the whole plan",
        "seed": seed,
        "sites": len(settings.sites),
        "decoys": len(settings.decoys),
    }
    return DemoPair(folder / "before.tif", folder / "after.tif", folder / "plan.yaml", folder / "truth.gpkg", facts)


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Give a folder to write in; its files get their final names only when every one is complete."""
    # Nothing here outlives a crash, so SQLite need not wait for the disk.
    options = {"OGR_CURRENT_DATE": FIXED_TIME, "OGR_SQLITE_SYNCHRONOUS": "OFF"}
    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tuban-", dir=folder) as name:
            pyogrio.set_gdal_config_options(options)
            yield Path(name)
            for path in sorted(Path(name).iterdir()):
                path.replace(folder / path.name)
    except (OSError, RasterioError, DataSourceError) as error:
        raise OutputError(f"cannot write the demo to {folder}: {error}; choose a writable folder with --out") from error
    finally:
        pyogrio.set_gdal_config_options(before)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _scene_facts(settings: DemoSettings) -> dict[str, Any]:
    return {
        "before": settings.dates["before"].isoformat(),
        "after": settings.dates["after"].isoformat(),
        "sensor": "Sentinel-2 (chip of spyndex; place and dates are made up)",
        "bands": list(settings.bands),
        "scale": 0.0001,
        "nodata": 0,
    }


def _write_image(path: Path, values: NDArray[np.uint16], settings: DemoSettings) -> None:
    count, height, width = values.shape
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": count,
        "height": height,
        "width": width,
        "crs": settings.grid.crs,
        "transform": settings.grid.transform,
        "nodata": 0,
        "tiled": True,
        "blockxsize": 128,
        "blockysize": 128,
        "compress": "deflate",
        "predictor": 2,
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(values)
        target.descriptions = settings.bands
        target.scales = [1e-4] * count


def _write_truth(path: Path, settings: DemoSettings) -> None:
    grid = settings.grid
    sites = gpd.GeoDataFrame(
        {
            "site_id": [site.id for site in settings.sites],
            "what": [site.what for site in settings.sites],
            "expects": [site.expects for site in settings.sites],
        },
        geometry=[site.polygon(grid) for site in settings.sites],
        crs=grid.crs,
    )
    sites.insert(3, "drawn_m2", sites.area.round(2))
    decoys = gpd.GeoDataFrame(
        {"decoy_id": [decoy.id for decoy in settings.decoys], "what": [decoy.what for decoy in settings.decoys]},
        geometry=[to_map(decoy.ring, grid) for decoy in settings.decoys],
        crs=grid.crs,
    )
    pyogrio.write_dataframe(sites, path, layer="sites", driver="GPKG")
    pyogrio.write_dataframe(decoys, path, layer="decoys", driver="GPKG")


def _write_plan(stage: Path, values: NDArray[np.uint16], settings: DemoSettings) -> None:
    path, grid, entries = stage / "plan.gpkg", settings.grid, []
    for role, (layer, accuracy) in LAYERS.items():
        rings = getattr(settings.plan, role)
        frame = gpd.GeoDataFrame(
            {"BSM": [f"{layer}{number:04d}" for number in range(1, len(rings) + 1)]},
            geometry=[to_map(ring, grid) for ring in rings],
            crs=grid.crs,
        )
        if role == "permanent_basic_farmland":
            frame["DLBM"], frame["DLMC"] = "0103", "旱地"
        pyogrio.write_dataframe(frame, path, layer=layer, driver="GPKG")
        entries.append({"role": role, "path": path.name, "layer": layer, "accuracy_m": accuracy})
    pyogrio.write_dataframe(_baseline(values, settings), path, layer="DLTB", driver="GPKG")
    entries.append(
        {
            "role": "land_use_baseline",
            "path": path.name,
            "layer": "DLTB",
            "class_system": "cn-survey",
            "class_field": "DLBM",
            "accuracy_m": DRAWN_ACCURACY_M,
        }
    )
    for kind, layer in PERMIT_LAYERS.items():
        permits = [permit for permit in settings.plan.permits if permit.kind == kind]
        frame = gpd.GeoDataFrame(
            {
                "PZWH": [permit.number for permit in permits],
                "PZRQ": [permit.valid_from and permit.valid_from.isoformat() for permit in permits],
                "YXQZ": [permit.valid_to and permit.valid_to.isoformat() for permit in permits],
            },
            geometry=[to_map(permit.ring, grid) for permit in permits],
            crs=grid.crs,
        )
        pyogrio.write_dataframe(frame, path, layer=layer, driver="GPKG")
        fields = {"number": "PZWH", "valid_from": "PZRQ", "valid_to": "YXQZ"}
        permit = {"role": "permit", "kind": kind, "path": path.name, "layer": layer, **fields}
        entries.append({**permit, "accuracy_m": DRAWN_ACCURACY_M})
    text = yaml.safe_dump({"jurisdiction": "cn", "layers": entries}, allow_unicode=True, sort_keys=False)
    (stage / "plan.yaml").write_text("# Drawn for the demo; no real plan looks like this.\n" + text, encoding="utf-8")


def _baseline(values: NDArray[np.uint16], settings: DemoSettings) -> gpd.GeoDataFrame:
    """Draw a land-use baseline: forest where the chip is green for tens of metres, dry land, villages."""
    grid = settings.grid
    green = sieve((ndimage.gaussian_filter(ndvi(values), 2) > 0.5).astype(np.uint8), size=100, connectivity=4)
    found = [(shapely.geometry.shape(ring), value) for ring, value in shapes(green, transform=grid.transform)]
    smooth = shapely.coverage_simplify([polygon for polygon, _ in found], 2 * grid.pixel_m)
    villages = shapely.union_all([to_map(ring, grid) for ring in settings.plan.villages])
    rows: list[tuple[str, str, shapely.Geometry]] = []
    for polygon, (_, value) in zip(smooth, found, strict=True):
        code = ("0301", "乔木林地") if value else ("0103", "旱地")
        rows += [(*code, part) for part in shapely.get_parts(polygon.difference(villages)) if part.area > 0]
    rows += [("0702", "农村宅基地", part) for part in shapely.get_parts(villages)]
    frame = gpd.GeoDataFrame(
        {
            "BSM": [f"DLTB{number:06d}" for number in range(1, len(rows) + 1)],
            "DLBM": [code for code, _, _ in rows],
            "DLMC": [name for _, name, _ in rows],
        },
        geometry=[part for _, _, part in rows],
        crs=grid.crs,
    )
    frame["TBMJ"] = frame.area.round(2)
    return frame
