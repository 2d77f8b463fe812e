"""A plate with a circular hole under tension: plane stress, two displacement components, Kirsch's solution."""

import functools
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import MLP, Box, Disk, Elastic, divergence
from sciml.phases import GaussNewton, Phase
from sciml_pdes.collocation import Collocation, Embedded

RADIUS = 0.25
POISSON = 0.3
"""Ratio of lateral contraction."""
PLATE = Elastic(young=1.0, poisson=POISSON, plane="stress")
EDGE_POINTS = 96
"""Points on the edges where tractions are given."""


class Plate(Collocation):
    """Equilibrium div sigma = 0 in a quarter of a square plate with a hole, pulled along x; lengths in half sides.

    Stresses in units of the remote tension, displacements in (half side) tension / E. The symmetry axes carry u_x = 0
    at x = 0 and u_y = 0 at y = 0 and no shear, all by construction: u_x = x N_1(x^2, y^2), u_y = y N_2(x^2, y^2). The
    hole is free of traction, the two outer edges carry those of Kirsch's infinite plate, as a loss term.
    """

    hole = Disk((0.0, 0.0), RADIUS)
    domain = Box((0.0, 0.0), (1.0, 1.0)) - hole
    axes = ("x", "y")
    near = Disk((0.0, 0.0), 2 * RADIUS) & domain
    points = 400
    hidden = (16, 16)
    tolerance = 5e-7

    def network(self, seed: int) -> nn.Module:
        """A network of R^2 / r^2 and cos^2 of the angle, with two outputs."""
        return Embedded(_polar, MLP(2, 2, self.hidden, domain=Box((0.0, 0.0), (1.0, 1.0)), seed=seed, steepness=None))

    def sample(self, size: int | None, generator: torch.Generator) -> Float[Tensor, "points dim"]:
        """Points of which every one is, by the toss of a fair coin, drawn from the plate or from around the hole."""
        far, near = (part.sample(size or self.points, generator) for part in (self.domain, self.near))
        return torch.where(torch.rand(len(far), 1, generator=generator, dtype=torch.float64) < 0.5, far, near)

    def phases(self) -> list[Phase]:
        """Gauss-Newton steps alone: the problem is linear and elliptic."""
        return [GaussNewton(tolerance=self.tolerance)]

    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 2"]:
        """The displacement (x N_1, y N_2)."""
        return x * model(x)

    def residual(self, u: Float[Tensor, "points 2"], x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 2"]:
        """R div sigma: forces per area in units of tension / radius."""
        return RADIUS * divergence(PLATE.stress(u, x), x)

    def least_squares(self, model: nn.Module, batch: Float[Tensor, "points dim"]) -> Mapping[str, Tensor]:
        """Equilibrium, and what the tractions on the hole and the outer edges miss (these belong to no item)."""
        points, normals, traction = (part.to(batch) for part in self._edges)
        with torch.enable_grad():
            x = points.detach().requires_grad_(True)
            missing = tractions(self.field(model, x), x, normals) - traction
        return {**super().least_squares(model, batch), "traction": missing.reshape(1, -1)}

    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points 2"]:
        """Kirsch's displacements (1898), with kappa = (3 - nu) / (1 + nu) for plane stress."""
        kappa = (3 - POISSON) / (1 + POISSON)
        z = torch.complex(x[:, 0], x[:, 1]) / RADIUS
        radius, angle = z.abs(), z.angle()
        near, far = 2 / radius, 2 / radius**3
        along = radius * (kappa + 1) * angle.cos() + near * (1 + kappa) * angle.cos() + (near - far) * (3 * angle).cos()
        across = (
            radius * (kappa - 3) * angle.sin() + near * (1 - kappa) * angle.sin() + (near - far) * (3 * angle).sin()
        )
        return torch.stack([along, across], dim=-1) * (RADIUS * (1 + POISSON) / 4)

    def shown(self, values: Float[Tensor, "points 2"]) -> Float[Tensor, "points"]:
        """The length of the displacement."""
        return values.norm(dim=-1)

    @functools.cached_property
    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Fixed points of the hole and the outer edges, their normals, and the reference's tractions."""
        points, normals = self.domain.boundary(2 * EDGE_POINTS, torch.Generator().manual_seed(0))
        loaded = (points > 0).all(dim=-1)  # the others lie on the axes of symmetry
        points, normals = points[loaded], normals[loaded]
        x = points.requires_grad_(True)
        return points.detach(), normals, tractions(self.reference(x), x, normals).detach()


def _polar(x: Tensor) -> Tensor:
    square = x.square()
    radius = square.sum(dim=-1, keepdim=True)
    return torch.cat([RADIUS**2 / radius, square[:, :1] / radius], dim=-1)


def tractions(
    u: Float[Tensor, "points 2"], x: Float[Tensor, "points 2"], normals: Float[Tensor, "points 2"]
) -> Float[Tensor, "points 2"]:
    """sigma n of displacements computed from `x`."""
    return (PLATE.stress(u, x) @ normals[..., None])[..., 0]
