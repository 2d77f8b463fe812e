"""Compiled loops over Fourier points: insertion, gathering, scattering, and the voxelwise solve. numba, serial, cached.

Layout shared by all: a half spectrum of a padded cubic box of even size P, axes z y x, z and y in FFT order, x = 0 ...
P / 2. A point is taken to x >= 0 by conjugation; trilinear weights; z and y wrap around. Coordinates come as `axes`
(batch, 2, 3): the directions of kx and ky in map Fourier space, already multiplied by the padding factor. Everything is
float32 where the arrays are, so that one compiled version serves; `nogil` lets the two half sets run in two threads.
"""

import math
from typing import no_type_check  # numba cannot compile what a run-time type checker has wrapped

import numba
import numpy as np

from sciml_cryoem.imaging.compiled import compiled

UNSIGNED = np.uint64


@numba.njit(inline="always")
@no_type_check
def _cell(x, y, z, size):
    """Lower and upper corner (x, y, z) and fraction of the cell that holds a point with x >= 0, wrapped in y and z."""
    # Keep the precision of the argument: subtracting an integer would make a float32 a float64, and all that follows.
    x_floor, y_floor, z_floor = np.floor(x), np.floor(y), np.floor(z)
    fx, fy, fz = x - x_floor, y - y_floor, z - z_floor
    x0, y0, z0 = int(x_floor), int(y_floor), int(z_floor)
    if y0 < 0:
        y0 += size
    if z0 < 0:
        z0 += size
    y1 = y0 + 1 if y0 + 1 < size else 0
    z1 = z0 + 1 if z0 + 1 < size else 0
    # Unsigned, because numba otherwise asks at every access whether an index counts from the end.
    return UNSIGNED(x0), UNSIGNED(x0 + 1), UNSIGNED(y0), UNSIGNED(y1), UNSIGNED(z0), UNSIGNED(z1), fx, fy, fz


@numba.njit(inline="always")
@no_type_check
def spread(grid, x, y, z, re, im, w):
    """Add a value and its weight to the eight corners of the cell that holds a point with x >= 0; float32."""
    one = np.float32(1.0)
    x0, x1, y0, y1, z0, z1, fx, fy, fz = _cell(x, y, z, grid.shape[0])
    for zj, tz in ((z0, one - fz), (z1, fz)):
        for yj, tzy in ((y0, tz * (one - fy)), (y1, tz * fy)):
            t = tzy * (one - fx)
            grid[zj, yj, x0, 0] += t * re
            grid[zj, yj, x0, 1] += t * im
            grid[zj, yj, x0, 2] += t * w
            t = tzy * fx
            grid[zj, yj, x1, 0] += t * re
            grid[zj, yj, x1, 1] += t * im
            grid[zj, yj, x1, 2] += t * w


@numba.njit(inline="always")
@no_type_check
def value_at(spectrum, x, y, z):
    """Trilinear real and imaginary part of a half spectrum at a point with x >= 0."""
    x0, x1, y0, y1, z0, z1, fx, fy, fz = _cell(x, y, z, spectrum.shape[0])
    one = np.float32(1.0)
    gx, gy, gz = one - fx, one - fy, one - fz
    a, b = spectrum[z0, y0, x0], spectrum[z0, y0, x1]
    c, d = spectrum[z0, y1, x0], spectrum[z0, y1, x1]
    e, f = spectrum[z1, y0, x0], spectrum[z1, y0, x1]
    g, h = spectrum[z1, y1, x0], spectrum[z1, y1, x1]
    # Real and imaginary parts by themselves: a real factor would be made complex first.
    lower = gy * (gx * a.real + fx * b.real) + fy * (gx * c.real + fx * d.real)
    upper = gy * (gx * e.real + fx * f.real) + fy * (gx * g.real + fx * h.real)
    real = gz * lower + fz * upper
    lower = gy * (gx * a.imag + fx * b.imag) + fy * (gx * c.imag + fx * d.imag)
    upper = gy * (gx * e.imag + fx * f.imag) + fy * (gx * g.imag + fx * h.imag)
    return real, gz * lower + fz * upper


