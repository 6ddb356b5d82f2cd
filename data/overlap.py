"""Whether two scenes belong together: order of dates, and the part of BEFORE's grid that both cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rasterio.windows import Window

from tuban.data.grid import describe_bounds
from tuban.errors import PairError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from tuban.data.grid import Grid
    from tuban.data.scene import Scene


def date_notes(before: Scene, after: Scene) -> list[str]:
    """Notes on the dates; reversed dates are an error."""
    notes = [
        f"{name}: no date is known" for name, scene in (("before", before), ("after", after)) if scene.date is None
    ]
    if before.date and after.date:
        if before.date > after.date:
            raise PairError(
                f"dates are reversed: before {before.date} ({before.path}) is later than "
                f"after {after.date} ({after.path}); "
                "swap the images or correct the dates"
            )
        if before.date == after.date:
            notes.append(f"both scenes have the date {before.date}")
    return notes


def overlap(before: Scene, after: Scene, area: BaseGeometry | None, *, min_px: int) -> Grid:
    """The part of BEFORE's grid that AFTER, and the area of interest, reach."""
    boxes = [before.grid.pixels_of(after.grid)]
    if area is not None:
        corners = [~before.transform @ (x, y) for x in area.bounds[::2] for y in area.bounds[1::2]]
        cols, rows = zip(*corners, strict=True)
        boxes.append((min(cols), min(rows), max(cols), max(rows)))
    near = 1e-3  # a thousandth of a pixel is rounding, not overlap
    col0 = max(0, *(int(np.floor(box[0] + near)) for box in boxes))
    row0 = max(0, *(int(np.floor(box[1] + near)) for box in boxes))
    col1 = min(before.width, *(int(np.ceil(box[2] - near)) for box in boxes))
    row1 = min(before.height, *(int(np.ceil(box[3] - near)) for box in boxes))
    if min(col1 - col0, row1 - row0) < min_px:
        inside = " inside the area of interest" if area is not None else ""
        raise no_overlap(before, after, f"do not overlap{inside}")
    return before.grid.window(Window(col0, row0, col1 - col0, row1 - row0))


def no_overlap(before: Scene, after: Scene, what: str) -> PairError:
    """The error that names both extents; `what` says how the scenes fail to meet."""
    return PairError(
        f"the scenes {what}: before {describe_bounds(before.grid.bounds_lonlat())} ({before.path}), "
        f"after {describe_bounds(after.grid.bounds_lonlat())} ({after.path}); give two scenes of one place"
    )
