"""Compiled loops of the continuous refinement of poses: Levenberg-Marquardt for each image. numba, serial, cached.

`misfit_kernels.evaluate` gives misfit, gradient and Gauss-Newton matrix of one pose; here are the steps between.
"""

import math
from typing import no_type_check  # numba cannot compile what a run-time type checker has wrapped

import numba
import numpy as np

from sciml_cryoem.poses.misfit_kernels import CHUNK, MOMENTS, evaluate

_OPTIONS = {"cache": True, "nogil": True, "fastmath": {"contract", "arcp", "nsz"}}


@numba.njit(**_OPTIONS)
@no_type_check
def factor(matrix, damping, out):
    """Lower Cholesky factor of a 5 x 5 matrix whose diagonal is raised by the factor 1 + damping; False if singular."""
    for i in range(5):
        for j in range(i + 1):
            value = matrix[i, j]
            if i == j:
                value *= 1.0 + damping
            for k in range(j):
                value -= out[i, k] * out[j, k]
            if i == j:
                if not value > 1e-12 * matrix[i, i]:
                    return False
                out[i, i] = math.sqrt(value)
            else:
                out[i, j] = value / out[j, j]
    return True


@numba.njit(**_OPTIONS)
@no_type_check
def substitute(lower, vector):
    """Solve L L^T x = vector in place."""
    for i in range(5):
        for k in range(i):
            vector[i] -= lower[i, k] * vector[k]
        vector[i] /= lower[i, i]
    for i in range(4, -1, -1):
        for k in range(i + 1, 5):
            vector[i] -= lower[k, i] * vector[k]
        vector[i] /= lower[i, i]


@numba.njit(**_OPTIONS)
@no_type_check
def turned(pose, step, out):
    """out = the pose moved by a step: exp([w]) A, offset plus offset (Rodrigues)."""
    x, y, z = step[0], step[1], step[2]
    angle = math.sqrt(x * x + y * y + z * z)
    first = 1.0 if angle < 1e-12 else math.sin(angle) / angle
    second = 0.5 if angle < 1e-6 else (1.0 - math.cos(angle)) / (angle * angle)
    for j in range(3):
        a, b, c = pose[0, j], pose[1, j], pose[2, j]
        u, v, w = y * c - z * b, z * a - x * c, x * b - y * a
        out[0, j] = a + first * u + second * (y * w - z * v)
        out[1, j] = b + first * v + second * (z * u - x * w)
        out[2, j] = c + first * w + second * (x * v - y * u)
    out[3, 0], out[3, 1], out[3, 2] = pose[3, 0] + step[3], pose[3, 1] + step[4], pose[3, 2]


@numba.njit(**_OPTIONS)
@no_type_check
def _limit(step, settings):
    """Shorten a step to the longest turn and move allowed; tell whether it was shorter than the tolerances."""
    angle = math.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2)
    move = math.sqrt(step[3] ** 2 + step[4] ** 2)
    if angle > settings[8]:
        for j in range(3):
            step[j] *= settings[8] / angle
    if move > settings[9]:
        step[3] *= settings[9] / move
        step[4] *= settings[9] / move
    return angle < settings[6] and move < settings[7]


@numba.njit(**_OPTIONS)
@no_type_check
def _copy(source, target):
    """target[:] = source, which takes seconds to compile."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@numba.njit(**_OPTIONS)
@no_type_check
def _search(grid, points, index, image, pose, settings, work, normal):
    """Levenberg-Marquardt from `pose`, which is changed in place; returns first and last misfit, and evaluations."""
    total, lower, step = np.empty(MOMENTS), np.zeros((5, 5)), np.empty(5)
    trial, other = np.empty((4, 3)), np.empty((5, 6))
    _copy(pose, trial)
    first, misfit, damping, used, last = 0.0, 0.0, settings[11], 0, False
    while True:
        # The only call: what is compiled doubles with a second one.
        found, trial[3, 2] = evaluate(grid, points, index, image, trial, settings, work, total, other)
        used += 1
        if used == 1:
            first = found
        if used == 1 or found < misfit:
            misfit = found
            _copy(trial, pose)
            _copy(other, normal)
            if used > 1:
                damping *= 0.1
        else:
            damping = max(10.0 * damping, 1.0)  # at least half the step: below, the next would be much the same
        if last or used >= settings[10]:
            return first, misfit, used
        while not factor(normal, damping, lower):
            damping *= 10.0
            if not damping < 1e8:  # no information at all
                return first, misfit, used
        for j in range(5):
            step[j] = normal[j, 5]
        substitute(lower, step)
        promise = 0.0  # by how much the log-likelihood would rise if the model were exact
        for j in range(5):
            promise += 0.5 * step[j] * normal[j, 5]
        last = _limit(step, settings) or promise < settings[12]
        turned(pose, step, trial)


@numba.njit(**_OPTIONS)
@no_type_check
def fill(values, ctf, whitening, points, index, image):
    """Transfer (CTF times whitening) and image values of one image, all times the root of the multiplicity."""
    pxx, pxy, pyy, rxx, rxy, ryy = ctf[0], ctf[1], ctf[2], ctf[3], ctf[4], ctf[5]
    quartic, constant, damping, scale = ctf[6], ctf[7], ctf[8], ctf[9]
    for p in range(points.shape[1]):
        kx, ky, root = points[0, p], points[1, p], points[2, p]
        square = rxx * kx * kx + rxy * kx * ky + ryy * ky * ky
        gamma = pxx * kx * kx + pxy * kx * ky + pyy * ky * ky + quartic * square * square + constant
        transfer = -math.sin(gamma) * scale
        if damping != 0:
            transfer *= math.exp(-damping * square)
        image[0, p] = transfer * whitening[index[2, p]] * root
        image[1, p], image[2, p] = values[p].real * root, values[p].imag * root


@numba.njit(**_OPTIONS)
@no_type_check
def refine(grid, points, index, images, which, poses, settings, report, normals):
    """Refine many poses, one after the other.

    Args:
        grid, points, index: see `evaluate`.
        images: values (images, points) complex64, CTF (images, 10) float32, groups (images,) int64, whitening (groups,
            shells) float32.
        which: (jobs,) int64, the image of each job.
        poses: (jobs, 4, 3) float64 as in `evaluate`; changed in place.
        settings: (13,) float64: 2 pi / n, padding, largest |kx| or |ky|, 1 if the scale is free, lowest and highest
            scale, tolerance (radian, pixels), longest step (radian, pixels), most evaluations, first damping, least
            gain.
        report: (jobs, 3), out: first and last misfit, evaluations.
        normals: (jobs, 5, 6), out: Gauss-Newton equations at the end.
    """
    values, ctf, groups, whitening = images
    image, work = np.empty((3, points.shape[1]), np.float32), np.empty((8, CHUNK), np.float32)
    last = -1
    for job in range(which.shape[0]):
        i = which[job]
        if i != last:
            fill(values[i], ctf[i], whitening[groups[i]], points, index, image)
            last = i
        found = _search(grid, points, index, image, poses[job], settings, work, normals[job])
        report[job, 0], report[job, 1], report[job, 2] = found
