"""Poisson's equation on a line and on a square."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import Box, HardDirichlet, Interval, derivative, laplacian
from sciml_pdes.collocation import Collocation


class Poisson1D(Collocation):
    """-u'' = pi^2 sin(pi x) + 4 pi^2 sin(4 pi x) on [0, 1], u(0) = u(1) = 0."""

    domain = Interval(0.0, 1.0)
    axes = ("x",)
    points = 256
    hidden = (24, 24)
    tolerance = 1e-8

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """4 x (1 - x) N."""
        return HardDirichlet(Interval(0.0, 1.0), 0.0, 0.0)(model(x), x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(u'' + f) / 4 pi^2."""
        load = math.pi**2 * (torch.sin(math.pi * x) + 4 * torch.sin(4 * math.pi * x))
        return (derivative(u, x, order=2) + load) / (4 * math.pi**2)

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """sin(pi x) + sin(4 pi x) / 4."""
        return torch.sin(math.pi * x) + torch.sin(4 * math.pi * x) / 4


class Poisson2D(Collocation):
    """-Laplacian u = 2 pi^2 sin(pi x) sin(pi y) on [0, 1]^2, u = 0 on the boundary."""

    domain = Box((0.0, 0.0), (1.0, 1.0))
    axes = ("x", "y")
    points = 1000
    hidden = (20, 20)

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """16 x (1 - x) y (1 - y) N."""
        return 16 * (x * (1 - x)).prod(dim=-1, keepdim=True) * model(x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(Laplacian u + f) / 2 pi^2."""
        return laplacian(u, x) / (2 * math.pi**2) + self.reference(x)

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """sin(pi x) sin(pi y)."""
        return torch.sin(math.pi * x).prod(dim=-1, keepdim=True)
