"""Gauss rules: on a line (simple and composite), on boxes, on disks."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError
from sciml.pde.domains import Box, Disk


def gauss_legendre(points: int) -> tuple[Float[Tensor, "points"], Float[Tensor, "points"]]:
    """Nodes and weights on [-1, 1], exact for polynomials of degree 2 points - 1 (float64).

    Raises:
        InputError: fewer than 1 point.
    """
    if points < 1:
        raise InputError(f"a Gauss rule with {points} points: at least 1 is needed.")
    nodes, weights = _gauss_legendre(points)
    return torch.from_numpy(nodes.copy()), torch.from_numpy(weights.copy())


@lru_cache(maxsize=64)
def _gauss_legendre(points: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(points)


def composite_gauss(
    breakpoints: Sequence[float] | Float[Tensor, "nodes"], points: int, cells: int = 1
) -> tuple[Float[Tensor, "cells points"], Float[Tensor, "cells points"]]:
    """A Gauss rule on every cell between breakpoints; each gap is first cut into `cells` equal cells.

    Integrands may jump or kink at the breakpoints: no node lies on one.

    Args:
        breakpoints: ascending, at least two.
        points: Gauss points per cell.
        cells: equal cells per gap.

    Returns:
        Nodes and weights, one row per cell, so that `(w * f(x)).sum(1)` is the integral cell by cell.

    Raises:
        InputError: breakpoints not ascending, or fewer than two.
    """
    edges = torch.as_tensor(breakpoints, dtype=torch.float64)
    if edges.numel() < 2 or bool((edges.diff() <= 0).any()):
        raise InputError(f"breakpoints {edges.tolist()}: at least two, in ascending order.")
    fractions = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    grid = edges[:-1, None] + edges.diff()[:, None] * fractions
    left, right = grid[:, :-1].reshape(-1, 1), grid[:, 1:].reshape(-1, 1)
    nodes, weights = gauss_legendre(points)
    return left + (right - left) * (nodes + 1) / 2, (right - left) * weights / 2


def box_gauss(box: Box, points: int, cells: int = 1) -> tuple[Float[Tensor, "nodes dim"], Float[Tensor, "nodes"]]:
    """The product over the axes of composite Gauss rules: the integral of f over the box is `(w * f(x)).sum()`.

    Args:
        box: where to integrate.
        points: Gauss points per cell along each axis.
        cells: equal cells along each axis.
    """
    rules = [composite_gauss(side, points, cells) for side in zip(box.lower, box.upper, strict=True)]
    nodes = torch.cartesian_prod(*(x.reshape(-1) for x, _ in rules)).reshape(-1, box.dim)
    weights = torch.cartesian_prod(*(w.reshape(-1) for _, w in rules)).reshape(-1, box.dim)
    return nodes, weights.prod(dim=-1)


def disk_gauss(disk: Disk, points: int) -> tuple[Float[Tensor, "nodes 2"], Float[Tensor, "nodes"]]:
    """A rule of 2 points^2 nodes on a disk, exact for polynomials of degree 2 points - 1 in x and y.

    Gauss's rule in the square of the radius, the trapezoidal rule in the angle.
    """
    t, w = gauss_legendre(points)
    radius = disk.radius * ((t + 1) / 2).sqrt()
    angle = (torch.arange(2 * points, dtype=torch.float64) + 0.5) * (math.pi / points)
    circle = torch.stack([angle.cos(), angle.sin()], dim=-1)
    nodes = torch.tensor(disk.center, dtype=torch.float64) + radius[:, None, None] * circle
    weights = (w / 2 * disk.volume / (2 * points))[:, None].expand(-1, 2 * points)
    return nodes.reshape(-1, 2), weights.reshape(-1)
