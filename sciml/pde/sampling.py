"""Random points in the unit cube. Every call is an independent draw, a pure function of the generator's state."""

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.batches import adaptive_choice
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


def residual_adaptive(
    candidates: Float[Tensor, "candidates dim"],
    density: Float[Tensor, "candidates"],
    size: int,
    generator: torch.Generator,
    uniform_fraction: float = 0.5,
) -> Float[Tensor, "points dim"]:
    """Choose `size` of the candidates where the residual is large, without losing sight of the rest.

    Candidate i is drawn with probability proportional to (1 - f) density_i / mean(density) + f, without replacement
    and in random order. With uniform candidates the fraction f of the points is expected to be uniform. This is RAD of
    Wu et al. (2023, Comput. Methods Appl. Mech. Eng. 403, 115671; arXiv 2207.10289), p ~ |r|^k / E|r|^k + c, with
    density = |r|^k and c = f / (1 - f): the default is their k = 1, c = 1 when |r| is given.

    Args:
        candidates: uniform points of the domain, several times as many as are wanted (10,000 is usual).
        density: |residual|^k at the candidates, k = 1 or 2; any scale. Zero everywhere means uniform.
        size: number of points.
        generator: a CPU generator, the only source of randomness.
        uniform_fraction: f, from 0 (residual only) to 1 (uniform).

    Returns:
        The chosen rows of `candidates`.

    Raises:
        InputError: fewer candidates than points, a fraction outside [0, 1], a negative or non-finite density.
    """
    if len(density) != len(candidates):
        raise InputError(f"{len(density)} densities for {len(candidates)} candidates: one each is needed.")
    chosen = adaptive_choice(density, size, generator, uniform_fraction)
    return candidates[chosen.to(candidates.device)]
