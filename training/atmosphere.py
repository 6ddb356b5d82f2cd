"""From top-of-atmosphere (L1C) to surface (L2A) reflectance, as an augmentation: a sampled atmosphere is removed.

The labels here lie on L1C and most users have L2A. Clear-sky atmospheres are drawn at random and removed by the
standard inversion, with an error, as a real correction leaves one.

References:
    Vermote et al., "Second Simulation of the Satellite Signal in the Solar Spectrum, 6S: an overview", IEEE TGRS 1997
        (equation of the coupled surface and atmosphere, `rho_toa = Tg (path + T rho / (1 - S rho))`).
    Hansen & Travis, "Light scattering in planetary atmospheres", Space Science Reviews 1974 (Rayleigh optical depth).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Centre wavelength in micrometres, and two-way gas transmittance of a mean clear sky (ozone, water vapour, oxygen;
# rounded from Sentinel-2's published response), by canonical band.
BANDS = {
    "B02": (0.492, 0.985),
    "B03": (0.560, 0.965),
    "B04": (0.665, 0.970),
    "B05": (0.704, 0.965),
    "B06": (0.740, 0.970),
    "B07": (0.783, 0.985),
    "B08": (0.833, 0.965),
    "B8A": (0.865, 0.995),
    "B11": (1.614, 0.985),
    "B12": (2.202, 0.965),
}
_AEROSOL_ALBEDO = 0.95
_AEROSOL_BACKSCATTER = 0.15
"""Phase function of continental aerosol towards a sensor overhead, over the isotropic one."""
_AEROSOL_BACKWARD = 0.16
"""Share of what aerosol scatters that goes back up."""


@dataclass(frozen=True, slots=True)
class Atmosphere:
    """One clear-sky atmosphere in each band, all `(bands,)` and without unit.

    Attributes:
        path: reflectance of the atmosphere itself.
        transmittance: of scattering, down and up.
        gas: two-way transmittance of gases.
        albedo: spherical albedo of the atmosphere seen from the ground.
    """

    path: NDArray[np.float64]
    transmittance: NDArray[np.float64]
    gas: NDArray[np.float64]
    albedo: NDArray[np.float64]

    def removed(self, toa: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return surface reflectance of top-of-atmosphere reflectance `(bands, …)`; the inverse of `added`."""
        path, transmittance, gas, albedo = (
            _along(a, toa) for a in (self.path, self.transmittance, self.gas, self.albedo)
        )
        y = (toa / gas - path) / transmittance
        return np.asarray(y / (1 + albedo * y))

    def added(self, surface: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return top-of-atmosphere reflectance of surface reflectance `(bands, …)`."""
        path, transmittance, gas, albedo = (
            _along(a, surface) for a in (self.path, self.transmittance, self.gas, self.albedo)
        )
        return np.asarray(gas * (path + transmittance * surface / (1 - albedo * surface)))


def clear_sky(bands: Sequence[str], *, aerosol: float, sun: float) -> Atmosphere:
    """Return the atmosphere over a sensor looking straight down.

    Args:
        bands: canonical names.
        aerosol: optical depth at 0.55 micrometres, 0.02 (very clear) to 0.4 (hazy).
        sun: cosine of the sun's zenith angle, 0–1.

    Raises:
        KeyError: a band is not one of `BANDS`.
    """
    wavelength, gas = np.array([BANDS[band] for band in bands]).T
    rayleigh = 0.008569 * wavelength**-4 * (1 + 0.0113 * wavelength**-2 + 0.00013 * wavelength**-4)
    particles = aerosol * (wavelength / 0.55) ** -1.3
    # Single scattering towards the zenith; the scattering angle is 180 degrees minus the sun's zenith angle.
    phase = 0.75 * (1 + sun**2)
    path = (rayleigh * phase + _AEROSOL_ALBEDO * _AEROSOL_BACKSCATTER * particles) / (4 * sun)
    upward = 0.5 * rayleigh + _AEROSOL_BACKWARD * particles
    transmittance = np.exp(-upward * (1 / sun + 1))
    return Atmosphere(path, transmittance, gas, 0.92 * rayleigh + 0.2 * particles)


def drawn(rng: np.random.Generator, bands: Sequence[str]) -> Atmosphere:
    """Return a random clear-sky atmosphere: aerosol 0.03–0.35, most of it low, sun 20–60 degrees from the zenith."""
    aerosol = float(np.exp(rng.uniform(np.log(0.03), np.log(0.35))))
    return clear_sky(bands, aerosol=aerosol, sun=float(np.cos(np.radians(rng.uniform(20, 60)))))


def with_error(atmosphere: Atmosphere, rng: np.random.Generator, error: float) -> Atmosphere:
    """Return what a correction takes the atmosphere for: path and scattering wrong by `error`, relative, a band."""
    count = len(atmosphere.path)
    common, each = rng.normal(0, error), rng.normal(0, error / 2, count)
    path = atmosphere.path * np.clip(1 + common + each, 0, 2)
    lost = (1 - atmosphere.transmittance) * np.clip(1 + common + rng.normal(0, error / 2, count), 0, 2)
    return Atmosphere(path, 1 - np.minimum(lost, 0.8), atmosphere.gas, atmosphere.albedo)


def _along(values: NDArray[np.float64], image: NDArray[np.float64]) -> NDArray[np.float64]:
    return values.reshape(-1, *(1,) * (image.ndim - 1))
