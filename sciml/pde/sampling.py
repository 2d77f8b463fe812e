"""Random points in the unit cube. Every call is an independent draw: a pure function of the generator's state."""

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError

METHODS = ("auto", "sobol", "uniform", "stratified", "latin")


def unit_points(size: int, dim: int, generator: torch.Generator, method: str = "auto") -> Float[Tensor, "points dim"]:
    """Points in [0, 1)^dim, each one uniformly distributed by itself, in random order, float64 on the CPU.

    The order is random, so that any part of the points is again spread over the whole cube.

    Args:
        size: number of points, at least 1.
        dim: number of coordinates.
        generator: a CPU generator; all randomness comes from it.
        method: `uniform` draws independently; `stratified` one point in each cell of a grid (jittered; what the grid
            cannot hold is drawn uniformly); `latin` one in each of `size` slices of every axis; `sobol` a freshly
            scrambled Sobol sequence; `auto` takes stratified on a line and Sobol in more dimensions.

    Raises:
        InputError: an unknown method or a size below 1.
    """
    if size < 1:
        raise InputError(f"{size} points: at least 1 is needed.")
    if method not in METHODS:
        raise InputError(f"sampling method {method!r}: choose one of {', '.join(METHODS)}.")
    if method == "auto":
        method = "stratified" if dim == 1 else "sobol"
    if method == "uniform":
        return torch.rand(size, dim, generator=generator, dtype=torch.float64)
    if method == "stratified":
        points = _stratified(size, dim, generator)
    elif method == "latin":
        return _latin(size, dim, generator)
    else:
        points = _sobol(size, dim, generator)
    return points[torch.randperm(size, generator=generator)]


def _stratified(size: int, dim: int, generator: torch.Generator) -> Tensor:
    side = int(size ** (1 / dim) + 1e-9)
    axes = [torch.arange(side, dtype=torch.float64)] * dim
    corners = torch.cartesian_prod(*axes).reshape(-1, dim)
    jitter = torch.rand(size, dim, generator=generator, dtype=torch.float64)
    return torch.cat([(corners + jitter[: len(corners)]) / side, jitter[len(corners) :]])


def _latin(size: int, dim: int, generator: torch.Generator) -> Tensor:
    slices = torch.stack([torch.randperm(size, generator=generator) for _ in range(dim)], dim=1)
    return (slices + torch.rand(size, dim, generator=generator, dtype=torch.float64)) / size


def _sobol(size: int, dim: int, generator: torch.Generator) -> Tensor:
    seed = int(torch.randint(0, 2**63 - 1, (), generator=generator))
    return torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(size, dtype=torch.float64)
