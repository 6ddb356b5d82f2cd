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
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from tuban.data.classes import classes as land_classes
from tuban.errors import ModelError, UsageError

MLM_NAME = "mlm.json"
ONNX_NAME = "model.onnx"
WEIGHTS_NAME = "model.safetensors"
SEARCH_VARIABLE = "TUBAN_MODELS"
# `file:checksum` is a multihash: 0x12 = SHA-256, 0x20 = 32 bytes.
SHA256_MULTIHASH = "1220"

Positive = Annotated[int, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class BundleSpec(BaseModel):
    """What a bundle declares about its model: the `tuban:*` properties of `mlm.json`.

    Attributes:
        name: lowercase name, e.g. `s2-change`; also the name of the folder under `models/zoo`.
        version: version of the weights.
        bands: canonical band names in the order of the input channels.
        required_bands: the bands without which the model must not be used; the others may be missing (fed as NaN).
        gsd_m: smallest and largest ground sampling distance in metres the model was made for.
        mean: training mean per band, in the units of the input.
        std: training standard deviation per band, in the units of the input.
        classes: unified land-cover classes, in the order of the land-cover channels.
        change_to_classes: what a change may have become; the likeliest of these is a change's `to_class`.
        tile: side in pixels of the square the network is fed, its halo included.
        halo: pixels at each side of the tile whose output is discarded.
        receptive_reach: how far the network sees, in pixels; a halo at least as large makes tiles agree exactly.
            None: not measured; the halo is then taken for it.
        stride: origins and sizes of what is fed are multiples of this many pixels.
        task: `change` (two dates in, change and land cover of both out) or `landcover` (one date).
        network: what the network is rebuilt with beside bands and classes (`tuban.models.network.NetworkSpec`).
        threshold: calibrated probability from which a pixel counts as changed; of no use to a land-cover bundle.
        calibration: how probabilities were calibrated, and on what.
        metrics: what was measured, and on what.
        training: data, licences and parameters of the training.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, alias_generator=lambda field: f"tuban:{field}"
    )

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    version: Annotated[str, Field(min_length=1)]
    bands: Annotated[tuple[str, ...], Field(min_length=1)]
    required_bands: tuple[str, ...]
    gsd_m: tuple[Annotated[Finite, Field(gt=0)], Annotated[Finite, Field(gt=0)]]
    mean: tuple[Finite, ...]
    std: tuple[Annotated[Finite, Field(gt=0)], ...]
    classes: Annotated[tuple[Positive, ...], Field(min_length=1)]
    change_to_classes: tuple[Positive, ...] = ()
    tile: Positive
    halo: Annotated[int, Field(ge=0)]
    receptive_reach: Annotated[int, Field(ge=0)] | None = None
    stride: Positive
    task: Literal["change", "landcover"] = "change"
    network: dict[str, JsonValue] = Field(default_factory=dict)
    threshold: Annotated[float, Field(gt=0, lt=1)]
    calibration: dict[str, JsonValue] = Field(default_factory=dict)
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    training: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.bands)) != len(self.bands) or len(set(self.classes)) != len(self.classes):
            raise ValueError("bands and classes must not repeat")
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ValueError(f"mean and std need one number for each of the {len(self.bands)} bands")
        if strangers := set(self.required_bands) - set(self.bands):
            raise ValueError(f"required_bands {sorted(strangers)} are not among bands")
        if unknown := set(self.classes) - set(land_classes()):
            raise ValueError(f"classes {sorted(unknown)} are not unified classes (configs/classes.yaml)")
        if unknown := set(self.change_to_classes) - set(self.classes):
            raise ValueError(f"change_to_classes {sorted(unknown)} are not among classes")
        if self.gsd_m[0] > self.gsd_m[1]:
            raise ValueError("gsd_m must be [smallest, largest]")
        if self.tile % self.stride or self.halo % self.stride or self.tile <= 2 * self.halo:
            raise ValueError("tile and halo must be multiples of stride, and tile larger than twice the halo")
        return self


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
            raise ModelError(f"{path / MLM_NAME}: {_first(error)}; export the bundle again") from error

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


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    place = ".".join(str(part) for part in detail["loc"])
    return f"{place}: {detail['msg']}" if place else str(detail["msg"])


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
