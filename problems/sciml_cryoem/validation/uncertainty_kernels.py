"""Compiled loops over Fourier sums for the uncertainty of a map. numba, serial, cached; layout as in `kernels`."""

import math
from typing import no_type_check  # numba cannot compile what a run-time type checker has wrapped

import numpy as np

from sciml_cryoem.imaging.compiled import compiled
from sciml_cryoem.imaging.kernels import _between, _signed


@compiled
@no_type_check
def variance_sums(first, second, tables, pad):
    """Effect of the solves of full and half maps on noise and signal, summed over the whole grid by shell; float64.

    Args:
        first: (P, P, P/2 + 1, 3) float32, sums of half set 1, weights W1.
        second: of half set 2, weights W2; W = W1 + W2.
        tables: (3, shells) float32: prior precision T of the full map, F1 and F2 of the half maps, as in `divide`.
        pad: padding factor.

    Returns:
        (5, shells), by shell round(|q| / pad), the last shell of the tables left out as in `divide`:
        noise of the full map, W / (W + T)^2; noise of `difference`, with D = (W1 - W2) / (W + T),
        (W1 (1 - D)^2 + W2 (1 + D)^2) / (W + T)^2; signal that the full map lacks, T^2 / (W + T)^2; signal that both
        half maps have, W1 W2 / ((W1 + F1) (W2 + F2)); number of voxels.
    """
    size = first.shape[0]
    last = tables.shape[1] - 1
    out = np.zeros((5, last + 1))
    for z in range(size):
        for y in range(size):
            plane = float(_signed(z, size) ** 2 + _signed(y, size) ** 2)
            for x in range(size // 2 + 1):
                radius = math.sqrt(plane + x * x) / pad
                if int(radius) >= last:
                    continue
                weight1, weight2 = first[z, y, x, 2], second[z, y, x, 2]
                prior = _between(tables[0], radius)
                solved1 = weight1 + _between(tables[1], radius)
                solved2 = weight2 + _between(tables[2], radius)
                full = weight1 + weight2 + prior
                times = 1.0 if x == 0 or x == size // 2 else 2.0
                shell = int(radius + 0.5)
                out[0, shell] += times * (weight1 + weight2) / full**2
                uneven = (weight1 - weight2) / full
                out[1, shell] += times * (weight1 * (1 - uneven) ** 2 + weight2 * (1 + uneven) ** 2) / full**2
                out[2, shell] += times * (prior / full) ** 2
                out[3, shell] += times * (weight1 / solved1) * (weight2 / solved2)
                out[4, shell] += times
    return out


@compiled
@no_type_check
def difference(first, second, precision, pad, out):
    """Noise alone, by the solve of the full map: out = (S1 - S2 - (W1 - W2) V) / (W + T) with V = (S1 + S2) / (W + T).

    S1 - S2 has the noise of S1 + S2 and the signal (W1 - W2) V.

    Args:
        first: (P, P, P/2 + 1, 3) float32, sums S1 and weights W1 of half set 1.
        second: of half set 2.
        precision: (shells,) float32, T as in `divide`.
        pad: padding factor.
        out: (P, P, P/2 + 1) complex64.
    """
    size = out.shape[0]
    last = precision.shape[0] - 1
    for z in range(size):
        for y in range(size):
            plane = float(_signed(z, size) ** 2 + _signed(y, size) ** 2)
            for x in range(size // 2 + 1):
                radius = math.sqrt(plane + x * x) / pad
                if int(radius) >= last:
                    out[z, y, x] = 0
                    continue
                weight1, weight2 = first[z, y, x, 2], second[z, y, x, 2]
                full = weight1 + weight2 + _between(precision, radius)
                uneven = (weight1 - weight2) / full
                re = first[z, y, x, 0] * (1 - uneven) - second[z, y, x, 0] * (1 + uneven)
                im = first[z, y, x, 1] * (1 - uneven) - second[z, y, x, 1] * (1 + uneven)
                out[z, y, x] = complex(re / full, im / full)
