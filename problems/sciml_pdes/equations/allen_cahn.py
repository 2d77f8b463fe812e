"""The Allen-Cahn equation: a front that sharpens, from a start whose periodic continuation has a kink."""

import functools
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import MLP, Box, derivative, gradient
from sciml_pdes import spectral
from sciml_pdes.collocation import Collocation, Embedded

DIFFUSION = 1e-4
FEATURES = 4
FAR = 26.0
"""Argument beyond which exp(-z^2) and erfc(z) are zero in float64."""


class AllenCahn(Collocation):
    """u_t = 1e-4 u_xx + 5 u - 5 u^3 on [-1, 1] x [0, 1], periodic, u(x, 0) = x^2 cos(pi x).

    The solution is even, so the half x >= 0 is solved; the network sees cos(k pi x), k = 1 to 4, and t, and is even and
    periodic with all its derivatives. The start is not: its slope at x = 1 is -2, and +2 beyond. Diffusion rounds that
    kink at once, by a known function, which is added to the start; a smooth network could never do it, and no residual
    inside would say so.
    """

    domain = Box((0.0, 0.0), (1.0, 1.0))
    points = 2500

    def network(self, seed: int) -> nn.Module:
        """A network of cos(k pi x) and t."""
        box = Box((-1.0,) * FEATURES + (0.0,), (1.0,) * (FEATURES + 1))
        return Embedded(_features, MLP(FEATURES + 1, 1, self.hidden, domain=box, seed=seed, steepness=None))

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """u(x, 0) + the rounding of the kink + t N."""
        place, time = x[:, :1], x[:, 1:]
        return place.square() * torch.cos(math.pi * place) + _rounding(place, time) + time * model(x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(u_t - 1e-4 u_xx - 5 u + 5 u^3) / 5."""
        slope = gradient(u, x)
        return (slope[:, 1:] - DIFFUSION * derivative(slope[:, :1], x, dim=0)) / 5 - u + u**3

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """Fourier modes in x, exponential Runge-Kutta steps in t; see `spectral`."""
        history = _history()
        values = history.at(x[:, 0].detach().cpu().double().numpy(), x[:, 1].detach().cpu().double().numpy())
        return torch.from_numpy(values)[:, None].to(x)


def _rounding(place: Tensor, time: Tensor) -> Tensor:
    """The solution of w_t = 1e-4 w_xx that starts from 0 and has the slope 2 at x = 1.

    4 sqrt(nu t / pi) exp(-z^2) - 2 (1 - x) erfc(z), z = (1 - x) / (2 sqrt(nu t)). At x = 0 it is zero in float64.
    """
    gap = 1 - place
    width = torch.sqrt(DIFFUSION * time.clamp_min(1e-24))
    z = (gap / (2 * width)).clamp_max(FAR)
    return 4 / math.sqrt(math.pi) * width * torch.exp(-z.square()) - 2 * gap * torch.erfc(z)


def _features(x: Tensor) -> Tensor:
    return torch.cat([torch.cos(k * math.pi * x[:, :1]) for k in range(1, FEATURES + 1)] + [x[:, 1:]], dim=-1)


@functools.cache
def _history(modes: int = 3200, steps: int = 2000) -> spectral.History:
    """The solution on all of [-1, 1] for 0 <= t <= 1; twice the modes and steps change it by 5e-7."""
    x = np.arange(modes) * (2 / modes) - 1
    wave = math.pi * np.arange(modes // 2 + 1)
    return spectral.etdrk4(x**2 * np.cos(math.pi * x), 5 - DIFFUSION * wave**2, lambda u: -5 * u**3, 1.0 / steps, steps)
