"""Composite Gauss-Legendre rules on a line."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError


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
