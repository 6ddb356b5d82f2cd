"""Land cover measured against the labels of a data set; against weak ones it is agreement, not accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.data.classes import classes
from tuban.training.accuracy import bootstrap
from tuban.training.confusion import Confusion, macro_f1
from tuban.training.labelled import against, with_cover
from tuban.training.predicted_place import landcover_strips

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle
    from tuban.training.labelled import LabelledItem


def landcover_summary(
    bundle: Bundle,
    items: Sequence[LabelledItem],
    settings: InferenceSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Run a land-cover bundle on every labelled image and compare it with the labels, strip by strip.

    Args:
        bundle: for land cover.
        items: places; both dates of a pair are measured, each alone.
        settings: how inference runs.
        progress: called with stage, done and total places.

    Returns:
        Measures by class, macro F1 with its interval over places, and the same by place. JSON-ready.

    Raises:
        SceneError: no place has labels, or a label does not lie on its image's grid.
    """
    items = with_cover(items)
    names = [classes()[value].name for value in bundle.classes]
    total = Confusion(names, bundle.classes)
    places: dict[str, Confusion] = {}
    for number, item in enumerate(items):
        places[item.name] = Confusion(names, bundle.classes)
        for image in item.dates():
            for mapped, truth in landcover_strips(bundle, image, settings):
                total.add(mapped, truth)
                places[item.name].add(mapped, truth)
        if progress is not None:
            progress("evaluate", number + 1, len(items))
    matrices = np.stack([place.matrix() for place in places.values()])

    def f1(index: NDArray[np.int64]) -> float:
        return macro_f1(matrices[index].sum(axis=0))

    low, high = bootstrap(len(matrices), f1, draws=500)
    return {
        "model": bundle.model_id,
        "task": "landcover",
        "against": against(items),
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
