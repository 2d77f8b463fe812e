"""Compiled loops of the refinement of defocus: one unknown for each image, its pose fixed. numba, serial, cached.

An offset d of the defocus changes the phase of the CTF by -pi lambda d s^2, which for coefficients `ctf[0:3] += -pi
lambda d ctf[3:6]` holds with astigmatism and anisotropic magnification as well.
"""

import math
from typing import no_type_check

import numpy as np

from sciml_cryoem.imaging.compiled import compiled
from sciml_cryoem.poses.misfit_kernels import CHUNK, _ramps, _slice

_SCAN = 4  # places tried on either side of zero, out to twice the prior deviation, before Newton's steps


@compiled
@no_type_check
def _misfit(pairs, points, ctf, scale, phase):
    """Misfit at an added phase of `phase` times s^2, half its derivative there and the Gauss-Newton curvature."""
    pxx, pxy, pyy, rxx, rxy, ryy = ctf[0], ctf[1], ctf[2], ctf[3], ctf[4], ctf[5]
    quartic, constant, damping, height = ctf[6], ctf[7], ctf[8], scale * ctf[9]
    total, slope, curvature = 0.0, 0.0, 0.0
    for p in range(points.shape[1]):
        kx, ky = points[0, p], points[1, p]
        square = rxx * kx * kx + rxy * kx * ky + ryy * ky * ky
        gamma = pxx * kx * kx + pxy * kx * ky + pyy * ky * ky + quartic * square * square + constant + phase * square
        factor = height * math.exp(-damping * square)
        transfer, change = -math.sin(gamma) * factor, -math.cos(gamma) * factor * square
        re, im = pairs[2, p] - transfer * pairs[0, p], pairs[3, p] - transfer * pairs[1, p]
        total += re * re + im * im
        slope -= change * (re * pairs[0, p] + im * pairs[1, p])
        curvature += change * change * (pairs[0, p] * pairs[0, p] + pairs[1, p] * pairs[1, p])
    return 2.0 * total, 2.0 * slope, 2.0 * curvature  # each point speaks for its Friedel mate as well


@compiled
@no_type_check
def _best(pairs, points, ctf, scale, unit, deviation):
    """Offset of the defocus with the least misfit plus prior, its deviation, and misfit before and after."""
    best, least, before = 0.0, math.inf, 0.0
    for j in range(-_SCAN, _SCAN + 1):
        offset = 2.0 * deviation * j / _SCAN
        found, _, _ = _misfit(pairs, points, ctf, scale, unit * offset)
        before = found if j == 0 else before
        found += (offset / deviation) ** 2
        if found < least:
            best, least = offset, found
    precision, inverse, shorter = 0.0, deviation**-2, 1.0
    for _ in range(12):
        misfit, slope, curvature = _misfit(pairs, points, ctf, scale, unit * best)
        precision = curvature * unit * unit + inverse
        step = -shorter * (slope * unit + best * inverse) / precision
        if abs(step) * math.sqrt(precision) < 0.02:
            break
        found, _, _ = _misfit(pairs, points, ctf, scale, unit * (best + step))
        if found + ((best + step) / deviation) ** 2 < misfit + (best / deviation) ** 2:
            best, shorter = best + step, 1.0
        else:
            shorter *= 0.25
    after, _, _ = _misfit(pairs, points, ctf, scale, unit * best)
    return best, 1.0 / math.sqrt(precision), before, after


@compiled
@no_type_check
def refocus(slices, images, poses, prior, report):
    """Refine the defocus of many images, one after the other.

    Args:
        slices: `SliceGrid`.
        images: values (images, points) complex64, whitened; CTF (images, 10) float32; groups (images,) int64; whitening
            (groups, points) float32.
        poses: (images, 4, 3) as in `misfit_kernels.evaluate`; not changed.
        prior: (images, 2) float64: wavelength and prior deviation of the defocus, Angstrom.
        report: (images, 4), out: offset of the defocus and its posterior deviation (Angstrom), misfit before and after.
    """
    values, ctf, groups, whitening = images
    count = slices.points.shape[1]
    work = np.empty((8, CHUNK), np.float32)
    pairs = np.empty((4, count), np.float32)  # slice without its CTF, image turned into its frame
    axes = np.empty((3, 3), np.float32)
    for i in range(poses.shape[0]):
        image = whitening[groups[i]], values[i]
        for j in range(3):
            for k in range(3):
                axes[j, k] = poses[i, j, k] * slices.padding
        ramps = _ramps(poses[i, 3, 0], poses[i, 3, 1], slices)
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            _slice(slices, axes, image, ramps, np.float32(0.0), (start, stop), work)
            for p in range(start, stop):
                pairs[0, p], pairs[1, p] = work[0, p - start], work[1, p - start]
                pairs[2, p], pairs[3, p] = work[6, p - start], work[7, p - start]
        unit = -math.pi * prior[i, 0]
        found = _best(pairs, slices.points, ctf[i], poses[i, 3, 2], unit, prior[i, 1])
        report[i, 0], report[i, 1], report[i, 2], report[i, 3] = found
