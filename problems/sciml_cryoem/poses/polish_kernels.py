"""Compiled loops of the continuous refinement of poses: Levenberg-Marquardt for each image. numba, serial, cached.

`misfit_kernels.evaluate` computes misfit, gradient and Gauss-Newton matrix of one pose; this module takes the steps.
"""

import math
from typing import NamedTuple, no_type_check  # numba cannot compile what a run-time type checker has wrapped

import numpy as np

from sciml_cryoem.imaging.compiled import compiled
from sciml_cryoem.poses.misfit_kernels import CHUNK, MOMENTS, evaluate


class StepLimits(NamedTuple):
    """When Levenberg-Marquardt stops, and how far a step may go.

    Attributes:
        least_turn: a step that turns less (radian) and moves less than `least_move` is the last.
        least_move: in pixels.
        longest_turn: of one step, radian.
        longest_move: of one step, pixels.
        evaluations: of the misfit, at most.
        damping: of the first step, as a fraction of the diagonal.
        gain: a step that promises to raise the log-likelihood by less is the last.
    """

    least_turn: float
    least_move: float
    longest_turn: float
    longest_move: float
    evaluations: int
    damping: float
    gain: float


@compiled
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


@compiled
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


@compiled
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


@compiled
@no_type_check
def _limit(step, limits):
    """Shorten a step to the longest turn and move; returns whether it was shorter than the least ones."""
    angle = math.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2)
    move = math.sqrt(step[3] ** 2 + step[4] ** 2)
    if angle > limits.longest_turn:
        for j in range(3):
            step[j] *= limits.longest_turn / angle
    if move > limits.longest_move:
        step[3] *= limits.longest_move / move
        step[4] *= limits.longest_move / move
    return angle < limits.least_turn and move < limits.least_move


@compiled
@no_type_check
def _copy(source, target):
    """target[:] = source. A loop, because numba takes seconds to compile the assignment of an array."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@compiled
@no_type_check
def _search(slices, image, pose, scale_range, limits, work, normal):
    """Levenberg-Marquardt from `pose`, which is changed in place; returns first and last misfit, and evaluations."""
    total, lower, step = np.empty(MOMENTS), np.zeros((5, 5)), np.empty(5)
    trial, other = np.empty((4, 3)), np.empty((5, 6))
    _copy(pose, trial)
    first, misfit, damping, used, last = 0.0, 0.0, limits.damping, 0, False
    while True:
        # Keep a single call site: numba inlines it, and a second one would double compile time.
        found, trial[3, 2] = evaluate(slices, image, trial, scale_range, (work, total), other)
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
        if last or used >= limits.evaluations:
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
        last = _limit(step, limits) or promise < limits.gain
        turned(pose, step, trial)


@compiled
@no_type_check
def refine(slices, images, which, poses, scale_range, limits, report, normals):
    """Refine many poses, one after the other.

    Args:
        slices: `SliceGrid`.
        images: transfer (images, points) float32 and values (images, points) complex64, whitened.
        which: (jobs,) int64, the image of each job.
        poses: (jobs, 4, 3) float64 as in `evaluate`; changed in place.
        scale_range: `ScaleRange`.
        limits: `StepLimits`.
        report: (jobs, 3), out: first and last misfit, evaluations.
        normals: (jobs, 5, 6), out: Gauss-Newton equations at the end.
    """
    transfer, values = images
    work = np.empty((8, CHUNK), np.float32)
    for job in range(which.shape[0]):
        image = transfer[which[job]], values[which[job]]
        found = _search(slices, image, poses[job], scale_range, limits, work, normals[job])
        report[job, 0], report[job, 1], report[job, 2] = found
