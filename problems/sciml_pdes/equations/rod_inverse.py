"""An inverse problem: the stiffness of a bar and the force at its end, from measured displacements."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.errors import InputError
from sciml.pde import MLP, Interval, derivative, dirichlet, gauss_legendre, gradient
from sciml.phases import GaussNewton, Phase
from sciml_pdes.collocation import Collocation

FORCE = 0.8
"""The true force at the free end."""
LOAD = 2.0
SENSORS = 50
QUADRATURE = 64
PRIOR = 10.0
"""Typical second derivative of ln EA, which regularises noisy data."""


class RodInverse(Collocation):
    """-(EA u')' = 2 on [0, 1], u(0) = 0, EA u'(1) = P, EA(0) = 1: find EA(x) and P from u at 50 sensors.

    The truth is EA = 1 + x / 2 + 0.3 sin(2 pi x), P = 0.8. The field has two components, u = x N_1 and
    EA = exp(x N_2), positive and known at the clamp; P is a parameter of the model. The strain determines EA only up to
    the normal force, EA = (P + 2 (1 - x)) / u': without EA(0) (or P) the answer would not be unique.

    Loss terms: equilibrium, the force at the end, the data, and with noise the prior that the second
    derivative of ln EA is about 10, weighted as Bayes' rule says: the solution is the most probable one.

    Args:
        noise: standard deviation of the measurement errors, relative to the largest displacement.
        seed: of the measurement errors.

    Raises:
        InputError: negative noise.
    """

    domain = Interval(0.0, 1.0)
    axes = ("x",)
    points = 200
    hidden = (16, 16)
    tolerance = 1e-8

    def __init__(self, noise: float = 0.0, seed: int = 0) -> None:
        if not 0 <= noise < math.inf:
            raise InputError(f"noise = {noise}: a standard deviation is not negative.")
        self.noise = noise
        self.sensors = torch.linspace(0, 1, SENSORS + 1, dtype=torch.float64)[1:, None]
        exact = self.reference(self.sensors)[:, :1]
        error = torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.scale = float(exact.abs().max())
        self.data = exact + noise * self.scale * error

    def network(self, seed: int) -> nn.Module:
        """A network with two outputs, and the unknown force, which starts at zero."""
        model = MLP(1, 2, self.hidden, domain=self.domain, seed=seed, steepness=None)
        model.register_parameter("force", nn.Parameter(torch.zeros(())))
        return model

    def phases(self) -> list[Phase]:
        """Gauss-Newton steps alone: the loss has a long, narrow valley, in which force and stiffness trade off."""
        return [GaussNewton(tolerance=self.tolerance)]

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 2"]:
        """(u, EA) = (x N_1, exp(x N_2))."""
        first, second = model(x).split(1, dim=-1)
        return torch.cat([x * first, torch.exp(x * second)], dim=-1)

    def residual(self, u: Float[Tensor, "points 2"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """((EA u')' + 2) / 2."""
        return gradient(normal_force(u, x), x) / LOAD + 1

    def least_squares(self, model: nn.Module, batch: Float[Tensor, "points dim"]) -> Mapping[str, Tensor]:
        """Equilibrium at the points; end force and data, which belong to no item; with noise, the prior."""
        field = lambda x: self.field(model, x)
        with torch.enable_grad():
            x = batch.detach().requires_grad_(True)
            u = field(x)
            terms = {"residual": self.residual(u, x)}
            if self.noise:
                weight = self.noise / (PRIOR * math.sqrt(SENSORS))
                terms["prior"] = weight * derivative(lambda x: field(x)[:, 1:].log(), x, order=2)
            end = batch.new_ones(1, 1).requires_grad_(True)
            terms["force"] = (normal_force(field(end), end) - model.get_parameter("force")).reshape(()) / LOAD
        data = dirichlet(lambda x: field(x)[:, :1], self.sensors.to(batch), self.data.to(batch))
        return {**terms, "data": data.T / self.scale}

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 2"]:
        """The true EA, and the integral of (P + 2 (1 - s)) / EA(s) from 0 to x by Gauss's rule with 64 nodes."""
        nodes, weights = (part.to(x) for part in gauss_legendre(QUADRATURE))
        s = x * (nodes + 1) / 2
        strain = (FORCE + LOAD * (1 - s)) / true_stiffness(s)
        return torch.cat([x / 2 * (weights * strain).sum(dim=-1, keepdim=True), true_stiffness(x)], dim=-1)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Errors of what was sought.

        Returns:
            relative_l2: of the stiffness, on a uniform grid.
            displacement: relative L2 error of u there.
            force: |P - P_true| / P_true.
            held_out_residual: as for the other equations.
        """
        values = dict(super().evaluate(model))
        with torch.no_grad():
            field = self.field(model, self.grid.to(next(model.parameters()))).double().cpu()
        displacement, stiffness = ((field - self.truth).norm(dim=0) / self.truth.norm(dim=0)).tolist()
        force = abs(float(model.get_parameter("force").detach()) / FORCE - 1)
        return {**values, "relative_l2": stiffness, "displacement": displacement, "force": force}

    def shown(self, values: Float[Tensor, "points 2"]) -> Float[Tensor, "points"]:
        """The stiffness, which the figure shows beside the true one."""
        return values[:, 1]


def true_stiffness(x: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
    """EA = 1 + x / 2 + 0.3 sin(2 pi x)."""
    return 1 + x / 2 + 0.3 * torch.sin(2 * math.pi * x)


def normal_force(u: Float[Tensor, "points 2"], x: Float[Tensor, "points 1"]) -> Float[Tensor, "points 1"]:
    """EA u', with (u, EA) computed from `x`."""
    return u[:, 1:] * gradient(u[:, :1], x)
