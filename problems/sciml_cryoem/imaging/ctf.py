"""The contrast transfer function, in RELION's convention: CTF(0) = +amplitude contrast, protein bright.

    gamma = -pi lambda df(alpha) s^2 + pi/2 Cs lambda^3 s^4 - phase shift - atan(Q0 / sqrt(1 - Q0^2))
    CTF   = -sin(gamma) * scale * exp(-B s^2 / 4)

with s = |k| / (n * pixel size) in 1/A, alpha its angle from the x axis and, positive for underfocus,
df(alpha) = (U + V)/2 + (U - V)/2 cos 2(alpha - alpha_U). Units: Angstrom, radian, volt. df s^2 is a quadratic form in
(kx, ky), so each image needs only a few coefficients (`CTF.coefficients`) and one sine a point; the compiled loop of
the insertion (`kernels.py`) evaluates the same form.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

COEFFICIENTS = 10
"""Columns of `CTF.coefficients`: xx, xy, yy of the defocus phase; the same of s^2; quartic; constant; B / 4; scale."""


def wavelength(voltage: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Relativistic electron wavelength in Angstrom for a voltage in volts (RELION's constants)."""
    volts = np.asarray(voltage, np.float64)
    return np.asarray(12.2643247 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))


@dataclass(frozen=True)
class CTF:
    """Parameters of the CTF of each particle; every field is an array with one entry per particle, or a number for all.

    Attributes:
        defocus_u: defocus along the axis at `defocus_angle`, Angstrom, positive = underfocus.
        defocus_v: defocus across it; may be larger or smaller than `defocus_u`.
        defocus_angle: from the x axis to the U axis, radian.
        voltage: volt.
        spherical_aberration: Angstrom.
        amplitude_contrast: fraction Q0 in 0 ... 1.
        phase_shift: of a phase plate, radian.
        b_factor: Angstrom^2.
        scale: factor on the whole CTF.
    """

    defocus_u: Any
    defocus_v: Any
    defocus_angle: Any
    voltage: Any
    spherical_aberration: Any
    amplitude_contrast: Any
    phase_shift: Any = 0.0
    b_factor: Any = 0.0
    scale: Any = 1.0

    def coefficients(
        self, size: int, pixel_size: Float[np.ndarray, "..."] | float, magnification: np.ndarray | None = None
    ) -> Float[np.ndarray, "particles 10"]:
        """Coefficients for `evaluate`, float64.

        Args:
            size: box in pixels.
            pixel_size: Angstrom; one number or one per particle.
            magnification: anisotropic, (2, 2) or (particles, 2, 2); frequencies (kx, ky) are multiplied by it.
        """
        angle = np.asarray(self.defocus_angle, np.float64)
        mean = 0.5 * (np.asarray(self.defocus_u, np.float64) + self.defocus_v)
        half = 0.5 * (np.asarray(self.defocus_u, np.float64) - self.defocus_v)
        length = wavelength(np.asarray(self.voltage))
        cosine, sine = half * np.cos(2 * angle), half * np.sin(2 * angle)
        phase = -np.pi * length / (size * np.asarray(pixel_size, np.float64)) ** 2
        square = 1.0 / (size * np.asarray(pixel_size, np.float64)) ** 2
        q0 = np.asarray(self.amplitude_contrast, np.float64)
        constant = -np.asarray(self.phase_shift, np.float64) - np.arctan2(q0, np.sqrt(1.0 - q0**2))
        quartic = 0.5 * np.pi * np.asarray(self.spherical_aberration, np.float64) * length**3
        columns = (phase * (mean + cosine), 2 * phase * sine, phase * (mean - cosine), square, 0.0, square)
        columns = (*columns, quartic, constant, 0.25 * np.asarray(self.b_factor, np.float64), self.scale)
        table = np.stack(np.broadcast_arrays(*(np.atleast_1d(np.asarray(c, np.float64)) for c in columns)), -1)
        if magnification is not None:
            table[:, 0:3] = _substitute(table[:, 0:3], magnification)
            table[:, 3:6] = _substitute(table[:, 3:6], magnification)
        return table


def _substitute(form: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The quadratic form (xx, xy, yy) after replacing k by matrix @ k."""
    m = np.asarray(matrix, np.float64)
    xx, xy, yy = np.moveaxis(form, -1, 0)
    a, b, c, d = m[..., 0, 0], m[..., 0, 1], m[..., 1, 0], m[..., 1, 1]
    new_xx = xx * a * a + xy * a * c + yy * c * c
    new_xy = 2 * xx * a * b + xy * (a * d + b * c) + 2 * yy * c * d
    return np.stack([new_xx, new_xy, xx * b * b + xy * b * d + yy * d * d], -1)


def no_ctf(particles: int) -> Float[np.ndarray, "particles 10"]:
    """Coefficients of a CTF that is 1 everywhere."""
    table = np.zeros((particles, COEFFICIENTS))
    table[:, 7], table[:, 9] = -0.5 * np.pi, 1.0
    return table


def evaluate(coefficients: Any, kx: Any, ky: Any) -> Any:
    """CTF of each particle at each Fourier point.

    Args:
        coefficients: (particles, 10), from `CTF.coefficients`; numpy array or torch tensor.
        kx: x frequency of each point, in Fourier pixels (points,), same kind of array.
        ky: y frequency.

    Returns:
        (particles, points), in the precision of the arguments.
    """
    if isinstance(coefficients, np.ndarray):
        module: Any = np
    else:
        import torch

        module = torch
    xx, xy, yy, rxx, rxy, ryy, quartic, constant, b, scale = (coefficients[:, j, None] for j in range(COEFFICIENTS))
    kxx, kxy, kyy = kx * kx, kx * ky, ky * ky
    square = rxx * kxx + rxy * kxy + ryy * kyy
    gamma = xx * kxx + xy * kxy + yy * kyy + quartic * square * square + constant
    return -module.sin(gamma) * scale * module.exp(-b * square)
