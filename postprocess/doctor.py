"""`tuban doctor`: what is installed, what works here, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pyogrio
import pyproj
import rasterio
from packaging.requirements import InvalidRequirement, Requirement
from pyproj.exceptions import CRSError, ProjError
from rasterio.env import GDALVersion

import tuban
from tuban.errors import TubanError
from tuban.inference.backends import OnnxBackend, open_backend
from tuban.inference.backends.onnx import PROVIDERS, offered
from tuban.models.bundle import installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tuban.inference.backends import BackendName

NEEDED_MB = 2048
"""Free space below which a county-sized run may not finish."""

VECTOR_DRIVERS = {
    "GPKG": "results cannot be written",
    "ESRI Shapefile": "Shapefiles cannot be read or written",
    "OpenFileGDB": "File GDBs cannot be read or written",
    "GeoJSON": "GeoJSON cannot be exported",
    "KML": "KML cannot be exported",
    "Parquet": "only plan layers in GeoParquet need it, its export goes through pyarrow",
}
RASTER_DRIVERS = {
    "GTiff": "nothing works without it",
    "COG": "results cannot be written",
    "JP2OpenJPEG": "Sentinel-2 JP2 files cannot be opened; convert them to GeoTIFF",
    "VRT": "pairs cannot be warped",
}
OPTIONAL_DRIVERS = {"Parquet", "JP2OpenJPEG", "KML"}


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the diagnosis.

    Attributes:
        name: what was looked at.
        ok: whether it works.
        required: False where tuban does its main work without it.
        detail: what was found.
        remedy: what to do when it does not work, else empty.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = True

    def row(self) -> dict[str, Any]:
        """Return the check, JSON-ready."""
        return asdict(self)


def diagnose(folder: str | Path | None = None) -> list[Check]:
    """Look at everything tuban needs and return one row for each thing, in a fixed order.

    Args:
        folder: where results are to go; the default is the system's folder for temporary files.

    Returns:
        The rows; the installation is healthy when every required one is ok.
    """
    groups: tuple[Callable[[], Iterator[Check]], ...] = (_versions, _drivers, _projections, _backends, _extras, _models)
    return [check for group in groups for check in group()] + list(_disk(Path(folder or tempfile.gettempdir())))


def healthy(checks: list[Check]) -> bool:
    """Return whether every required check is ok."""
    return all(check.ok for check in checks if check.required)


def _versions() -> Iterator[Check]:
    enough = sys.version_info >= (3, 11)
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Check("python", enough, detail, "" if enough else "install Python 3.11 or newer")
    yield Check("tuban", True, f"{tuban.__version__} in {Path(tuban.__file__).parent}")
    yield Check("processor", True, f"{os.cpu_count()} cores, numpy {np.__version__}")
    gdal = rasterio.__gdal_version__
    vector = ".".join(map(str, pyogrio.__gdal_version__))
    enough = GDALVersion.parse(gdal) >= GDALVersion.parse("3.9")
    remedy = "" if enough else "pip install 'rasterio>=1.4', which brings GDAL 3.9"
    yield Check("gdal", enough, f"rasters {gdal}, vectors {vector}", remedy)


def _drivers() -> Iterator[Check]:
    with rasterio.Env() as environment:
        rasters = environment.drivers()
    vectors = pyogrio.list_drivers()
    for name, effect in RASTER_DRIVERS.items():
        yield _driver(name, name in rasters, effect, "rasterio")
    for name, effect in VECTOR_DRIVERS.items():
        yield _driver(name, "r" in vectors.get(name, ""), effect, "pyogrio")


def _driver(name: str, ok: bool, effect: str, package: str) -> Check:
    remedy = "" if ok else f"{effect}; otherwise use a {package} whose GDAL has the driver"
    return Check(f"driver {name}", ok, "available" if ok else "missing", remedy, required=name not in OPTIONAL_DRIVERS)


def _projections() -> Iterator[Check]:
    try:
        transformer = pyproj.Transformer.from_crs("EPSG:4490", "EPSG:4547", always_xy=True)
        x, y = transformer.transform(114.0, 30.0)
    except (CRSError, ProjError) as error:
        yield Check(
            "proj", False, f"{pyproj.proj_version_str}: {error}", "unset PROJ_DATA and PROJ_LIB, or reinstall pyproj"
        )
        return
    # On the central meridian the easting is 500 km by definition; the northing is the meridian's length at scale 1.
    expected = pyproj.Geod(a=6378137, rf=298.257222101).inv(114.0, 0.0, 114.0, 30.0)[2]
    ok = bool(abs(x - 500_000) < 1e-3 and abs(y - expected) < 1e-3)
    remedy = "" if ok else "the PROJ database is damaged: reinstall pyproj"
    yield Check("proj", ok, f"{pyproj.proj_version_str}, CGCS2000 to 3-degree Gauss-Krueger within 1 mm", remedy)


def _backends() -> Iterator[Check]:
    """Run every backend that is installed once, on every device it claims to have."""
    providers = onnxruntime.get_available_providers()
    if PROVIDERS["cpu"] in providers:
        yield from _devices("onnx", f"onnxruntime {onnxruntime.__version__}", offered(), required=True)
    else:
        remedy = "pip install --force-reinstall onnxruntime"
        yield Check("onnxruntime", False, f"{onnxruntime.__version__}: {', '.join(providers)}", remedy)
    if find_spec("openvino") is None:
        remedy = "often faster on Intel processors: pip install 'tuban[openvino]'"
        yield Check("openvino", False, "not installed", remedy, required=False)
    else:
        from tuban.inference.backends.openvino import load

        openvino = load()
        there = {name.split(".")[0].lower() for name in openvino.Core().available_devices} & {"cpu", "gpu"}
        yield from _devices("openvino", f"openvino {openvino.__version__.split('-')[0]}", there)
    if find_spec("torch") is None:
        remedy = "only training and --backend torch need it: pip install 'tuban[train]'"
        yield Check("torch", False, "not installed", remedy, required=False)
        return
    import torch

    yield from _devices("torch", f"torch {torch.__version__}", {"cpu", *(["cuda"] * torch.cuda.is_available())})


def _devices(backend: BackendName, package: str, devices: Iterable[str], *, required: bool = False) -> Iterator[Check]:
    """Give one row a device; the CPU's decides whether the backend works at all."""
    name, version_text = package.split()
    for device in sorted(devices):
        ok, detail = _tried(backend, device)
        yield Check(
            name if device == "cpu" else f"{name} on {device}",
            ok,
            f"{version_text}, {device}: {detail}",
            "" if ok else f"reinstall {name} and what it needs, or use another --backend",
            required=required and device == "cpu",
        )


