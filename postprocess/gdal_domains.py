"""Coded domains in a File GDB, through the C interface of the GDAL that pyogrio carries.

pyogrio itself cannot make domains, and GDAL's Python bindings are no wheel; the C interface is public and stable, and
every pyogrio wheel holds it. Where it cannot be reached, `create_domains` says why and the export goes on without.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyogrio
import pyogrio._io

if TYPE_CHECKING:
    from collections.abc import Mapping

_DRIVER = b"OpenFileGDB"
_STRING = 4  # OFTString
_NO_SUBTYPE = 0  # OFSTNone
_FAILURE = 3  # CE_Failure


class _Code(ctypes.Structure):
    """OGRCodedValue: a code and its meaning; the last of an array holds nothing."""

    _fields_ = (("code", ctypes.c_char_p), ("value", ctypes.c_char_p))


def create_domains(path: Path, domains: Mapping[str, Mapping[str, str]]) -> str | None:
    """Make an empty File GDB that holds coded domains.

    Args:
        path: the folder to make; it must not exist.
        domains: meaning by code, by name of the domain.

    Returns:
        None, or why it could not be done; then nothing is left at `path`.

    Raises:
        OSError: GDAL could not write it.
    """
    try:
        gdal = _interface()
    except (OSError, AttributeError) as error:
        return f"GDAL's C interface is not within reach ({error})"
    dataset = gdal.GDALCreate(gdal.GDALGetDriverByName(_DRIVER), str(path).encode(), 0, 0, 0, 0, None)
    if not dataset:
        raise OSError(f"GDAL could not make it: {gdal.CPLGetLastErrorMsg().decode(errors='replace')}")
    try:
        for name, words in domains.items():
            codes = (_Code * (len(words) + 1))(*(_Code(code.encode(), word.encode()) for code, word in words.items()))
            domain = gdal.OGR_CodedFldDomain_Create(name.encode(), b"", _STRING, _NO_SUBTYPE, codes)
            added = gdal.GDALDatasetAddFieldDomain(dataset, domain, None)
            gdal.OGR_FldDomain_Destroy(domain)
            if not added:
                raise OSError(f"GDAL refused domain {name}: {gdal.CPLGetLastErrorMsg().decode(errors='replace')}")
    finally:
        gdal.CPLErrorReset()
        gdal.GDALClose(dataset)
    if gdal.CPLGetLastErrorType() >= _FAILURE:
        raise OSError(gdal.CPLGetLastErrorMsg().decode(errors="replace"))
    return None


@cache
def _interface() -> Any:
    """Return GDAL as pyogrio loaded it, with the signatures of what is called.

    Raises:
        OSError: the library cannot be opened.
        AttributeError: it lacks a function.
    """
    gdal = ctypes.CDLL(str(_library()))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, ...]] = {
        "GDALGetDriverByName": (pointer, text),
        "GDALCreate": (pointer, pointer, text, number, number, number, number, pointer),
        "GDALClose": (number, pointer),
        "OGR_CodedFldDomain_Create": (pointer, text, text, number, number, ctypes.POINTER(_Code)),
        "OGR_FldDomain_Destroy": (None, pointer),
        "GDALDatasetAddFieldDomain": (ctypes.c_bool, pointer, pointer, pointer),
        "CPLErrorReset": (None,),
        "CPLGetLastErrorMsg": (text,),
        "CPLGetLastErrorType": (number,),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(gdal, name)
        function.restype, function.argtypes = result, arguments
    pyogrio.list_drivers()  # registers the drivers, if nothing has yet
    return gdal


def _library() -> Path:
    """Return the library to look GDAL's functions up in.

    On Linux and macOS a look-up in pyogrio's own module finds what it is linked to; on Windows only the DLL itself.
    """
    beside = Path(pyogrio.__file__).parent.with_name("pyogrio.libs")
    return next(iter(sorted(beside.glob("gdal*.dll"))), Path(pyogrio._io.__file__))  # noqa: SLF001 - the linked module
