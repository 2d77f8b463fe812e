"""Logistic reaction that starts from a Gaussian hill."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import MLP, Box, gradient
from sciml_pdes.collocation import Collocation, Embedded

RATE = 5.0
WIDTH = math.pi / 4


class Reaction(Collocation):
    """u_t = 5 u (1 - u) on [0, 2 pi] x [0, 1], u(x, 0) = exp(-(x - pi)^2 / (2 (pi / 4)^2)), periodic in x.

    The setting of Rathore et al. (arXiv 2402.01868). The hill has a small kink where the ends meet, which functions of
    cos x and sin x cannot hold. The problem is even about x = pi, so the network sees ((x - pi) / pi)^2: both ends then
    agree, and the kink costs nothing.
    """

    domain = Box((0.0, 0.0), (2 * math.pi, 1.0))

    def network(self, seed: int) -> nn.Module:
        """A network of ((x - pi) / pi)^2 and t."""
        return Embedded(
            _features, MLP(2, 1, self.hidden, domain=Box((0.0, 0.0), (1.0, 1.0)), seed=seed, steepness=None)
        )

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """u(x, 0) + t N."""
        return _start(x[:, :1]) + x[:, 1:] * model(x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """u_t / 5 - u (1 - u)."""
        return gradient(u, x)[:, 1:] / RATE - u * (1 - u)

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """h e^(5 t) / (h e^(5 t) + 1 - h) with the hill h."""
        hill = _start(x[:, :1])
        grown = hill * torch.exp(RATE * x[:, 1:])
        return grown / (grown + 1 - hill)


def _start(place: Tensor) -> Tensor:
    return torch.exp(-(place - math.pi).square() / (2 * WIDTH**2))


def _features(x: Tensor) -> Tensor:
    return torch.cat([((x[:, :1] - math.pi) / math.pi).square(), x[:, 1:]], dim=-1)
