"""Compiled loops that compare an image with a slice: misfit, gradient and Gauss-Newton matrix. numba, serial, cached.

One evaluation of an image reads value and gradient of the trilinear interpolation at every slice point in one gather,
and reduces them to `MOMENTS` sums, of which misfit, best scale, gradient and Gauss-Newton matrix all are closed forms.
The points go through in chunks: `_slice` (scalar, eight corners a point) fills buffers in the first cache,
`_moments` (vectorized) reduces them. Sums are float32 within a chunk, float64 across.

Turning the view by a small rotation vector w, A <- exp([w]) A, moves the slice point of k = (kx, ky, 0) by A^T (k x w).
With Gx, Gy, Gz the gradient of the transform along the axes of the view, an image point changes by

    d/dw = (-ky Gz, kx Gz, ky Gx - kx Gy),    d/d offset = 2 pi i / n (kx, ky) P

so that the matrix needs only sums of products of three complex numbers, P, Z = Gz and D = ky Gx - kx Gy.
"""

import math
from typing import NamedTuple, no_type_check  # numba cannot compile what a run-time type checker has wrapped

import numpy as np

from sciml_cryoem.imaging.compiled import compiled, compiler

_reduction = compiler({"contract", "arcp", "nsz", "reassoc"})

CHUNK = 256
"""Points whose slice values are in the buffers at once."""

MOMENTS = 25
"""Length of the vector of sums; `_moments` says which."""


class SliceGrid(NamedTuple):
    """What central slices are read from, and where (`ReferenceSpectrum.slice_grid`).

    Attributes:
        grid: (S, S, X, 2) float32, reference around its origin, axes z y x (`crop`).
        points: (2, points) float32, kx and ky.
        index: (2, points) int32, row of the ramp tables for kx and for ky.
        turn: 2 pi / n.
        padding: of the grid.
        reach: largest |kx| or |ky|.
    """

    grid: np.ndarray
    points: np.ndarray
    index: np.ndarray
    turn: float
    padding: float
    reach: int


class ScaleRange(NamedTuple):
    """The scale of an image: whether it is free, and its bounds."""

    free: bool
    lowest: float
    highest: float


