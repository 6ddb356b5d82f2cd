"""The model for a pair: chosen, its misfits said, and the pair brought into its units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuban.data.classes import classes
from tuban.errors import ModelError
from tuban.inference.units import rescale
from tuban.models.bundle import Bundle, choose, resolve
from tuban.postprocess.baseline_class import tells_classes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tuban.data.pair import Pair
    from tuban.data.plan import Plan
    from tuban.data.scene import Scene
    from tuban.postprocess.manifest import Manifest


def model_for(pair: Pair, name: str | None) -> Bundle:
    """Return the bundle of that name or folder; None chooses the installed one that fits the pair.

    Raises:
        ModelError: the pair lacks a band that the bundle requires, or none fits.
    """
    bands = tuple(pair.radiometry_names)
    if name is None:
        return choose(bands, pair.before.gsd_m)
    bundle = resolve(name, task="change")
    lacking = [band for band in bundle.required_bands if band not in bands]
    if lacking:
        raise ModelError(
            f"{bundle.name} needs the bands {', '.join(lacking)}, which the pair lacks (it has {', '.join(bands)}); "
            "give images with these bands, or another --model"
        )
    return bundle


def misfits(bundle: Bundle, names: Sequence[str], scene: Scene) -> Iterator[str]:
    """Yield what about the images is not as the model was trained.

    Args:
        bundle: the model.
        names: bands that the images have.
        scene: the image, or the earlier of two; tells pixel size and units.
    """
    if lacking := [band for band in bundle.bands if band not in names]:
        yield (
            f"{bundle.name} was run without the bands {', '.join(lacking)}, which the images lack: less accurate, "
            "see its model card"
        )
    low, high = bundle.gsd_m
    if not low <= scene.gsd_m <= high:
        yield (
            f"pixels of {scene.gsd_m:.1f} m are outside the {low:g}–{high:g} m that {bundle.name} was made for: "
            "its measurements do not cover the results"
        )
    if bundle.units == "byte" and scene.radiometry == "reflectance":
        yield (
            f"{bundle.name} was made for 8-bit colour and reads reflectance here, which is darker: its measurements "
            "do not cover the results"
        )


def in_model_units(pair: Pair, bundle: Bundle, manifest: Manifest) -> Any:
    """Return what the model reads: the pair, or where its values are no reflectance the rescaled pair, and say so."""
    if pair.before.radiometry == "reflectance":
        return pair
    rescaled = rescale(pair, bundle)
    manifest.set("rescaled", {"gain": rescaled.gain, "offset": rescaled.offset, "guessed": rescaled.guessed})
    if rescaled.guessed:
        manifest.note(
            "model",
            "values are no reflectance: each band's median and spread were mapped onto the model's training statistics "
            "(a guess about units; confidence is not calibrated for it)",
        )
    return rescaled


def told_by(bundle: Bundle, plan: Plan | None) -> Iterator[str]:
    """Yield what a bundle without land cover leaves open, and what stands in for it."""
    if bundle.classes:
        return
    before = (
        "the class before is that of the plan's baseline layer"
        if tells_classes(plan)
        else "what the land was before is unknown, for there is no plan with a baseline layer of known land-use codes"
    )
    after = "what it became is unknown, so no rule about a class can apply"
    if bundle.change_to_classes:
        name = classes()[bundle.change_to_classes[0]].name
        after = f"what it became is assumed to be {name}, which the labels of the model assert"
    yield f"{bundle.name} tells change and no land cover: {before}; {after}"


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """Return the entry `model` of run.json."""
    return {
        "id": bundle.model_id,
        "name": bundle.name,
        "version": bundle.version,
        "weights_sha256": bundle.weights_sha256,
        "onnx_sha256": bundle.onnx_sha256,
        "threshold": bundle.threshold,
        "bands": list(bundle.bands),
        "landcover": bool(bundle.classes),
    }
