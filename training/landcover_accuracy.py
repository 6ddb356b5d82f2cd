"""Land cover measured against confident Dynamic World pixels, which are weak labels: agreement, not accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.windows import Window

from tuban.data.classes import classes
from tuban.errors import SceneError
from tuban.training.accuracy import bootstrap
from tuban.training.confusion import Confusion, macro_f1
from tuban.training.predicted_place import confident_classes, landcover_strips

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle

DATES = ("before", "after")


def labelled_images(folder: Path) -> list[tuple[Path, Path]]:
    """Return the images of a place that have a land-cover label, each with its label."""
    pairs = [(folder / f"{date}.tif", folder / f"{date}_dynamicworld.tif") for date in DATES]
    return [(image, label) for image, label in pairs if image.is_file() and label.is_file()]


def landcover_summary(
    bundle: Bundle,
    folders: Sequence[Path],
    settings: InferenceSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Run a land-cover bundle on both dates of every place and compare it with the labels, strip by strip.

    Args:
        bundle: for land cover.
        folders: places with `<date>_dynamicworld.tif`.
        settings: how inference runs.
        progress: called with stage, done and total places.

    Returns:
        Measures by class, macro F1 with its interval over places, and the same by place. JSON-ready.

    Raises:
        SceneError: no place has labels, or a label does not lie on its image's grid.
    """
    folders = [folder for folder in folders if labelled_images(folder)]
    if not folders:
        raise SceneError("no place has a before_dynamicworld.tif or after_dynamicworld.tif to measure against")
    names = [classes()[value].name for value in bundle.classes]
    total = Confusion(names, bundle.classes)
    places: dict[str, Confusion] = {}
    for number, folder in enumerate(folders):
        places[folder.name] = Confusion(names, bundle.classes)
        for image, label in labelled_images(folder):
            row = 0
            with rasterio.open(label) as source:
                for mapped in landcover_strips(bundle, image, settings):
                    truth = confident_classes(source, Window(0, row, mapped.shape[1], mapped.shape[0]))
                    total.add(mapped, truth)
                    places[folder.name].add(mapped, truth)
                    row += mapped.shape[0]
        if progress is not None:
            progress("evaluate", number + 1, len(folders))
    matrices = np.stack([place.matrix() for place in places.values()])

    def f1(index: NDArray[np.int64]) -> float:
        return macro_f1(matrices[index].sum(axis=0))

    low, high = bootstrap(len(matrices), f1, draws=500)
    return {
        "model": bundle.model_id,
        "task": "landcover",
        "against": "weak labels (Dynamic World) of at least 60 % confidence: agreement, not accuracy",
        "pixels": total.pixels,
        "agreement": round(total.agreement(), 4),
        "macro_f1": round(total.macro_f1(), 4),
        "macro_f1_95": [round(low, 4), round(high, 4)],
        "classes": total.measures(),
        "matrix": {"classes": names, "rows": "labelled", "columns": "mapped", "pixels": total.matrix().tolist()},
        "places": {
            name: {
                "agreement": round(place.agreement(), 4),
                "macro_f1": round(place.macro_f1(), 4),
                "f1": {c: row["f1"] for c, row in place.measures().items() if row["support"]},
            }
            for name, place in places.items()
        },
    }
