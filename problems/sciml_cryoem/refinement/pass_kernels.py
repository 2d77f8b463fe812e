"""Compiled loops of a pass: what a projection explains of an image, and what it leaves, summed. numba, serial, cached.

Conventions as in `imaging.kernels`: spectra are half spectra of a padded box, axes are times the padding.
"""

from typing import NamedTuple, no_type_check  # numba cannot compile what a run-time type checker has wrapped

import numba
import numpy as np

from sciml_cryoem.imaging.compiled import compiled
from sciml_cryoem.imaging.kernels import spread, value_at


class PosedImages(NamedTuple):
    """Images at their poses.

    Attributes:
        axes: (batch, 2, 3) float32, directions of kx and ky.
        kx: (points,) float32.
        ky: (points,) float32.
        columns: (points,) int64, place of each point in `along_x`.
        rows: (points,) int64, place in `along_y`.
        values: (batch, points) complex64, offsets not undone.
        transfer: (batch, points) float32.
        along_x: (batch, line) complex64, factors for kx of the phases that undo the offset.
        along_y: likewise for ky.
        scale: (batch,) float32, contrast of each image.
        weight: (batch,) float32, how far it counts.
    """

    axes: np.ndarray
    kx: np.ndarray
    ky: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    transfer: np.ndarray
    along_x: np.ndarray
    along_y: np.ndarray
    scale: np.ndarray
    weight: np.ndarray


@numba.njit(inline="always")
@no_type_check
def _place(images, i, p):
    """Where a point of an image lies in the map, and what is seen there with the offset undone; both conjugated where
    that takes the point to x >= 0."""
    axes, kx, ky = images.axes, images.kx[p], images.ky[p]
    x = axes[i, 0, 0] * kx + axes[i, 1, 0] * ky
    y = axes[i, 0, 1] * kx + axes[i, 1, 1] * ky
    z = axes[i, 0, 2] * kx + axes[i, 1, 2] * ky
    phase, value = images.along_x[i, images.columns[p]] * images.along_y[i, images.rows[p]], images.values[i, p]
    re = value.real * phase.real - value.imag * phase.imag
    im = value.real * phase.imag + value.imag * phase.real
    if x < 0:
        x, y, z, im = -x, -y, -z, -im
    return x, y, z, re, im


@compiled
@no_type_check
def insert_residuals(grid, spectrum, images, misfit):
    """Add what a map leaves of images to a grid of (real part, imaginary part, weight): t (t P - y) and t^2.

    Args:
        grid: (P, P, P/2 + 1, 3) float32, changed in place.
        spectrum: complex64, of the map.
        images: `PosedImages`; t is transfer times scale.
        misfit: (batch,) float64, receives the squared misfit less that against an empty map, unweighted.
    """
    for i in range(images.axes.shape[0]):
        total = 0.0
        for p in range(images.kx.shape[0]):
            x, y, z, re, im = _place(images, i, p)
            real, imag = value_at(spectrum, x, y, z)
            transfer = images.transfer[i, p] * images.scale[i]
            real, imag = transfer * real, transfer * imag
            total += real * (real - 2 * re) + imag * (imag - 2 * im)
            factor = transfer * images.weight[i]
            if factor != 0:
                spread(grid, x, y, z, (real - re) * factor, (imag - im) * factor, transfer * factor)
        misfit[i] = total


@compiled
@no_type_check
def judge(spectrum, images, power, shells, kinds, left, out):
    """What projections of a reference explain of images, up to the points that are compared, and what is left in all.

    Args:
        spectrum: complex64, of the reference.
        images: `PosedImages`.
        power: (compared,) mean power of projections over all views, at the points that are compared.
        shells: (points,) int64, shell of each point.
        kinds: (batch,) row of `left` of each image.
        left: (kinds, shells) float64, receives the weighted power that is left.
        out: (batch, 3) float64, receives the power of the image at the compared points, that of its projection, and the
            mean power of all its projections.
    """
    compared, last = power.shape[0], left.shape[1]
    for i in range(images.axes.shape[0]):
        seen, expected, mean = 0.0, 0.0, 0.0
        for p in range(images.kx.shape[0]):
            x, y, z, re, im = _place(images, i, p)
            if p < compared:
                real, imag = value_at(spectrum, x, y, z)
                transfer = images.transfer[i, p]
                real, imag = transfer * real, transfer * imag
                expected += real * real + imag * imag
                seen += re * re + im * im
                mean += transfer * transfer * power[p]
                re, im = re - images.scale[i] * real, im - images.scale[i] * imag
            if shells[p] < last:
                left[kinds[i], shells[p]] += images.weight[i] * (re * re + im * im)
        out[i, 0], out[i, 1], out[i, 2] = seen, expected, mean
