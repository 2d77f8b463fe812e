"""Helmholtz's equation with one half wave along x and four along y."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import Box, laplacian
from sciml_pdes.collocation import Collocation


class Helmholtz(Collocation):
    """Laplacian u + u = -(17 pi^2 - 1) sin(pi x) sin(4 pi y) on [-1, 1]^2, u = 0 on the boundary.

    The case (a1, a2) = (1, 4), k = 1 of Wang, Teng and Perdikaris (2021).
    """

    domain = Box((-1.0, -1.0), (1.0, 1.0))
    axes = ("x", "y")

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(1 - x^2) (1 - y^2) N."""
        return (1 - x.square()).prod(dim=-1, keepdim=True) * model(x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(Laplacian u + u) / (17 pi^2 - 1) + sin(pi x) sin(4 pi y)."""
        source = torch.sin(math.pi * x[:, :1]) * torch.sin(4 * math.pi * x[:, 1:])
        return (laplacian(u, x) + u) / (17 * math.pi**2 - 1) + source

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """sin(pi x) sin(4 pi y)."""
        return torch.sin(math.pi * x[:, :1]) * torch.sin(4 * math.pi * x[:, 1:])
