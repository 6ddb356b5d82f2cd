"""Crosswalks from the classes of public data sets to the unified classes (`configs/crosswalks.yaml`)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import yaml

from tuban.data.classes import classes
from tuban.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@cache
def crosswalk(dataset: str) -> NDArray[np.uint8]:
    """Return a look-up table `(256,)` from native to unified class; a value the data set does not define is 0 (ignore).

    Raises:
        UsageError: no crosswalk of that name, or it names a class that does not exist.

    Example:
        >>> int(crosswalk("worldcover")[40])
        1
    """
    tables = yaml.safe_load(files("tuban.configs").joinpath("crosswalks.yaml").read_text(encoding="utf-8"))
    if dataset not in tables:
        raise UsageError(f"no crosswalk for data set {dataset!r}; there are: {', '.join(sorted(tables))}")
    lut = np.zeros(256, dtype=np.uint8)
    for native, unified in tables[dataset]["map"].items():
        if unified not in classes():
            raise UsageError(
                f"configs/crosswalks.yaml: {dataset} maps {native} to {unified}, which is no unified class"
            )
        lut[native] = unified
    return lut