@compiled
@no_type_check
def crop(spectrum, out):
    """Copy what is near the origin of a half spectrum (FFT order) to (S, S, X, 2), origin in the middle of z and y."""
    size, center = spectrum.shape[0], (out.shape[0] - 1) // 2
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                value = spectrum[(z - center) % size, (y - center) % size, min(x, size // 2)]
                out[z, y, x, 0], out[z, y, x, 1] = value.real, value.imag


@compiled
@no_type_check
def _lerp(rows, i, part, fx, fy, fz):
    """Trilinear value of a cell and its derivatives along x, y, z.

    Args:
        rows: along x, (voxels, 2), through the corners (z, y) = (0, 0), (0, 1), (1, 0), (1, 1).
        i: lower corner in x.
        part: 0 for the real, 1 for the imaginary part.
        fx: place within the cell along x.
        fy: along y.
        fz: along z.
    """
    c000, c001 = rows[0][i, part], rows[0][i + 1, part]
    c010, c011 = rows[1][i, part], rows[1][i + 1, part]
    c100, c101 = rows[2][i, part], rows[2][i + 1, part]
    c110, c111 = rows[3][i, part], rows[3][i + 1, part]
    x00, x01, x10, x11 = c001 - c000, c011 - c010, c101 - c100, c111 - c110
    v00, v01, v10, v11 = c000 + fx * x00, c010 + fx * x01, c100 + fx * x10, c110 + fx * x11
    y0, y1 = v01 - v00, v11 - v10
    u0, u1 = v00 + fy * y0, v10 + fy * y1
    dz = u1 - u0
    x0, x1 = x00 + fy * (x01 - x00), x10 + fy * (x11 - x10)
    return u0 + fz * dz, x0 + fz * (x1 - x0), y0 + fz * (y1 - y0), dz


@compiled
@no_type_check
def _slice(slices, axes, image, ramps, scale, span, work):
    """Fill `work` with P, Z, D and the residual, real and imaginary parts, of a span of points.

    P, Z, D are multiplied by the transfer. The residual is the image value, turned by the offset into the frame of the
    reference, less `scale` times P.

    Args:
        slices: `SliceGrid`.
        axes: (3, 3) float32, the rotation times the padding.
        image: transfer (points,) float32 and values (points,) complex64.
        ramps: from `_ramps`.
        scale: float32.
        span: first point, and one past the last.
        work: (8, CHUNK) float32, out.
    """
    start, stop = span
    grid, points, index = slices.grid, slices.points, slices.index
    transfers, values = image
    center = (grid.shape[0] - 1) // 2
    a00, a01, a02 = axes[0, 0], axes[0, 1], axes[0, 2]
    a10, a11, a12 = axes[1, 0], axes[1, 1], axes[1, 2]
    a20, a21, a22 = axes[2, 0], axes[2, 1], axes[2, 2]
    zero, one = np.float32(0.0), np.float32(1.0)
    for p in range(start, stop):
        j = p - start
        kx, ky = points[0, p], points[1, p]
        x, y, z = a00 * kx + a10 * ky, a01 * kx + a11 * ky, a02 * kx + a12 * ky
        sign = one
        if x < zero:  # read the Friedel mate: conjugate value, and a gradient that is minus the conjugate
            x, y, z, sign = -x, -y, -z, -one
        floor_y, floor_z = np.float32(math.floor(y)), np.float32(math.floor(z))
        i, m, n = int(x), int(floor_y) + center, int(floor_z) + center
        fx, fy, fz = x - np.float32(i), y - floor_y, z - floor_z
        rows = (grid[n, m], grid[n, m + 1], grid[n + 1, m], grid[n + 1, m + 1])
        pr, xr, yr, zr = _lerp(rows, i, 0, fx, fy, fz)
        pi, xi, yi, zi = _lerp(rows, i, 1, fx, fy, fz)
        transfer = transfers[p]
        mirrored = transfer * sign
        dx, dy, dz = ky * a00 - kx * a10, ky * a01 - kx * a11, ky * a02 - kx * a12
        pr, pi = transfer * pr, mirrored * pi
        work[0, j], work[1, j] = pr, pi
        work[2, j] = mirrored * (a20 * xr + a21 * yr + a22 * zr)
        work[3, j] = transfer * (a20 * xi + a21 * yi + a22 * zi)
        work[4, j] = mirrored * (dx * xr + dy * yr + dz * zr)
        work[5, j] = transfer * (dx * xi + dy * yi + dz * zi)
        column, row = index[0, p], index[1, p]
        cosine = ramps[0, column] * ramps[2, row] - ramps[1, column] * ramps[3, row]
        sine = ramps[0, column] * ramps[3, row] + ramps[1, column] * ramps[2, row]
        re, im = values[p].real, values[p].imag
        work[6, j] = re * cosine + im * sine - scale * pr
        work[7, j] = im * cosine - re * sine - scale * pi


@_reduction
@no_type_check
def _moments(work, points, start, stop, total):
    """Add the sums of one chunk to `total`. R is the residual; x and y stand for kx and ky.

    0-3: |P|^2 times 1, xx, xy, yy. 4-6: |Z|^2 times xx, xy, yy. 7-9: Im conj(Z) P times xx, xy, yy. 10-11: Re conj(Z) D
    times x, y. 12: |D|^2. 13-14: Im conj(D) P times x, y. 15-16: Re conj(Z) R times x, y. 17: Re conj(D) R.
    18-19: Im conj(P) R times x, y. 20: Re conj(P) R. 21-22: Re conj(Z) P times x, y. 23: Re conj(D) P. 24: |R|^2.
    """
    zero = np.float32(0.0)
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = s11 = s12 = zero
    for p in range(start, stop):
        j = p - start
        kx, ky = points[0, p], points[1, p]
        pr, pi, zr, zi, dr, di = work[0, j], work[1, j], work[2, j], work[3, j], work[4, j], work[5, j]
        xx, xy, yy = kx * kx, kx * ky, ky * ky
        pp, zz, zp = pr * pr + pi * pi, zr * zr + zi * zi, zr * pi - zi * pr
        zd = zr * dr + zi * di
        s0 += pp
        s1 += pp * xx
        s2 += pp * xy
        s3 += pp * yy
        s4 += zz * xx
        s5 += zz * xy
        s6 += zz * yy
        s7 += zp * xx
        s8 += zp * xy
        s9 += zp * yy
        s10 += zd * kx
        s11 += zd * ky
        s12 += dr * dr + di * di
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = t8 = t9 = t10 = t11 = zero
    for p in range(start, stop):
        j = p - start
        kx, ky = points[0, p], points[1, p]
        pr, pi, zr, zi, dr, di = work[0, j], work[1, j], work[2, j], work[3, j], work[4, j], work[5, j]
        vr, vi = work[6, j], work[7, j]
        dp, zy, py, zp = dr * pi - di * pr, zr * vr + zi * vi, pr * vi - pi * vr, zr * pr + zi * pi
        t0 += dp * kx
        t1 += dp * ky
        t2 += zy * kx
        t3 += zy * ky
        t4 += dr * vr + di * vi
        t5 += py * kx
        t6 += py * ky
        t7 += pr * vr + pi * vi
        t8 += zp * kx
        t9 += zp * ky
        t10 += dr * pr + di * pi
        t11 += vr * vr + vi * vi
    sums = (s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11)
    for j in range(MOMENTS):
        total[j] += sums[j]


@compiled
@no_type_check
def _ramps(x, y, slices):
    """Cosine and sine of the phase of an offset along kx = 0 ... reach, then along ky = -reach ... reach."""
    turn, reach = slices.turn, slices.reach
    ramps = np.empty((4, 2 * reach + 1), np.float32)
    for j in range(2 * reach + 1):
        ramps[0, j], ramps[1, j] = math.cos(turn * x * j), math.sin(turn * x * j)
        angle = turn * y * (j - reach)
        ramps[2, j], ramps[3, j] = math.cos(angle), math.sin(angle)
    return ramps


@compiled
@no_type_check
def evaluate(slices, image, pose, scale_range, scratch, normal):
    """Misfit of one image at one pose, with the Gauss-Newton equations there.

    Args:
        slices: `SliceGrid`.
        image: transfer (points,) float32 and values (points,) complex64, whitened.
        pose: (4, 3) float64: rotation A in rows 0-2, then offset (x, y) and the scale to start from.
        scale_range: `ScaleRange`.
        scratch: arrays (8, CHUNK) float32 and (MOMENTS,) float64.
        normal: (5, 6) float64, out: Gauss-Newton matrix and right-hand side of the step.

    Returns:
        The misfit at the best scale, and that scale.
    """
    work, total = scratch
    ramps = _ramps(pose[3, 0], pose[3, 1], slices)
    axes = np.empty((3, 3), np.float32)
    for i in range(3):
        for j in range(3):
            axes[i, j] = pose[i, j] * slices.padding
    total[:] = 0.0
    count = slices.points.shape[1]
    scale = np.float32(pose[3, 2])
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        _slice(slices, axes, image, ramps, scale, (start, stop), work)
        _moments(work, slices.points, start, stop, total)
    for j in range(MOMENTS):
        total[j] *= 2.0  # each point speaks for its Friedel mate as well
    return _close(total, float(scale), slices.turn, scale_range, normal)


@compiled
@no_type_check
def _close(t, start, turn, scale_range, normal):
    """Misfit at the best scale, that scale, and the equations of the step, from the sums."""
    free, lowest, highest = scale_range
    scale = start
    if free and t[0] > 0:
        scale = min(max(start + t[20] / t[0], lowest), highest)
    change = scale - start
    misfit = t[24] - 2.0 * change * t[20] + change * change * t[0]
    square = scale * scale
    h = normal
    h[0, 0], h[0, 1], h[1, 1] = t[6], -t[5], t[4]
    h[0, 2], h[1, 2], h[2, 2] = -t[11], t[10], t[12]
    h[0, 3], h[0, 4], h[1, 3], h[1, 4] = turn * t[8], turn * t[9], -turn * t[7], -turn * t[8]
    h[2, 3], h[2, 4] = -turn * t[13], -turn * t[14]
    h[3, 3], h[3, 4], h[4, 4] = turn * turn * t[1], turn * turn * t[2], turn * turn * t[3]
    along = (-t[22], t[21], t[23])  # products of the derivatives with P
    if free and lowest < scale < highest and t[0] > 0:  # the scale follows the pose: eliminate it
        for i in range(3):
            for j in range(i, 3):
                h[i, j] -= along[i] * along[j] / t[0]
    residual = (-t[16], t[15], t[17])
    for i in range(3):
        h[i, 5] = scale * (residual[i] - change * along[i])
    h[3, 5], h[4, 5] = scale * turn * t[18], scale * turn * t[19]
    for i in range(5):
        for j in range(i, 5):
            h[i, j] *= square
            h[j, i] = h[i, j]
    return misfit, scale
