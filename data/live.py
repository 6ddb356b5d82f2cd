"""Fetches a real Sentinel-2 pair through a public STAC API: the only part of the demo that needs a network."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds
from rasterio.windows import Window, from_bounds

from tuban.data.drawing import LiveSettings, demo_settings
from tuban.data.scene import Scene
from tuban.errors import MissingExtraError, OutputError, PairError, SceneError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Search = Callable[[LiveSettings, str], Sequence[dict[str, Any]]]

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
BLOCK = 512

ROLES = ("before", "after")


def fetch_live_pair(
    folder: str | Path, *, settings: LiveSettings | None = None, search: Search | None = None
) -> dict[str, Any]:
    """Write `before.tif`, `after.tif` and `scene.json` of the least cloudy pair that the settings allow.

    Both dates come from the same orbit tile, so they lie on one grid. Values are reflectance x 10000.

    Args:
        folder: made if missing.
        settings: where to look; the default is the `live` part of `configs/demo.yaml`.
        search: finds items of one span of dates; the default asks the STAC API.

    Returns:
        The two paths and what was chosen, JSON-ready.

    Raises:
        MissingExtraError: pystac-client is not installed.
        SceneError: the service cannot be reached, or an image cannot be read from it.
        PairError: no tile has an image in both spans.
        OutputError: the folder cannot be written.
    """
    settings = settings or demo_settings().live
    find = search or _search
    chosen = _choose(find(settings, settings.before), find(settings, settings.after), settings)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tuban-", dir=folder) as name:
            stage = Path(name)
            dates = {
                role: _clip(item, stage / f"{role}.tif", settings) for role, item in zip(ROLES, chosen, strict=True)
            }
            facts = {**dates, "bands": list(BANDS), "scale": 0.0001, "nodata": 0, "sensor": "Sentinel-2 L2A"}
            (stage / "scene.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            for path in (stage / "before.tif", stage / "after.tif", stage / "scene.json"):
                path.replace(folder / path.name)
    except RasterioError as error:
        raise SceneError(
            f"the images cannot be read from {settings.api}: {error}; try again, or run `tuban demo`"
        ) from error
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}; choose a writable folder with --out") from error
    items = [str(item["id"]) for item in chosen]
    return {"before": folder / "before.tif", "after": folder / "after.tif", "items": items, "source": settings.api}


def _search(settings: LiveSettings, span: str) -> Sequence[dict[str, Any]]:
    """Ask the STAC API for the items of one span of dates."""
    try:
        from pystac_client import Client
        from pystac_client.exceptions import APIError
        from requests.exceptions import RequestException
    except ImportError as error:
        raise MissingExtraError("--live needs pystac-client; pip install 'tuban[stac]'") from error
    remedy = "check the network, or run `tuban demo` without --live, which is offline"
    try:
        found = Client.open(settings.api, timeout=30).search(
            collections=[settings.collection],
            bbox=settings.bbox,
            datetime=span,
            query={"eo:cloud_cover": {"lt": settings.max_cloud}},
            max_items=settings.max_items,
        )
        return list(found.items_as_dicts())
    except (APIError, RequestException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SceneError(f"{settings.api} cannot be reached ({reason}); {remedy}") from error


def _tile(item: dict[str, Any]) -> str:
    facts = item["properties"]
    return str(facts.get("grid:code") or facts.get("s2:mgrs_tile") or str(item["id"]).split("_")[1])


def _cloud(item: dict[str, Any]) -> tuple[float, str]:
    return float(item["properties"].get("eo:cloud_cover", 100.0)), str(item["id"])


def _choose(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], settings: LiveSettings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the least cloudy item of each span on the tile where the two together are least cloudy."""
    pairs = []
    for tile in sorted({_tile(item) for item in before} & {_tile(item) for item in after}):
        first, second = (min((i for i in items if _tile(i) == tile), key=_cloud) for items in (before, after))
        pairs.append((_cloud(first)[0] + _cloud(second)[0], tile, first, second))
    if not pairs:
        raise PairError(
            f"no tile has an image below {settings.max_cloud:g} % cloud in both {settings.before} and "
            f"{settings.after}; "
            "widen the dates or max_cloud in configs/demo.yaml"
        )
    best = min(pairs, key=lambda pair: pair[:2])
    return best[2], best[3]


def _clip(item: dict[str, Any], path: Path, settings: LiveSettings) -> str:
    """Write the box of one item as uint16 reflectance x 10000 and return its date."""
    source = path.with_suffix(".json")
    source.write_text(json.dumps(item), encoding="utf-8")
    with Scene.open(source) as scene:
        missing = scene.missing(BANDS)
        if missing or scene.date is None:
            raise SceneError(f"item {item['id']} lacks {', '.join(missing) or 'its date'}; choose another collection")
        area = _window(scene, settings)
        profile = {
            "driver": "GTiff",
            "dtype": "uint16",
            "count": len(BANDS),
            "height": int(area.height),
            "width": int(area.width),
            "crs": scene.crs,
            "transform": scene.transform @ Affine.translation(area.col_off, area.row_off),
            "nodata": 0,
            "tiled": True,
            "compress": "deflate",
            "predictor": 2,
        }
        with rasterio.open(path, "w", **profile) as target:
            target.descriptions, target.scales = BANDS, [1e-4] * len(BANDS)
            for top in range(0, int(area.height), BLOCK):
                rows = min(BLOCK, int(area.height) - top)
                part = Window(area.col_off, area.row_off + top, area.width, rows)
                values, valid = scene.read(part, BANDS)
                stored = np.clip(np.rint(values * 10_000), 1, 65_535).astype(np.uint16)  # 0 is nodata
                target.write(np.where(valid, stored, 0), window=Window(0, top, area.width, rows))
        return scene.date.isoformat()


def _window(scene: Scene, settings: LiveSettings) -> Window:
    bounds = transform_bounds("EPSG:4326", scene.crs, *settings.bbox)
    area = from_bounds(*bounds, transform=scene.transform)
    left, top = max(0, math.floor(area.col_off)), max(0, math.floor(area.row_off))
    right = min(scene.width, math.ceil(area.col_off + area.width))
    bottom = min(scene.height, math.ceil(area.row_off + area.height))
    if left >= right or top >= bottom:
        raise PairError(f"the image does not reach the box {settings.bbox}; correct bbox in configs/demo.yaml")
    return Window(left, top, right - left, bottom - top)
