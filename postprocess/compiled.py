"""Compiling of the few loops that numpy has no operation for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import numba

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Function = TypeVar("Function", bound=Callable[..., Any])

logger = logging.getLogger(__name__)


def compiled(function: Function) -> Function:
    """Compile a function to machine code at its first call, free of the GIL, and keep the code for later runs.

    The code is kept beside the module, or where that cannot be written in the user's cache folder, or in the folder
    that NUMBA_CACHE_DIR names. Where none can be written each process compiles anew: results are the same.
    """
    try:
        return numba.njit(function, cache=True, nogil=True)  # type: ignore[no-any-return]
    except RuntimeError as error:  # numba found no folder to keep the code in
        logger.info("%s; each run compiles anew, unless NUMBA_CACHE_DIR names a folder that can be written", error)
        return numba.njit(function, nogil=True)  # type: ignore[no-any-return]