def _tried(backend: BackendName, device: str) -> tuple[bool, str]:
    """Run the first installed bundle on a blank window; return whether it ran, and what to say."""
    try:
        bundle = installed()[0]
        inputs = OnnxBackend(bundle, threads=1, device="cpu").inputs
    except (TubanError, IndexError):
        return True, "not tried, for there is no sound model to run"  # which has its own row
    try:
        blank = np.zeros((1, len(bundle.bands), 64, 64), np.float32)
        open_backend(backend, bundle, device=device, sample=dict.fromkeys(inputs, blank))  # type: ignore[arg-type]
    except TubanError as error:
        return False, str(error)
    return True, f"ran {bundle.name}"


def _extras() -> Iterator[Check]:
    """Compare what each extra asks for with what is installed."""
    wanted: dict[str, list[Requirement]] = {}
    try:
        lines = requires("tuban") or []
    except PackageNotFoundError:
        yield Check("extras", False, "tuban runs from a folder", "install it: pip install -e .", required=False)
        return
    for line in lines:
        requirement = Requirement(line)
        for extra in sorted(metadata("tuban").get_all("Provides-Extra") or ()):
            optional = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
            if optional and requirement.marker is not None and requirement.marker.evaluate({"extra": extra}):
                wanted.setdefault(extra, []).append(requirement)
    for extra, requirements in wanted.items():
        lacking = [str(need.name) + str(need.specifier) for need in requirements if not _met(need)]
        detail = f"missing {', '.join(lacking)}" if lacking else "complete"
        remedy = f"pip install 'tuban[{extra}]'" if lacking else ""
        yield Check(f"extra {extra}", not lacking, detail, remedy, required=False)


def _met(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except (PackageNotFoundError, InvalidRequirement):
        return False


def _models() -> Iterator[Check]:
    try:
        bundles = installed()
    except TubanError as error:
        yield Check("models", False, str(error), "restore the bundle, or unset TUBAN_MODELS")
        return
    names = ", ".join(f"{bundle.name} {bundle.version} ({', '.join(bundle.bands)})" for bundle in bundles)
    remedy = "" if bundles else "reinstall tuban, or point TUBAN_MODELS at a folder of bundles"
    yield Check("models", bool(bundles), names or "none installed", remedy)


def _disk(folder: Path) -> Iterator[Check]:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"tuban")
            file.flush()
        free = shutil.disk_usage(folder).free // 2**20
    except OSError as error:
        yield Check("disk", False, f"{folder}: {error.strerror or error}", "choose a writable folder, or set TMPDIR")
        return
    remedy = "" if free >= NEEDED_MB else f"free at least {NEEDED_MB} MB, or write elsewhere"
    yield Check("disk", free >= NEEDED_MB, f"{folder} is writable, {free} MB free", remedy)
