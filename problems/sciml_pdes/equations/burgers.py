"""Burgers' equation with small viscosity: a shock that no grid of collocation points may miss."""

import functools
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import Box, derivative, gradient
from sciml_pdes.collocation import Collocation

VISCOSITY = 0.01 / math.pi
NODES = 120


class Burgers(Collocation):
    """u_t + u u_x = (0.01 / pi) u_xx on [-1, 1] x [0, 1], u(x, 0) = -sin(pi x), u = 0 at both ends.

    The solution is odd, so the half x >= 0 is solved, with u = 0 at x = 0. A fixed set of points is fitted while the
    solution, wrong at the shock, stays off by percents: the solver notices, and draws new ones where residuals are
    large. Nothing here says where the shock is.
    """

    domain = Box((0.0, 0.0), (1.0, 1.0))
    points = 2500

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """-sin(pi x) + t x (1 - x) N."""
        place, time = x[:, :1], x[:, 1:]
        return -torch.sin(math.pi * place) + time * place * (1 - place) * model(x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """u_t + u u_x - nu u_xx, whose terms are of order one at the start."""
        slope = gradient(u, x)
        return slope[:, 1:] + u * slope[:, :1] - VISCOSITY * derivative(slope[:, :1], x, dim=0)

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """Cole and Hopf's integrals by Gauss-Hermite quadrature with 120 nodes.

        u = -int sin(pi y) w dy / int w dy, with y = x - z and w = exp(-cos(pi y) / (2 pi nu) - z^2 / (4 nu t)).
        """
        nodes, logs = _hermite()
        y = x[:, :1] - torch.sqrt(4 * VISCOSITY * x[:, 1:]) * nodes.to(x)
        # The weights span hundreds of orders of magnitude: softmax takes the largest one out.
        weights = torch.softmax(logs.to(x) - torch.cos(math.pi * y) / (2 * math.pi * VISCOSITY), dim=-1)
        return -(weights * torch.sin(math.pi * y)).sum(dim=-1, keepdim=True)


@functools.cache
def _hermite() -> tuple[Tensor, Tensor]:
    """Nodes and logarithms of the weights of the rule for exp(-s^2)."""
    nodes, weights = np.polynomial.hermite.hermgauss(NODES)
    return torch.from_numpy(nodes), torch.from_numpy(np.log(weights))
