"""The wave equation: a string with its first and fifth mode."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import MLP, Box, derivative, gradient
from sciml_pdes.collocation import Collocation, Embedded

MODE = 5
FEATURES = 4
STEEPNESS = (1.0,) * FEATURES + (6.0,)
"""Along the features, which are waves already, and along t, in which the solution swings five times."""


class Wave(Collocation):
    """u_tt = 4 u_xx on [0, 1] x [0, 1], u = 0 at both ends, u(x, 0) = sin(pi x) + sin(5 pi x) / 2, u_t(x, 0) = 0.

    The setting of Rathore et al. (arXiv 2402.01868). The network sees cos(k pi x), k = 1 to 4, and t, and is multiplied
    by sin(pi x): sin(5 pi x) / sin(pi x) is a polynomial of degree 4 in cos(pi x).
    """

    domain = Box((0.0, 0.0), (1.0, 1.0))
    points = 2000
    hidden = (24, 24)

    def network(self, seed: int) -> nn.Module:
        """A network of cos(k pi x) and t."""
        box = Box((-1.0,) * FEATURES + (0.0,), (1.0,) * (FEATURES + 1))
        return Embedded(_features, MLP(FEATURES + 1, 1, self.hidden, domain=box, seed=seed, steepness=STEEPNESS))

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """u(x, 0) + g(t) sin(pi x) N, g = t^2 / (t^2 + 0.01): with plain t^2 the network would have to reach 250."""
        place, square = x[:, :1], x[:, 1:].square()
        return _start(place) + square / (square + 0.01) * torch.sin(math.pi * place) * model(x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(u_tt - 4 u_xx) / 50 pi^2; the last number is the largest |u_tt| of the fifth mode."""
        slope = gradient(u, x)
        waves = derivative(slope[:, 1:], x, dim=1) - 4 * derivative(slope[:, :1], x, dim=0)
        return waves / (2 * (MODE * math.pi) ** 2)

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """Each mode sin(k pi x) swings as cos(2 k pi t)."""
        mode = lambda k: torch.sin(k * math.pi * x[:, :1]) * torch.cos(2 * k * math.pi * x[:, 1:])
        return mode(1) + mode(MODE) / 2


def _start(place: Tensor) -> Tensor:
    return torch.sin(math.pi * place) + torch.sin(MODE * math.pi * place) / 2


def _features(x: Tensor) -> Tensor:
    return torch.cat([torch.cos(k * math.pi * x[:, :1]) for k in range(1, FEATURES + 1)] + [x[:, 1:]], dim=-1)
