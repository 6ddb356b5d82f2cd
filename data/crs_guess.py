"""The CRS a layer declares, and the one it most likely has: guessed only when asked, and always said."""

from __future__ import annotations

import math

from pyproj import CRS
from pyproj.exceptions import CRSError

from tuban.errors import VectorError

Bounds = tuple[float, float, float, float]


def looks_geographic(bounds: Bounds) -> bool:
    """Say whether `bounds` (min_x, min_y, max_x, max_y) could be degrees."""
    return bounds[0] >= -180 and bounds[2] <= 360 and bounds[1] >= -90 and bounds[3] <= 90


def guess_crs(bounds: Bounds, *, central_meridian: float | None, where: str) -> tuple[CRS, str]:
    """Return a CRS for coordinates within `bounds`, and one line that says why.

    Degrees are CGCS2000 (EPSG:4490). Eight easting digits carry the zone: 25-45 are 3 degree zones (EPSG:4513-4533),
    13-23 are 6 degree zones (EPSG:4491-4501). Six digits carry none, so the central meridian has to be given
    (75-135 in steps of 3: EPSG:4534-4554).

    Raises:
        VectorError: the coordinates fit none of these, or the central meridian is needed.

    Example:
        >>> crs, why = guess_crs((38_500_000, 3.4e6, 38_501_000, 3.5e6), central_meridian=None, where="DLTB")
        >>> crs.to_epsg()
        4526
    """
    if looks_geographic(bounds):
        return CRS.from_epsg(4490), f"{where}: no CRS; the coordinates are degrees, taken as EPSG:4490 (CGCS2000)"
    zone = int(bounds[0] // 1_000_000)
    plausible_north = 0 < bounds[1] < 6_500_000
    if plausible_north and zone == int(bounds[2] // 1_000_000) and (25 <= zone <= 45 or 13 <= zone <= 23):
        code, width = (4513 + zone - 25, 3) if zone >= 25 else (4491 + zone - 13, 6)
        return CRS.from_epsg(code), (
            f"{where}: no CRS; eastings begin with {zone}, taken as EPSG:{code} (CGCS2000 {width} degree zone {zone})"
        )
    if plausible_north and bounds[0] >= 100_000 and bounds[2] < 1_000_000:
        if central_meridian is None:
            raise VectorError(
                f"{where}: no CRS, and six-digit eastings ({bounds[0]:.0f}) carry no zone; give central_meridian "
                "(75 to 135 in steps of 3) or define the projection in the file"
            )
        step = (central_meridian - 75) / 3
        if step != int(step) or not 0 <= step <= 20:
            raise VectorError(f"central_meridian {central_meridian} is not one of 75, 78 … 135 degrees")
        code = 4534 + int(step)
        return CRS.from_epsg(code), (
            f"{where}: no CRS; taken as EPSG:{code} (CGCS2000, central meridian {central_meridian:g}) as asked"
        )
    raise VectorError(
        f"{where}: no CRS, and coordinates x {bounds[0]:.0f}..{bounds[2]:.0f}, y {bounds[1]:.0f}..{bounds[3]:.0f} fit "
        "no CGCS2000 zone; define the projection in the file"
    )


def checked_crs(
    text: str | None,
    bounds: Bounds,
    where: str,
    *,
    guess: bool,
    central_meridian: float | None,
    empty: bool,
    remedy: str = "define the projection in the file, or set guess_crs=true",
) -> tuple[CRS, list[str]]:
    """Return the CRS a layer declares, checked against its coordinates, and notes on what was guessed.

    Args:
        text: what the layer declares, anything pyproj reads; None where it declares nothing.
        bounds: of its coordinates.
        where: names the layer in messages.
        guess: take the likeliest CRS where none is declared, or one that the coordinates cannot have.
        central_meridian: degrees, for six-digit eastings.
        empty: the layer has no features, so there is nothing to check against.
        remedy: how to give a layer its CRS where it lies.

    Raises:
        VectorError: no CRS, or an impossible one, and nothing is to be guessed.
    """
    try:
        crs = CRS.from_user_input(text) if text else None
    except CRSError as error:
        raise VectorError(f"{where}: its CRS is not understood ({error}); define the projection again") from error
    if crs is not None and (empty or not all(math.isfinite(value) for value in bounds)):
        return crs, []
    if crs is not None and crs.is_geographic == looks_geographic(bounds):
        return crs, []
    if crs is not None and not guess:
        kind = "degrees" if crs.is_geographic else "metres"
        raise VectorError(
            f"{where}: declares {crs.name}, but its coordinates (x {bounds[0]:.6g}..{bounds[2]:.6g}, "
            f"y {bounds[1]:.6g}..{bounds[3]:.6g}) are not in {kind}; define the right projection, or set guess_crs=true"
        )
    if not guess:
        raise VectorError(f"{where}: has no CRS; {remedy}")
    guessed, why = guess_crs(bounds, central_meridian=central_meridian, where=where)
    return guessed, [why if crs is None else f"{why} (it declares {crs.name}, which its coordinates cannot have)"]
