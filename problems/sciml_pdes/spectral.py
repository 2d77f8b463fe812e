"""A reference for periodic evolution equations that is no network: Fourier modes in space, exponential Runge-Kutta
steps in time (ETDRK4; Cox and Matthews 2002, with the coefficients of Kassam and Trefethen 2005)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float

DEGREE = 7
"""Degree of the polynomial in time between the stored states."""
STORED = 400
"""Intervals of time between stored states."""


@dataclass(frozen=True)
class History:
    """Fourier coefficients at equally spaced times from 0.

    Attributes:
        coefficients: of exp(i pi k (x + 1)), k from 0, of a real function on [-1, 1), at every stored time.
        interval: time between two stored states.
    """

    coefficients: Complex[np.ndarray, "times modes"]
    interval: float

    def at(self, x: Float[np.ndarray, "points"], t: Float[np.ndarray, "points"]) -> Float[np.ndarray, "points"]:
        """Values at places and times: the trigonometric polynomial in x, Lagrange's polynomial in t."""
        last = len(self.coefficients) - 1
        exact = np.rint(t / self.interval).astype(int)
        first = np.clip(np.floor(t / self.interval).astype(int) - DEGREE // 2, 0, last - DEGREE)
        values = np.empty(len(x))
        # times on the stored lattice, as those of a uniform grid, need one state, the others DEGREE + 1
        on_lattice = np.abs(exact * self.interval - t) < 1e-12
        for state in np.unique(exact[on_lattice]):
            chosen = on_lattice & (exact == state)
            values[chosen] = self._wave(self.coefficients[state], x[chosen])
        for start in np.unique(first[~on_lattice]):
            chosen = ~on_lattice & (first == start)
            weights = _lagrange(t[chosen] / self.interval - start)
            states = [self._wave(self.coefficients[start + k], x[chosen]) for k in range(DEGREE + 1)]
            values[chosen] = sum(w * s for w, s in zip(weights, states, strict=True))
        return values

    @staticmethod
    def _wave(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The real trigonometric polynomial, by Horner's rule over the modes."""
        turn, sum_ = np.exp(1j * np.pi * (x + 1)), np.zeros(len(x), dtype=complex)
        doubled = coefficients * np.r_[1.0, np.full(len(coefficients) - 2, 2.0), 1.0]
        for coefficient in doubled[::-1]:
            sum_ = sum_ * turn + coefficient
        return np.real(sum_)


def _lagrange(t: np.ndarray) -> list[np.ndarray]:
    """Weights of the values at 0, 1, ..., DEGREE for a value at t."""
    nodes = range(DEGREE + 1)
    return [np.prod([(t - j) / (k - j) for j in nodes if j != k], axis=0) for k in nodes]


def etdrk4(
    start: Float[np.ndarray, "points"],
    linear: Float[np.ndarray, "modes"],
    nonlinear: Callable[[np.ndarray], np.ndarray],
    step: float,
    steps: int,
) -> History:
    """Solve u_t = linear u + nonlinear(u) on the periodic interval [-1, 1).

    Args:
        start: u at equally spaced places from -1.
        linear: eigenvalue of the linear part for each mode, k from 0.
        nonlinear: takes the values of u and gives those of the nonlinear part.
        step: of time.
        steps: how many; a multiple of 400, the number of states that are kept.
    """
    half, whole = np.exp(step * linear / 2), np.exp(step * linear)
    # the functions (e^z - 1) / z and so on, as means over a circle: their own formulas cancel near z = 0
    circle = np.exp(1j * np.pi * (np.arange(32) + 0.5) / 32)
    z = step * linear[:, None] + circle
    mean = lambda f: step * np.real(f.mean(axis=1))
    q = mean((np.exp(z / 2) - 1) / z)
    f1 = mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3)
    f2 = mean((2 + z + np.exp(z) * (z - 2)) / z**3)
    f3 = mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3)
    count = len(start)
    force = lambda v: np.fft.rfft(nonlinear(np.fft.irfft(v, count)))
    v = np.fft.rfft(start)
    kept = [v / count]
    for index in range(1, steps + 1):
        n0 = force(v)
        a = half * v + q * n0
        n1 = force(a)
        b = half * v + q * n1
        n2 = force(b)
        c = half * a + q * (2 * n2 - n0)
        v = whole * v + f1 * n0 + 2 * f2 * (n1 + n2) + f3 * force(c)
        if index % (steps // STORED) == 0:
            kept.append(v / count)
    return History(np.array(kept), step * steps / STORED)
