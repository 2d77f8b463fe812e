"""Linear elasticity: from displacements to strains, stresses and tractions, for any field of displacements.

    steel = Elastic(young=210.0, poisson=0.3)                           # a thin plate; plane="strain" for a long body
    stress = lambda x: steel.stress(u, x)
    {"equilibrium": divergence(stress, x), "edge": traction(stress, edge) - pull}

Tensors have shape (points, dim, dim), in two or three dimensions. Source: any textbook, e.g. Timoshenko and Goodier
(1970), chapter 2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError
from sciml.pde.boundary import Boundary
from sciml.pde.derivatives import Field, gradient


def strain(u: Field | Tensor, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points dim dim"]:
    """The symmetric gradient (grad u + grad u') / 2 of displacements with as many components as coordinates.

    Arguments and errors as for `derivative`.

    Raises:
        InputError: the field has another number of components, or there is only one coordinate.
    """
    slope = gradient(u, x)
    if slope.shape != (*x.shape, x.shape[-1]):
        raise InputError(
            f"strain: on points of shape {tuple(x.shape)} the displacement's gradient has shape {tuple(slope.shape)}; "
            "give as many components as coordinates, two or three"
        )
    return (slope + slope.transpose(-1, -2)) / 2


@dataclass(frozen=True)
class Elastic:
    """An isotropic material that obeys Hooke's law.

    Attributes:
        young: Young's modulus E, in the unit that stresses get.
        poisson: Poisson's ratio, above -1 and below 1/2.
        plane: what is zero across a plane, its "stress" (a thin plate) or its "strain" (a long body); in three
            dimensions it means nothing.

    Raises:
        InputError: a modulus or ratio that no material has.
    """

    young: float = 1.0
    poisson: float = 0.3
    plane: Literal["stress", "strain"] = "stress"

    def __post_init__(self) -> None:
        if not (self.young > 0 and -1 < self.poisson < 0.5 and self.plane in ("stress", "strain")):
            allowed = 'young > 0, -1 < poisson < 1/2, plane "stress" or "strain"'
            raise InputError(f"{self}: no such material; allowed is {allowed}")

    def stress(self, u: Field | Tensor, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points dim dim"]:
        """Hooke's law. Arguments and errors as for `strain`."""
        return self._hooke(strain(u, x))

    def energy(self, u: Field | Tensor, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """The strain energy per area or volume, half of strain : stress. Arguments and errors as for `strain`."""
        e = strain(u, x)
        return (e * self._hooke(e)).sum(dim=(-2, -1))[..., None] / 2

    def _hooke(self, e: Tensor) -> Tensor:
        """2 mu e + lambda tr(e) I; in plane stress with the lambda that leaves no stress across the plane."""
        thin = e.shape[-1] == 2 and self.plane == "stress"
        mu = self.young / (2 * (1 + self.poisson))
        spread = 2 * mu * self.poisson / (1 - self.poisson if thin else 1 - 2 * self.poisson)
        trace = e.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
        return 2 * mu * e + spread * trace * torch.eye(e.shape[-1], dtype=e.dtype, device=e.device)


def traction(stress: Callable[[Tensor], Tensor], boundary: Boundary) -> Float[Tensor, "points dim"]:
    """sigma n: the force per length or area on the boundary, where n points out of the body.

    Args:
        stress: the stress as a function of the points, symmetric.
        boundary: points and normals.
    """
    return (stress(boundary.points) @ boundary.normals[..., None])[..., 0]
