"""One scene to a land-cover map and its polygons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from rasterio.windows import Window

from tuban.data.cloud_mask import CloudMask, CloudSettings
from tuban.data.identity import identity
from tuban.data.mask_files import MaskRef
from tuban.data.scene import Scene, SceneSettings
from tuban.errors import ModelError, SceneError, UsageError
from tuban.inference.clouds import CsMask
from tuban.inference.landcover import SceneReader, predict_landcover
from tuban.inference.predict import JOURNAL
from tuban.inference.settings import InferenceSettings
from tuban.models.bundle import Bundle, choose, resolve
from tuban.postprocess.fitting import misfits
from tuban.postprocess.manifest import Manifest
from tuban.postprocess.staging import staged
from tuban.postprocess.vectorize import vectorize
from tuban.postprocess.vectorize_settings import VectorizeSettings

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable


class LandcoverSettings(BaseModel):
    """Everything `tuban landcover` can be told beyond its options; filled by `configs/landcover.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scene: SceneSettings = SceneSettings()
    clouds: CloudSettings = CloudSettings()
    inference: InferenceSettings = InferenceSettings()
    vectorize: VectorizeSettings = VectorizeSettings()


def landcover(
    image: str | Path,
    *,
    out: str | Path,
    model: str | None = None,
    date: str | dt.date | None = None,
    settings: LandcoverSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Map the land cover of one image.

    Args:
        image: anything rasterio opens, or a STAC item.
        out: folder of `landcover.tif`, `confidence.tif`, `landcover.gpkg` and `run.json`; they appear together.
        model: name or folder of a land-cover bundle; None chooses the installed one that fits.
        date: date of the image, where its metadata lack one.
        settings: everything else.
        progress: called with stage, done and total.

    Returns:
        The content of `run.json`, with `out` added.

    Raises:
        TubanError: whatever is wrong with the input, the model or the output; nothing is left under a final name.
    """
    settings = settings or LandcoverSettings()
    if settings.inference.keep_going:
        tolerant = settings.scene.model_copy(update={"tolerate_damage": True})
        settings = settings.model_copy(update={"scene": tolerant})
    manifest = Manifest("landcover", {"model": model, "settings": settings})
    out = Path(out)
    with staged(out, (image,)) as work, Scene.open(image, date=date, settings=settings.scene) as scene:
        bundle = _bundle(model, scene)
        remote = settings.scene.remote
        manifest.add_input("image", str(image), remote=remote)
        mask = _mask(scene, settings, work)
        manifest.set("scene", _scene_facts(scene, mask))
        manifest.set("model", {"id": bundle.model_id, "name": bundle.name, "weights_sha256": bundle.weights_sha256})
        manifest.note_all("scene", scene.notes)
        if mask is None and settings.clouds.source == "auto":
            manifest.note("scene", "no cloud mask was found, so clouds and shadows are not masked")
        manifest.note_all("model", misfits(bundle, scene.names, scene))
        with manifest.timed("inference"):
            made = predict_landcover(
                SceneReader(scene, mask),
                bundle,
                work,
                settings=settings.inference,
                identity={"image": identity(str(image), remote), "scene": _scene_facts(scene, mask)},
                resume=out / JOURNAL,
                progress=None if progress is None else lambda done, total: progress("inference", done, total),
            )
        manifest.set("inference", made.details)
        manifest.set_volatile("inference", {"resume": list(made.history), "trial": made.trial})
        manifest.note_all("inference", made.notes)
        with manifest.timed("vectorize"):
            summary = vectorize(
                made.paths["landcover"], work / "landcover.gpkg", settings.vectorize, layer="landcover"
            ).as_dict()
        manifest.set("polygons", {key: value for key, value in summary.items() if key != "path"})
        valid = made.tally.valid_px
        manifest.set(
            "counts",
            {
                "valid_px": valid,
                "nodata_px": made.total_px - valid,
                "unseen_px": made.tally.unseen_px,
                "damaged_blocks": len(made.tally.damage),
            },
        )
        for path in sorted(work.iterdir()):
            manifest.add_output(path)
        manifest.write(work)
        record: dict[str, Any] = json.loads((work / "run.json").read_text(encoding="utf-8"))
    if not made.tally.damage:
        shutil.rmtree(out / JOURNAL, ignore_errors=True)
    return {**record, "out": str(out)}


def _bundle(model: str | None, scene: Scene) -> Bundle:
    bundle = choose(scene.names, scene.gsd_m, task="landcover") if model is None else resolve(model, task="landcover")
    if scene.radiometry != "reflectance" and not (bundle.units == "byte" and scene.eight_bit):
        raise SceneError(
            f"{scene.path} holds numbers without a scale, which {bundle.name} cannot read; give scale and offset in "
            "scene.json, or an image in reflectance"
        )
    if lacking := [band for band in bundle.required_bands if band not in scene.names]:
        raise ModelError(
            f"{bundle.name} needs the bands {', '.join(lacking)}, which the image lacks (it has "
            f"{', '.join(scene.names)}); give an image with these bands, or another --model"
        )
    return bundle


def _mask(scene: Scene, settings: LandcoverSettings, work: Path) -> CloudMask | None:
    """Open the cloud mask that is asked for, or the scene's own."""
    chosen = settings.clouds
    if chosen.mask_after is not None:
        raise UsageError(f"clouds.mask_after={chosen.mask_after}: there is one image; name its mask clouds.mask_before")
    ref: MaskRef | None = None
    if chosen.mask_before is not None:
        ref = MaskRef(chosen.mask_before, None if chosen.kind == "auto" else chosen.kind, "option mask_before")
    elif chosen.source == "csmask":
        ref = CsMask(work, level=chosen.level)(scene, Window(0, 0, scene.width, scene.height), "image")
    elif chosen.source != "none":
        ref = scene.mask
        if ref is None and chosen.source == "own":
            raise SceneError(
                f"{scene.path}: no cloud mask in it or beside it; give clouds.mask_before, or set clouds.source"
            )
    return None if ref is None else CloudMask.open(ref, chosen, settings.scene.remote)


def _scene_facts(scene: Scene, mask: CloudMask | None) -> dict[str, Any]:
    return {
        "date": scene.date.isoformat() if scene.date else None,
        "sensor": scene.sensor,
        "gsd_m": round(scene.gsd_m, 3),
        "crs": scene.crs.to_string(),
        "height": scene.height,
        "width": scene.width,
        "bands": list(scene.names),
        "clouds": None if mask is None else mask.summary(),
    }