@compiled
@no_type_check
def insert(grid, spectra, ramps, axes, ctf, groups, weights, points):
    """Add CTF- and noise-weighted image values to a grid of (real part, imaginary part, weight).

    Args:
        grid: (P, P, P/2 + 1, 3) float32, changed in place.
        spectra: (batch, n, n//2 + 1) complex64, origin at sample 0.
        ramps: pair of phase tables for columns and rows (`HalfPlane.ramps`).
        axes: (batch, 2, 3) float32, times the padding.
        ctf: (batch, 10) float32, `CTF.coefficients`.
        groups: (batch,) row of `weights` of each image.
        weights: (groups, shells) float32, of an independent point (`NoiseModel.weights`).
        points: (4, points) int32: row, column, ky, shell.
    """
    column_ramp, row_ramp = ramps
    for i in range(spectra.shape[0]):
        a00, a01, a02 = axes[i, 0, 0], axes[i, 0, 1], axes[i, 0, 2]
        a10, a11, a12 = axes[i, 1, 0], axes[i, 1, 1], axes[i, 1, 2]
        pxx, pxy, pyy, rxx, rxy, ryy = ctf[i, 0], ctf[i, 1], ctf[i, 2], ctf[i, 3], ctf[i, 4], ctf[i, 5]
        quartic, constant, damping, scale = ctf[i, 6], ctf[i, 7], ctf[i, 8], ctf[i, 9]
        group = groups[i]
        for p in range(points.shape[1]):
            row, column = points[0, p], points[1, p]
            kx, ky = np.float32(column), np.float32(points[2, p])
            square = rxx * kx * kx + rxy * kx * ky + ryy * ky * ky
            gamma = pxx * kx * kx + pxy * kx * ky + pyy * ky * ky + quartic * square * square + constant
            transfer = -math.sin(gamma) * scale
            if damping != 0:
                transfer *= math.exp(-damping * square)
            weight = weights[group, points[3, p]]
            factor = weight * transfer
            value = spectra[i, row, column] * column_ramp[i, column] * row_ramp[i, row]
            re, im, w = value.real * factor, value.imag * factor, weight * transfer * transfer
            x, y, z = a00 * kx + a10 * ky, a01 * kx + a11 * ky, a02 * kx + a12 * ky
            if x < 0:
                x, y, z, im = -x, -y, -z, -im
            spread(grid, x, y, z, re, im, w)


@compiled
@no_type_check
def gather(spectrum, axes, kx, ky, out):
    """Trilinear values of a half spectrum on central slices: out (batch, points) complex."""
    one = axes.dtype.type(1.0)
    for i in range(axes.shape[0]):
        a00, a01, a02 = axes[i, 0, 0], axes[i, 0, 1], axes[i, 0, 2]
        a10, a11, a12 = axes[i, 1, 0], axes[i, 1, 1], axes[i, 1, 2]
        for p in range(kx.shape[0]):
            x, y, z = a00 * kx[p] + a10 * ky[p], a01 * kx[p] + a11 * ky[p], a02 * kx[p] + a12 * ky[p]
            sign = one
            if x < 0:
                x, y, z, sign = -x, -y, -z, -one
            real, imaginary = value_at(spectrum, x, y, z)
            out[i, p] = complex(real, sign * imaginary)


@compiled
@no_type_check
def scatter(grid, axes, kx, ky, values):
    """Transpose of `gather`: add values (batch, points) to a half spectrum, in place."""
    size = grid.shape[0]
    one = axes.dtype.type(1.0)
    for i in range(axes.shape[0]):
        for p in range(kx.shape[0]):
            x = axes[i, 0, 0] * kx[p] + axes[i, 1, 0] * ky[p]
            y = axes[i, 0, 1] * kx[p] + axes[i, 1, 1] * ky[p]
            z = axes[i, 0, 2] * kx[p] + axes[i, 1, 2] * ky[p]
            value = values[i, p]
            if x < 0:
                x, y, z, value = -x, -y, -z, value.conjugate()
            x0, x1, y0, y1, z0, z1, fx, fy, fz = _cell(x, y, z, size)
            for zj, tz in ((z0, one - fz), (z1, fz)):
                for yj, t in ((y0, tz * (one - fy)), (y1, tz * fy)):
                    grid[zj, yj, x0] += value * (t * (one - fx))
                    grid[zj, yj, x1] += value * (t * fx)


@numba.njit(inline="always")
@no_type_check
def _signed(index, size):
    return index if index <= size // 2 else index - size


@compiled
@no_type_check
def shell_sums(grid, pad, count):
    """Sum of the weights and number of voxels of the whole (not half) grid in each shell round(|q| / pad); float64."""
    size = grid.shape[0]
    total, number = np.zeros(count), np.zeros(count)
    for z in range(size):
        for y in range(size):
            plane = float(_signed(z, size) ** 2 + _signed(y, size) ** 2)
            for x in range(size // 2 + 1):
                shell = int(math.sqrt(plane + x * x) / pad + 0.5)
                if shell < count:
                    times = 1.0 if x == 0 or x == size // 2 else 2.0
                    total[shell] += times * grid[z, y, x, 2]
                    number[shell] += times
    return total, number


@numba.njit(inline="always")
@no_type_check
def _between(table, radius):
    """Linear interpolation of a table at integer radii."""
    shell = int(radius)
    fraction = radius - shell
    return table[shell] * (1.0 - fraction) + table[shell + 1] * fraction


@compiled
@no_type_check
def divide(grids, precision, pad, out):
    """Voxelwise Wiener solve: out = sum of values / (sum of weights + precision of the shell), 0 beyond the last shell.

    Args:
        grids: tuple of (P, P, P/2 + 1, 3) arrays whose sums are solved for (one half set, or both).
        precision: (shells,) float32, prior precision at integer radius |q| / pad, interpolated linearly; positive.
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
                shell = int(radius)
                if shell >= last:
                    out[z, y, x] = 0
                    continue
                re, im, weight = 0.0, 0.0, 0.0
                for grid in grids:
                    re += grid[z, y, x, 0]
                    im += grid[z, y, x, 1]
                    weight += grid[z, y, x, 2]
                weight += _between(precision, radius)
                out[z, y, x] = complex(re / weight, im / weight)
