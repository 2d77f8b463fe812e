"""Fast convection around a circle: the classic failure of plain training."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import MLP, Box, gradient
from sciml_pdes.collocation import Collocation, Embedded

SPEED = 40.0
HARMONICS = 8
"""The network is offered 1, 2, ... so many turns per unit of time. The solution turns 40 / 2 pi = 6.4 times."""


class Convection(Collocation):
    """u_t + 40 u_x = 0 on [0, 2 pi] x [0, 1], periodic in x, u(x, 0) = sin x.

    The setting of Krishnapriyan et al. (2021). The network sees cos x and sin x, so it is periodic with all its
    derivatives, and waves in time up to the frequency that the speed gives the longest wave in x: a plain network of t
    needs many times as long to leave its first plateau.
    """

    domain = Box((0.0, 0.0), (2 * math.pi, 1.0))
    points = 2000
    hidden = (32,)

    def network(self, seed: int) -> nn.Module:
        """A network of cos x, sin x, and cos and sin of 2 pi k t, k = 1 to 8."""
        return Embedded(_features, MLP(2 + 2 * HARMONICS + 1, 1, self.hidden, seed=seed, steepness=None))

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """sin x + N(x, t) - N(x, 0): a factor that vanishes at t = 0 would need to do so within 1/40."""
        start = torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], dim=-1)
        return torch.sin(x[:, :1]) + model(x) - model(start)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """u_t / 40 + u_x."""
        slope = gradient(u, x)
        return slope[:, 1:] / SPEED + slope[:, :1]

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """sin(x - 40 t)."""
        return torch.sin(x[:, :1] - SPEED * x[:, 1:])


def _features(x: Tensor) -> Tensor:
    place, time = x[:, :1], x[:, 1:]
    turns = torch.arange(1, HARMONICS + 1, dtype=x.dtype, device=x.device)
    phases = torch.cat([place, 2 * math.pi * time * turns], dim=-1)
    return torch.cat([phases.cos(), phases.sin(), 2 * time - 1], dim=-1)
