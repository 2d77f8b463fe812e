"""The cubic Klein-Gordon equation with a source."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import Box, derivative, gradient
from sciml_pdes.collocation import Collocation


class KleinGordon(Collocation):
    """u_tt - u_xx + u^3 = f on [0, 1] x [0, 1], u = 0 at both ends, u(x, 0) = sin(pi x), u_t(x, 0) = 0.

    The source f = -8 pi^2 s + s^3 with s = sin(pi x) cos(3 pi t) makes s the solution.
    """

    domain = Box((0.0, 0.0), (1.0, 1.0))

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """sin(pi x) + 4 g(t) x (1 - x) N, g = t^2 / (t^2 + 0.05): g and g' vanish at the start."""
        place, time = x[:, :1], x[:, 1:]
        ramp = time.square() / (time.square() + 0.05)
        return torch.sin(math.pi * place) + 4 * ramp * place * (1 - place) * model(x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(u_tt - u_xx + u^3 - f) / 9 pi^2; the last number is the largest |u_tt|."""
        slope = gradient(u, x)
        waves = derivative(slope[:, 1:], x, dim=1) - derivative(slope[:, :1], x, dim=0)
        target = torch.sin(math.pi * x[:, :1]) * torch.cos(3 * math.pi * x[:, 1:])
        return (waves + u**3 + 8 * math.pi**2 * target - target**3) / (9 * math.pi**2)

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """sin(pi x) cos(3 pi t)."""
        return torch.sin(math.pi * x[:, :1]) * torch.cos(3 * math.pi * x[:, 1:])
