"""Compiled loops of the pose search: the posterior of one image over a grid, its sums, and their insertion.

Layout of scores: (shifts, orientations), row-major float32. `real` and `imaginary` are the products of the real and of
the imaginary parts of images and slices; their sum and difference are the scores at in-plane angles psi and psi + 180
degrees.
"""

import math
from typing import no_type_check

import numpy as np

from sciml_cryoem.imaging.compiled import compiled, compiler
from sciml_cryoem.imaging.kernels import spread

_RUN = 96  # orientations looked at together
_FLOOR, _ZERO = np.float32(-30.0), np.float32(0.0)
_fast = compiler(True)


@_fast
@no_type_check
def posterior(real, imaginary, norm, cutoff):
    """Turn scores of one image into posterior weights, in place.

    Args:
        real: (shifts, orientations); becomes w(psi) + w(psi + 180).
        imaginary: (shifts, orientations); becomes w(psi) - w(psi + 180).
        norm: (orientations,) sum of |CTF P|^2, taken off every score.
        cutoff: weights below exp(-cutoff) of the largest are set to 0.

    Returns:
        log of the sum of all likelihoods, and the number of entries that are not 0.
    """
    shifts, count = real.shape
    best = np.float32(-1e30)
    tops = np.empty((shifts, (count + _RUN - 1) // _RUN), np.float32)
    for s in range(shifts):
        for run in range(tops.shape[1]):
            top = np.float32(-1e30)
            for r in range(run * _RUN, min(run * _RUN + _RUN, count)):
                top = max(top, real[s, r] - norm[r] + abs(imaginary[s, r]))
            tops[s, run] = top
            best = max(best, top)
    total, kept = np.float32(0.0), 0
    least = np.exp(-cutoff)
    for s in range(shifts):
        for run in range(tops.shape[1]):
            first_r, last_r = run * _RUN, min(run * _RUN + _RUN, count)
            if tops[s, run] < best - cutoff:
                real[s, first_r:last_r] = 0
                imaginary[s, first_r:last_r] = 0
                continue
            for r in range(first_r, last_r):
                middle, side = real[s, r] - norm[r] - best, imaginary[s, r]
                # Clamp instead of branching: the loop stays vectorized, and slow subnormal numbers do not occur.
                first, second = math.exp(max(middle + side, _FLOOR)), math.exp(max(middle - side, _FLOOR))
                keep = max(first, second) >= least
                both = first + second if keep else _ZERO
                real[s, r] = both
                imaginary[s, r] = first - second if keep else _ZERO
                total += both
                kept += keep
    scale = np.float32(1.0) / total
    for s in range(shifts):
        for run in range(tops.shape[1]):
            if tops[s, run] >= best - cutoff:
                for r in range(run * _RUN, min(run * _RUN + _RUN, count)):
                    real[s, r] *= scale
                    imaginary[s, r] *= scale
    return best + math.log(total), kept


@_fast
@no_type_check
def likeliest(plus, minus, rotations, cosine, found):
    """The likeliest poses of one image that lie apart.

    Args:
        plus: (shifts, orientations) from `posterior`.
        minus: likewise.
        rotations: (orientations, 9) float32, matrices A of the first half turn.
        cosine: (trace - 1) / 2 of the turn between two poses, above which they are taken for one.
        found: (poses, 3) int64: shift, orientation, half of each; those that cannot be found repeat the one before.
    """
    shifts, count = plus.shape
    best = np.zeros((2, count), np.float32)
    place = np.zeros((2, count), np.int64)
    for s in range(shifts):
        for r in range(count):
            p = plus[s, r]
            if p == 0:
                continue
            m = minus[s, r]
            if p + m > best[0, r]:
                best[0, r], place[0, r] = p + m, s
            if p - m > best[1, r]:
                best[1, r], place[1, r] = p - m, s
    for number in range(found.shape[0]):
        top, half, where = np.float32(0.0), 0, -1
        for h in range(2):
            for r in range(count):
                if best[h, r] > top:
                    top, half, where = best[h, r], h, r
        if where < 0:
            for j in range(3):  # an assignment of rows takes seconds to compile
                found[number, j] = found[number - 1, j]
            continue
        found[number, 0], found[number, 1], found[number, 2] = place[half, where], where, half
        if number + 1 == found.shape[0]:
            break
        for r in range(count):
            upper = np.float32(0.0)
            for j in range(6):
                upper += rotations[r, j] * rotations[where, j]
            lower = np.float32(0.0)
            for j in range(6, 9):
                lower += rotations[r, j] * rotations[where, j]
            # Half a turn in the plane changes the sign of the first two rows.
            if upper + lower > 2 * cosine + 1:
                best[half, r] = 0
            if lower - upper > 2 * cosine + 1:
                best[1 - half, r] = 0


@_fast
@no_type_check
def add_sparse(plus, minus, image, squares, numerator, denominator):
    """Add one image to the sums of the orientations that it may have.

    Args:
        plus: (shifts, orientations) from `posterior`.
        minus: likewise.
        image: (shifts, points) complex64, CTF times shifted values.
        squares: (points,) CTF^2.
        numerator: (orientations, points) complex128, changed in place.
        denominator: (orientations, points) float64, changed in place.
    """
    shifts, count = plus.shape
    for r in range(count):
        weight = np.float32(0.0)
        for s in range(shifts):
            p = plus[s, r]
            if p == 0:
                continue
            m = minus[s, r]
            weight += p
            for k in range(image.shape[1]):
                numerator[r, k] += complex(p * image[s, k].real, m * image[s, k].imag)
        if weight != 0:
            for k in range(image.shape[1]):
                denominator[r, k] += weight * squares[k]


@compiled
@no_type_check
def insert_slices(grid, axes, kx, ky, values, weights):
    """Add slices (batch, points) and their weights to a grid of (real, imaginary, weight); points without weight are
    skipped. `axes` are those of `rotations.slice_axes`, times the padding."""
    for i in range(axes.shape[0]):
        for p in range(kx.shape[0]):
            w = weights[i, p]
            if w == 0:
                continue
            re, im = values[i, p].real, values[i, p].imag
            x = axes[i, 0, 0] * kx[p] + axes[i, 1, 0] * ky[p]
            y = axes[i, 0, 1] * kx[p] + axes[i, 1, 1] * ky[p]
            z = axes[i, 0, 2] * kx[p] + axes[i, 1, 2] * ky[p]
            if x < 0:
                x, y, z, im = -x, -y, -z, -im
            spread(grid, x, y, z, re, im, w)
