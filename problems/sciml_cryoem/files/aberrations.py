"""Aberrations that are not corrected: the resolution from which on each one costs signal, computed from its size.

A beam tilt t adds axial coma: the phase error along the tilt is 2 pi Cs lambda^2 t k^3 (Glaeser et al., J. Struct.
Biol. 174, 2011). Averaged over the direction of k the amplitude is multiplied with the Bessel function J0 of it, which
is 1/2 at 1.52 rad. A magnification that is off by e along an axis moves what lies at x by e x, a phase of 2 pi e x k;
over a disc of radius R its mean amplitude 2 J1(p) / p, p = 2 pi e R k, is 1/2 at 2.22 rad.
"""

from collections.abc import Sequence

import numpy as np

from sciml_cryoem.files.faults import Faults
from sciml_cryoem.files.table import Table
from sciml_cryoem.imaging.ctf import wavelength

HALVED_BY_COMA = 1.5211
"""Radian at which J0 is 1/2."""
HALVED_BY_STRETCH = 2.2151
"""Radian at which 2 J1(x) / x is 1/2: the mean amplitude over the disc of a stretched particle."""
_TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
_MATRIX = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")


_PARTICLE = 1 / 3  # of the box: the radius of the particle where nobody says it


def check_aberrations(optics: Table, used: Sequence[int], extent: float, pixel_size: float, faults: Faults) -> None:
    """Report the aberrations of the optics groups in use, with the resolution from which on each one matters.

    Args:
        optics: the optics table, with voltage and spherical aberration.
        used: its rows (from 0) that particles belong to.
        extent: of the box, Angstrom.
        pixel_size: Angstrom.
        faults: to which is added.
    """
    nyquist = 2 * pixel_size
    zernike = [label for label in ("rlnOddZernike", "rlnEvenZernike") if label in optics]
    zernike = [label for label in zernike if any(_not_zero(optics.columns[label][row]) for row in used)]
    if zernike:
        faults.warning(
            optics.path, "data_optics", f"{', '.join(zernike)} ignored: such terms matter at high resolution."
        )
    tilts = [largest_tilt(optics, row) for row in used]
    if max(tilts, default=0.0) > 0:
        voltage, aberration = (optics.numbers(label)[list(used)] for label in ("rlnVoltage", "rlnSphericalAberration"))
        reach = max(map(beam_tilt_resolution, tilts, voltage, aberration))
        labels = ", ".join(label for label in _TILT if label in optics)
        _ignored(optics, f"{labels} ignored: a beam tilt of up to {max(tilts):.3g} mrad", reach, nyquist, faults)
    stretch = max((largest_stretch(optics, row) for row in used), default=0.0)
    if stretch > 1e-4:
        reach = stretch_resolution(stretch, _PARTICLE * extent)
        _ignored(optics, f"anisotropic magnification ignored: up to {stretch:.2%}", reach, nyquist, faults)


def _ignored(optics: Table, what: str, reach: float, nyquist: float, faults: Faults) -> None:
    """A note where an aberration matters beyond Nyquist only, severe where it spoils most of the shells."""
    text = f"{what} halves the amplitudes at {reach:.2g} Angstrom (Nyquist is {nyquist:.3g})."
    add = faults.note if reach < nyquist else faults.warning if reach < 3 * nyquist else faults.severe
    add(optics.path, "data_optics", text, "" if reach < nyquist else "Correct it in RELION before, or expect no more.")


def _not_zero(value: str) -> bool:
    """Whether a number, or a vector like [0,0.1], holds something that is not 0."""
    try:
        return any(float(part) != 0 for part in value.strip("[]'\"").split(",") if part)
    except ValueError:
        return True


def beam_tilt_resolution(tilt_mrad: float, voltage_kv: float, cs_mm: float) -> float:
    """Angstrom at which half of the amplitude is lost to the coma of a beam tilt; 0 where there is none."""
    coma = 2 * np.pi * cs_mm * 1e7 * float(wavelength(np.array(voltage_kv * 1e3))) ** 2 * tilt_mrad * 1e-3
    return float(np.cbrt(abs(coma) / HALVED_BY_COMA))


def stretch_resolution(stretch: float, radius: float) -> float:
    """Angstrom at which half of the amplitude is lost where the magnification is off by `stretch` along an axis.

    Args:
        stretch: relative.
        radius: of the particle, Angstrom.
    """
    return float(2 * np.pi * abs(stretch) * radius / HALVED_BY_STRETCH)


def largest_tilt(optics: Table, row: int) -> float:
    """Beam tilt of an optics group, mrad."""
    x, y = (float(optics.numbers(label)[row]) if label in optics else 0.0 for label in _TILT)
    return float(np.hypot(x, y))


def largest_stretch(optics: Table, row: int) -> float:
    """Largest relative departure of the magnification of an optics group from 1, along any axis."""
    values = [optics.numbers(label)[row] if label in optics else float(label[-2] == label[-1]) for label in _MATRIX]
    stretches = np.linalg.svd(np.reshape(values, (2, 2)), compute_uv=False)
    return float(np.abs(stretches - 1.0).max())
