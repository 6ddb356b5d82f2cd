"""The land that clouds hide at either date, as a raster and in numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rasterio.windows import Window

from tuban.data.mask_kinds import mask_table
from tuban.data.unseen import UnseenCounts, count_unseen
from tuban.errors import ReadError
from tuban.inference.cog import BLOCK, CogSpec, write_cog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tuban.data.grid import Grid
    from tuban.data.pair import Pair


def write_unseen(pair: Pair, target: Path) -> UnseenCounts | None:
    """Write what hides each pixel that has data at both dates.

    Blocks in which no mask hides anything cost no reading of the images.

    Args:
        pair: the pair.
        target: a COG of two bands, before and after: 0 not hidden at that date, else the code of the cause.

    Returns:
        The counts; `seen_px` counts only the blocks that hide something. None, and no file, where there is no mask.

    Raises:
        ReadError: an image or mask cannot be read.
        OutputError: the raster cannot be written.
    """
    if pair.masks == (None, None):
        return None
    total = [UnseenCounts()]
    legend = ", ".join(f"{code} {name}" for name, code in mask_table().causes.items())
    spec = CogSpec(("hidden before", "hidden after"), tags={"TUBAN_CAUSES": legend})
    write_cog(target, pair.grid, spec, _blocks(pair, total))
    return total[0]


def unseen_record(counts: UnseenCounts, valid_px: int) -> dict[str, object]:
    """Return the entry `unseen` of run.json.

    Args:
        counts: from `write_unseen`.
        valid_px: pixels seen at both dates, from the change map.
    """
    return replace(counts, seen_px=valid_px).summary()


def _hides(pair: Pair, grid: Grid) -> bool:
    """Whether a mask hides anything of a block; one that cannot be read and need not be is no result, not unseen."""
    try:
        return bool(pair.hidden(grid).any())
    except ReadError:
        if not pair.tolerate_damage:
            raise
        return False


def _blocks(pair: Pair, total: list[UnseenCounts]) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """Yield the blocks that hide something; the others stay 0. Adds up what they hide in `total`."""
    first = pair.radiometry_names[:1]  # one band tells where there are data
    for row in range(0, pair.height, BLOCK):
        for col in range(0, pair.width, BLOCK):
            window = Window(col, row, min(BLOCK, pair.width - col), min(BLOCK, pair.height - row))
            grid = pair.grid.window(window)
            if not _hides(pair, grid):
                continue
            got = pair.sample(window, first)
            total[0] += count_unseen(got.valid, got.causes, grid)
            yield window, got.causes
