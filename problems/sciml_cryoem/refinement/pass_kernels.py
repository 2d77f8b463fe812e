"""Compiled loops of a pass: what a projection explains of an image, and what it leaves, summed. numba, serial, cached.

Conventions as in `imaging.kernels`: spectra are half spectra of a padded box, `axes` are times the padding. The phases
that undo an image's offset are the product of a table for kx and one for ky, both beginning at -reach.
"""

from typing import no_type_check  # numba cannot compile what a run-time type checker has wrapped

import numba
import numpy as np

from sciml_cryoem.imaging.kernels import _OPTIONS, _cell, spread


@numba.njit(inline="always")
@no_type_check
def _value(spectrum, x, y, z):
    """Trilinear real and imaginary part at a point with x >= 0."""
    x0, y0, y1, z0, z1, fx, fy, fz = _cell(x, y, z, spectrum.shape[0])
    one = np.float32(1.0)
    gx, gy, gz = one - fx, one - fy, one - fz
    a, b = spectrum[z0, y0, x0], spectrum[z0, y0, x0 + 1]
    c, d = spectrum[z0, y1, x0], spectrum[z0, y1, x0 + 1]
    e, f = spectrum[z1, y0, x0], spectrum[z1, y0, x0 + 1]
    g, h = spectrum[z1, y1, x0], spectrum[z1, y1, x0 + 1]
    lower = gy * (gx * a.real + fx * b.real) + fy * (gx * c.real + fx * d.real)
    upper = gy * (gx * e.real + fx * f.real) + fy * (gx * g.real + fx * h.real)
    real = gz * lower + fz * upper
    lower = gy * (gx * a.imag + fx * b.imag) + fy * (gx * c.imag + fx * d.imag)
    upper = gy * (gx * e.imag + fx * f.imag) + fy * (gx * g.imag + fx * h.imag)
    return real, gz * lower + fz * upper


@numba.njit(inline="always")
@no_type_check
def _seen(values, tables, i, p, column, row):
    """An image value with the offset of the image undone."""
    along_x, along_y = tables
    phase = along_x[i, column] * along_y[i, row]
    value = values[i, p]
    return value.real * phase.real - value.imag * phase.imag, value.real * phase.imag + value.imag * phase.real


@numba.njit(**_OPTIONS)
@no_type_check
def insert_residuals(grid, spectrum, axes, points, images, tables, factors, misfit):
    """Add what a map leaves of images to a grid of (real part, imaginary part, weight): t (t P - y) and t^2.

    Args:
        grid: (P, P, P/2 + 1, 3) float32, changed in place.
        spectrum: complex64, of the map.
        axes: (batch, 2, 3) float32.
        points: (kx, ky) float32, and (kx, ky) int64 as places in the tables.
        images: values (batch, points) complex64 and transfer (batch, points) float32.
        tables: phases of the offsets, complex64.
        factors: (batch, 2) float32, the scale of each image and its weight.
        misfit: (batch,) float64, receives the squared misfit less that against an empty map, unweighted.
    """
    kx, ky, columns, rows = points
    values, transfers = images
    for i in range(axes.shape[0]):
        scale, weight = factors[i, 0], factors[i, 1]
        total = 0.0
        for p in range(kx.shape[0]):
            x = axes[i, 0, 0] * kx[p] + axes[i, 1, 0] * ky[p]
            y = axes[i, 0, 1] * kx[p] + axes[i, 1, 1] * ky[p]
            z = axes[i, 0, 2] * kx[p] + axes[i, 1, 2] * ky[p]
            re, im = _seen(values, tables, i, p, columns[p], rows[p])
            if x < 0:
                x, y, z, im = -x, -y, -z, -im
            real, imag = _value(spectrum, x, y, z)
            transfer = transfers[i, p] * scale
            real, imag = transfer * real, transfer * imag
            total += real * (real - 2 * re) + imag * (imag - 2 * im)
            factor = transfer * weight
            if factor != 0:
                spread(grid, x, y, z, (real - re) * factor, (imag - im) * factor, transfer * factor)
        misfit[i] = total


@numba.njit(**_OPTIONS)
@no_type_check
def judge(spectrum, axes, points, images, tables, factors, power, kinds, left, out):
    """What projections of a reference explain of images, up to the points that are compared, and what is left in all.

    Args:
        spectrum: complex64, of the reference.
        axes: (batch, 2, 3) float32.
        points: see `insert_residuals`, and the shell of each point.
        images: see `insert_residuals`.
        tables: likewise.
        factors: (batch, 2) float32, the scale found for each image and its weight.
        power: (compared,) mean power of projections over all views, at the points that are compared.
        kinds: (batch,) row of `left` of each image.
        left: (kinds, shells) float64, receives the weighted power that is left.
        out: (batch, 3) float64, receives the power of the image at the compared points, that of its projection, and the
            mean power of all its projections.
    """
    kx, ky, columns, rows, shells = points
    values, transfers = images
    compared = power.shape[0]
    for i in range(axes.shape[0]):
        scale, weight, kind = factors[i, 0], factors[i, 1], kinds[i]
        seen, expected, mean = 0.0, 0.0, 0.0
        for p in range(kx.shape[0]):
            value = values[i, p]
            if p >= compared:
                if shells[p] < left.shape[1]:
                    left[kind, shells[p]] += weight * (value.real * value.real + value.imag * value.imag)
                continue
            x = axes[i, 0, 0] * kx[p] + axes[i, 1, 0] * ky[p]
            y = axes[i, 0, 1] * kx[p] + axes[i, 1, 1] * ky[p]
            z = axes[i, 0, 2] * kx[p] + axes[i, 1, 2] * ky[p]
            re, im = _seen(values, tables, i, p, columns[p], rows[p])
            if x < 0:
                x, y, z, im = -x, -y, -z, -im
            real, imag = _value(spectrum, x, y, z)
            transfer = transfers[i, p]
            real, imag = transfer * real, transfer * imag
            expected += real * real + imag * imag
            seen += re * re + im * im
            mean += transfer * transfer * power[p]
            real, imag = re - scale * real, im - scale * imag
            if shells[p] < left.shape[1]:
                left[kind, shells[p]] += weight * (real * real + imag * imag)
        out[i, 0], out[i, 1], out[i, 2] = seen, expected, mean
