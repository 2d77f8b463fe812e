"""Poisson's equation on a square with a hole: a domain that is no box, and a condition that needs a loss term."""

import functools
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import MLP, Boundary, Box, Disk, exact_dirichlet, laplacian, neumann, normal_derivative
from sciml.phases import GaussNewton, Phase
from sciml_pdes.collocation import Collocation, Embedded

RADIUS = 0.4
SIDES = 160
"""Points on the sides of the square, where the flux is given."""


class PoissonHole(Collocation):
    """-Laplacian u = 2 on [-1, 1]^2 without the disk of radius R = 0.4; u = 0 on the circle, given flux on the sides.

    The solution joins a source, a line source in the hole, and a uniform flow around it:
    u = (R^2 - r^2) / 2 + ln(r / R) + (1 - R^2 / r^2) x. The circle's condition holds by construction; the sides'
    is a second loss term, without which any harmonic function that vanishes on the circle could be added.
    """

    square = Box((-1.0, -1.0), (1.0, 1.0))
    hole = Disk((0.0, 0.0), RADIUS)
    domain = square - hole
    axes = ("x", "y")
    points = 400
    hidden = (16, 16)
    tolerance = 5e-7

    def network(self, seed: int) -> nn.Module:
        """A network of x, y and R^2 / r^2."""
        box = Box((-1.0, -1.0, 0.0), (1.0, 1.0, 1.0))
        return Embedded(_features, MLP(3, 1, self.hidden, domain=box, seed=seed, steepness=None))

    def phases(self) -> list[Phase]:
        """Gauss-Newton steps alone: the problem is linear and elliptic."""
        return [GaussNewton(tolerance=self.tolerance)]

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(R^2 - r^2) N / 2 R."""
        return exact_dirichlet(model, self.hole)(x)

    def residual(self, u: Float[Tensor, "points 1"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(Laplacian u + 2) / 2."""
        return laplacian(u, x) / 2 + 1

    def least_squares(self, model: nn.Module, batch: Float[Tensor, "points dim"]) -> Mapping[str, Tensor]:
        """The residual, and what the flux through the sides misses: one row, as it belongs to no item of the batch."""
        points, normals, flux = (part.to(batch) for part in self._sides)
        sides = neumann(lambda x: self.field(model, x), Boundary(points, normals), flux)
        return {**super().least_squares(model, batch), "flux": sides.T}

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 1"]:
        """(R^2 - r^2) / 2 + ln(r / R) + (1 - R^2 / r^2) x."""
        square = x.square().sum(dim=-1, keepdim=True)
        ratio = RADIUS**2 / square
        return (RADIUS**2 - square) / 2 - torch.log(ratio) / 2 + (1 - ratio) * x[:, :1]

    @functools.cached_property
    def _sides(self) -> tuple[Tensor, Tensor, Tensor]:
        """Fixed points of the sides, their normals, and the reference's flux there."""
        boundary = self.square.boundary(SIDES, torch.Generator().manual_seed(0))
        return boundary.points, boundary.normals, normal_derivative(self.reference, boundary).detach()


def _features(x: Tensor) -> Tensor:
    return torch.cat([x, RADIUS**2 / x.square().sum(dim=-1, keepdim=True)], dim=-1)
