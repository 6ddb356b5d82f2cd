"""Model bundles: a folder of weights and the `mlm.json` that says what they need and what they are worth.

`mlm.json` is a STAC Item with the Machine Learning Model extension, so that other tools can read it; what tuban
itself needs stands beside it in `tuban:*` properties. Nothing in a bundle is ever unpickled or executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tuban.errors import ModelError, UsageError
from tuban.models.bundle_spec import BundleSpec, first_fault

__all__ = [
    "MLM_NAME", "ONNX_NAME", "SEARCH_VARIABLE", "SHA256_MULTIHASH", "WEIGHTS_NAME",
    "Bundle", "BundleSpec", "choose", "installed", "resolve", "sha256_of",
]  # fmt: skip

MLM_NAME = "mlm.json"
ONNX_NAME = "model.onnx"
WEIGHTS_NAME = "model.safetensors"
SEARCH_VARIABLE = "TUBAN_MODELS"
# `file:checksum` is a multihash: 0x12 = SHA-256, 0x20 = 32 bytes.
SHA256_MULTIHASH = "1220"


class Bundle(BundleSpec):
    """A model bundle on disk whose files were checked against their hashes.

    Attributes:
        path: the folder.
        weights_sha256: SHA-256 of `model.safetensors`, or of `model.onnx` where a bundle has no safetensors.
        onnx_sha256: SHA-256 of `model.onnx`.
    """

    path: Path
    weights_sha256: str
    onnx_sha256: str

    @property
    def reach(self) -> int:
        """Smallest halo with which tiles agree exactly, a multiple of the stride."""
        measured = self.halo if self.receptive_reach is None else self.receptive_reach
        return -(-measured // self.stride) * self.stride

    def exact(self, halo: int) -> bool:
        """Return whether tiles with that halo, in pixels, agree exactly; False where the reach is not known."""
        return self.receptive_reach is not None and halo >= self.reach

    @property
    def model_id(self) -> str:
        """Name, version and the first twelve digits of the weights' hash: what results are signed with."""
        return f"{self.name}@{self.version}+{self.weights_sha256[:12]}"

    @property
    def onnx_path(self) -> Path:
        """The ONNX graph."""
        return self.path / ONNX_NAME

    @property
    def weights_path(self) -> Path:
        """The safetensors weights (may be absent from an imported bundle)."""
        return self.path / WEIGHTS_NAME

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Read `mlm.json` and check every weights file against it.

        Args:
            folder: the bundle's folder.

        Raises:
            ModelError: a file is missing, is not what `mlm.json` says, or `mlm.json` is incomplete.
        """
        path = Path(folder).absolute()
        item = _read_item(path / MLM_NAME)
        properties = {key: value for key, value in item["properties"].items() if key.startswith("tuban:")}
        hashes = {name: _checked(path, name, item["assets"].get(name)) for name in (WEIGHTS_NAME, ONNX_NAME)}
        onnx = hashes[ONNX_NAME]
        if onnx is None:
            raise ModelError(f"{path} has no {ONNX_NAME}; export the model again or copy the whole bundle")
        try:
            return cls.model_validate(
                {**properties, "path": path, "onnx_sha256": onnx, "weights_sha256": hashes[WEIGHTS_NAME] or onnx}
            )
        except ValidationError as error:
            raise ModelError(f"{path / MLM_NAME}: {first_fault(error)}; export the bundle again") from error

    def misfit(self, bands: tuple[str, ...] | list[str], gsd_m: float) -> str:
        """Return what keeps a scene of these bands and ground sampling distance from this model, or ''."""
        reasons = []
        if missing := [band for band in self.required_bands if band not in bands]:
            reasons.append(f"the scene lacks {', '.join(missing)}")
        low, high = self.gsd_m
        # The measured GSD of a geographic grid is a fraction off the nominal one, so 1 % is let pass.
        if not low * 0.99 <= gsd_m <= high * 1.01:
            reasons.append(f"its pixels are {gsd_m:.3g} m and the model is made for {low:g} to {high:g} m")
        return " and ".join(reasons)


def _read_item(path: Path) -> dict[str, Any]:
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent} is no model bundle: it has no {path.name}; give a bundle's folder") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); restore the bundle from its source") from error
    if not (
        isinstance(item, dict) and isinstance(item.get("properties"), dict) and isinstance(item.get("assets"), dict)
    ):
        raise ModelError(f"{path} is no STAC item: it needs `properties` and `assets`; restore the bundle")
    return item


def _checked(folder: Path, name: str, asset: Any) -> str | None:
    """Return the SHA-256 of `folder/name` after checking it, or None where the bundle has no such file."""
    path = folder / name
    if asset is None:
        if path.exists():
            raise ModelError(f"{path} is not listed in {MLM_NAME}, so it cannot be checked; export the bundle again")
        return None
    recorded = asset.get("file:checksum") if isinstance(asset, dict) else None
    if not isinstance(recorded, str) or not recorded.startswith(SHA256_MULTIHASH):
        raise ModelError(f"{folder / MLM_NAME} has no SHA-256 file:checksum for {name}; export the bundle again")
    expected, actual = recorded.removeprefix(SHA256_MULTIHASH), sha256_of(path)
    if actual != expected:
        raise ModelError(f"{path} is damaged: SHA-256 {actual[:12]}…, expected {expected[:12]}…; restore the bundle")
    return actual


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a weights file as 64 hexadecimal digits.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); restore the bundle") from error


def installed() -> list[Bundle]:
    """Return the bundles shipped with tuban and those in the folders of `$TUBAN_MODELS`, sorted by name.

    A folder of `$TUBAN_MODELS` is a bundle or holds bundles; of two bundles of one name the user's wins.

    Raises:
        ModelError: a bundle is damaged, or `$TUBAN_MODELS` names a folder that does not exist.
    """
    with as_file(files("tuban.models").joinpath("zoo")) as zoo:
        roots = [zoo] if zoo.is_dir() else []
    for text in filter(None, os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep)):
        if not Path(text).is_dir():
            raise ModelError(f"{SEARCH_VARIABLE} names {text}, which is no folder; correct or unset it")
        roots.append(Path(text))
    found: dict[str, Bundle] = {}
    for root in roots:
        for manifest in sorted([*root.glob(MLM_NAME), *root.glob(f"*/{MLM_NAME}")]):
            bundle = Bundle.load(manifest.parent)
            found[bundle.name] = bundle
    return [found[name] for name in sorted(found)]


def choose(
    bands: tuple[str, ...] | list[str], gsd_m: float, *, task: Literal["change", "landcover"] = "change"
) -> Bundle:
    """Return the installed bundle that fits a scene best: most of its bands present, then the narrowest GSD range.

    Args:
        bands: canonical names of the bands both scenes have.
        gsd_m: ground sampling distance in metres.
        task: what the bundle must do.

    Raises:
        UsageError: no bundle fits; names the nearest and what is missing.
    """
    candidates = [bundle for bundle in installed() if bundle.task == task]
    if not candidates:
        raise UsageError(f"no model bundle for {task} is installed; give --model FOLDER or set {SEARCH_VARIABLE}")
    fitting = [bundle for bundle in candidates if not bundle.misfit(bands, gsd_m)]
    if not fitting:
        nearest = min(candidates, key=lambda bundle: _distance(bundle, bands, gsd_m))
        raise UsageError(
            f"no installed model fits: the nearest is {nearest.name}, but {nearest.misfit(bands, gsd_m)}; "
            "give images that fit it or another bundle with --model"
        )
    return min(fitting, key=lambda b: (-len(set(b.bands) & set(bands)), b.gsd_m[1] / b.gsd_m[0], b.name))


def _distance(bundle: Bundle, bands: tuple[str, ...] | list[str], gsd_m: float) -> tuple[int, float, str]:
    missing = len(set(bundle.required_bands) - set(bands))
    low, high = bundle.gsd_m
    return missing, max(math.log(low / gsd_m), math.log(gsd_m / high), 0.0), bundle.name


def resolve(name_or_folder: str | os.PathLike[str], *, task: Literal["change", "landcover"] | None = None) -> Bundle:
    """Return the bundle of that folder, or the installed bundle of that name.

    Args:
        name_or_folder: a folder, or a name.
        task: what it must do; None takes any.

    Raises:
        ModelError: the folder's bundle is damaged.
        UsageError: neither a folder nor an installed name, or a bundle for another task.
    """
    bundle = Bundle.load(name_or_folder) if Path(name_or_folder).is_dir() else _named(os.fspath(name_or_folder))
    if task is not None and bundle.task != task:
        raise UsageError(f"{name_or_folder} is a bundle for {bundle.task}, not for {task}; give another --model")
    return bundle


def _named(name: str) -> Bundle:
    bundles = {bundle.name: bundle for bundle in installed()}
    if name not in bundles:
        known = ", ".join(bundles) or "none"
        raise UsageError(f"no model {name!r}: neither a folder nor installed (installed: {known})")
    return bundles[name]
