"""A small generated pair with a plan, a model that answers exactly, and the command line run in this process."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio
import shapely
import yaml
from affine import Affine
from scipy import ndimage

from tuban.cli import app
from tuban.console import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest

CRS = "EPSG:4547"  # CGCS2000, 3 degree Gauss-Krueger, central meridian 114
SIDE = 128
# 90 km off the central meridian, so that planar areas are 2e-4 too large and a test can tell them apart.
TRANSFORM = Affine(10.0, 0.0, 590400.0, 0.0, -10.0, 3000600.0)
BANDS = ("B03", "B04")
# The pictures of the report cost more than all the rest; tests/postprocess/test_report.py looks at them.
QUICK = ("report.max_cards=1", "report.overview_px=200")
# Painted sites, (row, column, height, width) in pixels, and what stands there in the plan.
SITES = {
    "farmland": (16, 20, 12, 10),
    "permitted": (16, 60, 10, 10),
    "red line": (60, 24, 10, 12),
    "village": (70, 90, 10, 10),
    "outside": (100, 60, 8, 14),
}


def _stub_model() -> Any:
    """The model of the inference tests: change is the smoothed difference of the first band."""
    path = Path(__file__).parent / "inference" / "conftest.py"
    spec = importlib.util.spec_from_file_location("small_pair_stub", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def pixels(seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Return before and after, uint16 `(2, SIDE, SIDE)`, reflectance x 10000; the sites lose 0.5 of reflectance."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 1.5)
    texture = 0.05 * texture / texture.std()
    before = np.stack([0.62 + texture, 0.30 + 0.6 * texture])
    after = before + rng.normal(scale=0.002, size=before.shape)
    for row, column, height, width in SITES.values():
        after[0, row : row + height, column : column + width] = 0.10
    return tuple(np.clip(np.round(date * 10_000), 1, 60_000).astype(np.uint16) for date in (before, after))


def write_image(path: Path, values: np.ndarray, *, bands: Sequence[str] = BANDS, **profile: Any) -> Path:
    """Write a GeoTIFF with named, scaled bands; `profile` overrides anything (None removes)."""
    options = {
        "driver": "GTiff", "dtype": values.dtype, "count": len(values), "height": values.shape[1],
        "width": values.shape[2], "crs": CRS, "transform": TRANSFORM, "nodata": 0, "tiled": True, "blockxsize": 64,
        "blockysize": 64,
    } | profile  # fmt: skip
    with rasterio.open(path, "w", **{key: value for key, value in options.items() if value is not None}) as target:
        target.write(values)
        target.descriptions = tuple(bands)
        if values.dtype.kind in "iu":
            target.scales = [1e-4] * len(values)
    return path


def box_of(site: str, *, grow: float = 0) -> shapely.Polygon:
    """Return the outline of a site in map coordinates, grown by metres."""
    row, column, height, width = SITES[site]
    left, top = TRANSFORM @ (column, row)
    right, bottom = TRANSFORM @ (column + width, row + height)
    return shapely.box(left, bottom, right, top).buffer(grow, join_style="mitre")


def frame(shapes: Sequence[shapely.Geometry], **columns: Any) -> gpd.GeoDataFrame:
    """Return shapes in the pair's CRS with `BSM` and further columns."""
    return gpd.GeoDataFrame({"BSM": [f"n{i}" for i in range(len(shapes))], **columns}, geometry=list(shapes), crs=CRS)


def plan_layers() -> dict[str, gpd.GeoDataFrame]:
    """Return the plan's layers: basic farmland around two sites, a permit, a red line, a village in the boundary."""
    left, top = TRANSFORM @ (0, 0)
    right, bottom = TRANSFORM @ (SIDE, SIDE)
    village = box_of("village", grow=60)
    fields = shapely.box(left, bottom, right, top).difference(village)
    return {
        "YJJBNTTB": frame([shapely.union(box_of("farmland", grow=80), box_of("permitted", grow=80))]),
        "STBHHX": frame([box_of("red line", grow=100)]),
        "CZKFBJ": frame([village]),
        "DLTB": frame([fields, village], DLBM=["0103", "0702"], DLMC=["旱地", "农村宅基地"]),
        "ZZ_NYDZYFW": frame([box_of("permitted", grow=60)], PZWH=["批〔2023〕1号"], PZRQ=["2023-01-05"]),
    }


def write_plan(path: Path, layers: dict[str, gpd.GeoDataFrame] | None = None) -> Path:
    """Write layers into one GeoPackage."""
    for name, layer in (layers or plan_layers()).items():
        pyogrio.write_dataframe(
            layer, path, layer=name, driver="GPKG", geometry_type="MultiPolygon", promote_to_multi=True
        )
    return path


def write_plan_yaml(path: Path, **entries: dict[str, Any]) -> Path:
    """Write a plan.yaml, one entry a role."""
    layers = [{"role": role, **entry} for role, entry in entries.items()]
    path.write_text(yaml.safe_dump({"jurisdiction": "cn", "layers": layers}, allow_unicode=True), encoding="utf-8")
    return path


def write_pair(folder: Path, *, plan: bool = True) -> Path:
    """Write before.tif, after.tif, scene.json and plan.gpkg into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    before, after = pixels()
    write_image(folder / "before.tif", before)
    write_image(folder / "after.tif", after)
    dates = {"before": "2024-03-01", "after": "2024-09-01"}
    (folder / "scene.json").write_text(json.dumps(dates), encoding="utf-8")
    if plan:
        write_plan(folder / "plan.gpkg")
    return folder


@dataclass(frozen=True)
class Result:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The JSON object on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one error line; asserts that there is exactly one and no traceback."""
        lines = [line for line in self.err.splitlines() if not line.endswith("%")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0]


@dataclass(frozen=True)
class SmallPair:
    """A pair in a folder, the model for it, and the commands."""

    folder: Path
    model: Path
    capture: pytest.CaptureFixture[str]

    def tuban(self, *arguments: object) -> Result:
        """Run `tuban ARGUMENTS` in this process, as the console script does."""
        self.capture.readouterr()
        code = run(lambda: app([str(argument) for argument in arguments], standalone_mode=True))
        said = self.capture.readouterr()
        return Result(code, said.out, said.err)

    def detect(self, out: Path, *arguments: object, before: Any = None, after: Any = None, plan: Any = "") -> Result:
        """Run `tuban detect` on the pair; `plan=None` leaves the plan away."""
        plan = self.folder / "plan.gpkg" if plan == "" else plan
        given = ("--plan", plan) if plan is not None else ()
        scenes = (before or self.folder / "before.tif", after or self.folder / "after.tif")
        options = ("--model", self.model, "--json", *QUICK)
        return self.tuban("detect", *scenes, "--out", out, *options, *given, *arguments)


def findings(out: Path, layer: str = "findings") -> gpd.GeoDataFrame:
    """Read a layer of a run."""
    return pyogrio.read_dataframe(out / "findings.gpkg", layer=layer)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its bytes."""
    # The journal of a run that failed is kept on purpose: the next one goes on with it.
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".tuban-resume" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def make_model(folder: Path) -> Path:
    """Write the stub bundle."""
    stub: Callable[..., Any] = _stub_model().make_bundle
    stub(folder)
    return folder
