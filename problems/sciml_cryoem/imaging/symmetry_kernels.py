"""Compiled average of Fourier sums over a point group. numba, serial, cached; layout as in `kernels`."""

import math
from typing import no_type_check  # numba cannot compile what a run-time type checker has wrapped

import numba

from sciml_cryoem.imaging.compiled import compiled


@numba.njit(inline="always")
@no_type_check
def _split(value):
    """Lower neighbor and fraction; a value within rounding of a whole number is that number."""
    near = math.floor(value + 0.5)
    if abs(value - near) < 1e-4:
        return int(near), 0.0
    low = math.floor(value)
    return int(low), value - low


@compiled
@no_type_check
def symmetrize(grid, operators, out):
    """out(q) += sum over all operators S but the first (the identity) of grid(S q), for |q| <= P / 2 + 2.

    Args:
        grid: (P, P, P/2 + 1, 3) float32, complete.
        operators: (order, 3, 3) float32, acting on (x, y, z).
        out: a copy of the grid, changed in place.
    """
    size = grid.shape[0]
    last = size // 2
    limit = (last + 2) ** 2
    for iz in range(size):
        qz = iz if iz <= last else iz - size
        for iy in range(size):
            qy = iy if iy <= last else iy - size
            for qx in range(last + 1):
                if qx * qx + qy * qy + qz * qz > limit:
                    continue
                re, im, weight = 0.0, 0.0, 0.0
                for s in range(1, operators.shape[0]):
                    x = operators[s, 0, 0] * qx + operators[s, 0, 1] * qy + operators[s, 0, 2] * qz
                    y = operators[s, 1, 0] * qx + operators[s, 1, 1] * qy + operators[s, 1, 2] * qz
                    z = operators[s, 2, 0] * qx + operators[s, 2, 1] * qy + operators[s, 2, 2] * qz
                    sign = 1.0
                    if x < 0:
                        x, y, z, sign = -x, -y, -z, -1.0
                    x0, fx = _split(x)
                    y0, fy = _split(y)
                    z0, fz = _split(z)
                    for dz in range(2):
                        tz = fz if dz else 1.0 - fz
                        jz = z0 + dz
                        if tz == 0.0 or jz > last or jz < -last:
                            continue
                        for dy in range(2):
                            t = tz * (fy if dy else 1.0 - fy)
                            jy = y0 + dy
                            if t == 0.0 or jy > last or jy < -last:
                                continue
                            for dx in range(2):
                                share = t * (fx if dx else 1.0 - fx)
                                jx = x0 + dx
                                if share == 0.0 or jx > last:
                                    continue
                                re += share * grid[jz, jy, jx, 0]
                                im += sign * share * grid[jz, jy, jx, 1]
                                weight += share * grid[jz, jy, jx, 2]
                out[iz, iy, qx, 0] += re
                out[iz, iy, qx, 1] += im
                out[iz, iy, qx, 2] += weight
