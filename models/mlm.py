"""Writes `mlm.json`: the STAC Item with the Machine Learning Model extension that makes a folder a bundle.

References:
    STAC MLM extension 1.4.0, https://github.com/stac-extensions/mlm
    STAC file extension 2.1.0 (`file:checksum` is a multihash).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tuban.data.classes import classes as land_classes
from tuban.data.replacing import write_text
from tuban.errors import ModelError
from tuban.models.bundle import MLM_NAME, ONNX_NAME, SHA256_MULTIHASH, WEIGHTS_NAME, Bundle, BundleSpec, sha256_of

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
)
UNITS = {
    "reflectance": "reflectance (1.0 = all light reflected)",
    "byte": "8-bit numbers divided by 255",
}


def build_mlm(
    spec: BundleSpec,
    folder: Path,
    *,
    architecture: str,
    created: datetime,
    framework_version: str,
    framework: str = "PyTorch",
    parameters: int | None = None,
    pretrained_source: str | None = None,
) -> dict[str, Any]:
    """Return the content of `mlm.json` for the weights that lie in `folder`.

    Args:
        spec: what the model declares.
        folder: folder that already holds `model.onnx` (and `model.safetensors`).
        architecture: short description of the network, e.g. `siamese U-Net, EfficientNet-Lite0`.
        created: time-zone aware time of the export; the only thing that differs between two equal exports.
        framework_version: version of what the weights were made with.
        framework: what that is.
        parameters: number of parameters.
        pretrained_source: where the initial weights came from.

    Returns:
        A JSON-ready STAC Item.

    Raises:
        ModelError: `model.onnx` is missing, or `created` has no time zone.
    """
    if created.tzinfo is None:
        raise ModelError(f"created {created.isoformat()} has no time zone; give datetime.now(tz=UTC)")
    declared = {key: value for key, value in spec.model_dump(mode="json", by_alias=True).items() if key in _KEYS}
    properties: dict[str, Any] = {
        "datetime": created.isoformat(),
        "title": f"{spec.name} {spec.version}",
        "mlm:name": spec.name,
        "mlm:architecture": architecture,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": framework,
        "mlm:framework_version": framework_version,
        "mlm:accelerator": "amd64",
        "mlm:accelerator_constrained": False,
        "mlm:pretrained": pretrained_source is not None,
        "mlm:input": [_input(spec, name) for name in (("image",) if spec.task == "landcover" else ("before", "after"))],
        "mlm:output": _outputs(spec),
        **declared,
    }
    if pretrained_source is not None:
        properties["mlm:pretrained_source"] = pretrained_source
    if parameters is not None:
        properties["mlm:total_parameters"] = parameters
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": list(EXTENSIONS),
        "id": f"{spec.name}-{spec.version}",
        "geometry": None,  # the model is not bound to the places it was trained on; those stand in tuban:training
        "properties": properties,
        "links": [],
        "assets": _assets(folder),
    }


def write_mlm(
    spec: BundleSpec,
    folder: Path,
    *,
    architecture: str,
    created: datetime,
    framework_version: str,
    framework: str = "PyTorch",
    parameters: int | None = None,
    pretrained_source: str | None = None,
) -> Bundle:
    """Write `folder/mlm.json` and return the bundle as it will be loaded; arguments as for `build_mlm`.

    Raises:
        ModelError: `model.onnx` is missing, `created` has no time zone, or a number is not finite.
        OutputError: `mlm.json` cannot be written.
    """
    item = build_mlm(
        spec,
        folder,
        architecture=architecture,
        created=created,
        framework_version=framework_version,
        framework=framework,
        parameters=parameters,
        pretrained_source=pretrained_source,
    )
    try:
        text = json.dumps(item, ensure_ascii=False, indent=2, allow_nan=False)
    except ValueError as error:
        raise ModelError(
            f"{spec.name}: a number to declare is NaN or infinite; leave it away where it is not known"
        ) from error
    write_text(folder / MLM_NAME, text + "\n")
    return Bundle.load(folder)


_KEYS = frozenset(f"tuban:{field}" for field in BundleSpec.model_fields)


def _input(spec: BundleSpec, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "bands": list(spec.bands),
        "input": {
            "shape": [-1, len(spec.bands), spec.tile, spec.tile],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "description": (
            f"{'the scene' if name == 'image' else f'the scene {name}'}: {UNITS[spec.units]}; normalisation is inside "
            "the graph; NaN = invalid pixel or missing band; height and width may be any multiple of "
            f"{spec.stride}"
        ),
        "value_scaling": None,
        "resize_type": None,
    }


def _outputs(spec: BundleSpec) -> list[dict[str, Any]]:
    table = land_classes()
    named: list[dict[str, Any]] = [{"value": i, "name": table[value].name} for i, value in enumerate(spec.classes)]
    cover: dict[str, Any] = {"dim_order": ["batch", "classes", "height", "width"], "data_type": "float32"}
    change: dict[str, Any] = {"dim_order": ["batch", "height", "width"], "data_type": "float32"}
    names = ["landcover"] if spec.task == "landcover" else ["landcover_before", "landcover_after"]
    covers: list[dict[str, Any]] = [
        {
            "name": name,
            "tasks": ["semantic-segmentation"],
            "result": {"shape": [-1, len(spec.classes), spec.tile, spec.tile], **cover},
            "description": f"probability of each land-cover class {name.removeprefix('landcover').strip('_')}".strip(),
            "classification:classes": named,
        }
        for name in names
        if spec.classes
    ]
    if spec.task == "landcover":
        return covers
    return [
        *covers,
        {
            "name": "change",
            "tasks": ["semantic-segmentation"],
            "result": {"shape": [-1, spec.tile, spec.tile], **change},
            "description": f"calibrated probability of change; a change from {spec.threshold:g}",
            "classification:classes": [{"value": 0, "name": "unchanged"}, {"value": 1, "name": "changed"}],
        },
    ]


def _assets(folder: Path) -> dict[str, Any]:
    kinds = {
        ONNX_NAME: ("application/octet-stream; framework=onnx", "onnx"),
        WEIGHTS_NAME: ("application/octet-stream; framework=safetensors", "safetensors.torch.save_file"),
    }
    assets = {}
    for name, (media_type, artifact) in kinds.items():
        path = folder / name
        if name != ONNX_NAME and not path.exists():
            continue
        assets[name] = {
            "href": f"./{name}",
            "type": media_type,
            "title": name,
            "roles": ["mlm:model"],
            "mlm:artifact_type": artifact,
            "file:checksum": SHA256_MULTIHASH + sha256_of(path),
            "file:size": path.stat().st_size,
        }
    return assets
