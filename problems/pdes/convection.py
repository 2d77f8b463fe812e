"""Fast convection around a circle: the classic failure of plain training."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from problems.pdes.collocation import Collocation, Embedded
from sciml.pde import MLP, Box, gradient

SPEED = 40.0


class Convection(Collocation):
    """u_t + 40 u_x = 0 on [0, 2 pi] x [0, 1], periodic in x, u(x, 0) = sin x.

    The setting of Krishnapriyan et al. (2021). The network sees cos x, sin x and t, so it is periodic with all its
    derivatives.
    """

    domain = Box((0.0, 0.0), (2 * math.pi, 1.0))

    def network(self, seed: int) -> nn.Module:
        """A network of cos x, sin x and t."""
        box = Box((-1.0, -1.0, 0.0), (1.0, 1.0, 1.0))
        return Embedded(_features, MLP(3, 1, self.hidden, domain=box, seed=seed))

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """sin x + t / (t + 1/40) N: with the plain factor t the network would have to reach 40 at the start."""
        time = x[:, 1:]
        return torch.sin(x[:, :1]) + time / (time + 1 / SPEED) * model(x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """u_t / 40 + u_x."""
        slope = gradient(u, x)
        return slope[:, 1:] / SPEED + slope[:, :1]

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """sin(x - 40 t)."""
        return torch.sin(x[:, :1] - SPEED * x[:, 1:])


def _features(x: Tensor) -> Tensor:
    return torch.cat([torch.cos(x[:, :1]), torch.sin(x[:, :1]), x[:, 1:]], dim=-1)
