"""The heat equation: two modes that decay at different rates."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import Box, derivative, gradient
from sciml_pdes.collocation import Collocation

DIFFUSIVITY = 0.1


class Heat(Collocation):
    """u_t = 0.1 u_xx on [0, 1] x [0, 1], u = 0 at both ends, u(x, 0) = sin(pi x) + sin(3 pi x) / 2."""

    domain = Box((0.0, 0.0), (1.0, 1.0))
    points = 1000
    hidden = (20, 20)

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """u(x, 0) + 4 t x (1 - x) N."""
        place, time = x[:, :1], x[:, 1:]
        return _start(place) + 4 * time * place * (1 - place) * model(x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(u_t - 0.1 u_xx) / (0.55 pi^2); the last number is the largest rate at the start."""
        slope = gradient(u, x)
        rate = slope[:, 1:] - DIFFUSIVITY * derivative(slope[:, :1], x, dim=0)
        return rate / (DIFFUSIVITY * 5.5 * math.pi**2)

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """Each mode sin(k pi x) decays as exp(-0.1 k^2 pi^2 t)."""
        mode = lambda k: torch.sin(k * math.pi * x[:, :1]) * torch.exp(-DIFFUSIVITY * (k * math.pi) ** 2 * x[:, 1:])
        return mode(1) + mode(3) / 2


def _start(place: Tensor) -> Tensor:
    return torch.sin(math.pi * place) + torch.sin(3 * math.pi * place) / 2
