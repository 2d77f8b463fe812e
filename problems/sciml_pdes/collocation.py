"""What the PDEs share: a residual at collocation points, conditions by construction, checks on held-out points."""

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import MLP, Domain
from sciml.phases import GaussNewton, Phase
from sciml.problem import Problem

GRID_2D, GRID_1D = 101, 1001
"""Held-out grid points per axis."""
CHECK_POINTS = 500
"""Held-out points at which the residual is looked at."""


class Collocation(Problem[nn.Module, Tensor]):
    """A PDE on a domain, to be solved by a network: u = field(network) keeps the conditions whatever the network says.

    A subclass gives the attributes, `field`, `residual`, `reference`, and `network` where the default does not suit.

    Attributes:
        domain: a box or another domain; in space-time the last axis is time.
        axes: names of the coordinates, for figures.
        points: collocation points of the fixed set.
        hidden: widths of the default network.
        steepness: of the default network's first layer.
        tolerance: where the finisher is content; see `sciml.SelfScaled`.
    """

    domain: Domain
    axes: tuple[str, ...] = ("x", "t")
    points: int = 1500
    hidden: tuple[int, ...] = (20, 20, 20)
    steepness: float = 3.0
    tolerance: float = 1e-9

    @abstractmethod
    def field(self, model: nn.Module, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points components"]:
        """The solution that the network stands for: it satisfies the conditions exactly."""

    @abstractmethod
    def residual(
        self, u: Float[Tensor, "points components"], x: Float[Tensor, "points dim"]
    ) -> Float[Tensor, "points equations"]:
        """What the values `u`, computed from these very `x`, miss of the equation, in units of its largest term."""

    @abstractmethod
    def reference(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points components"]:
        """The solution, from no network. Differentiable in float64 where it is a closed form."""

    def network(self, seed: int) -> nn.Module:
        """The network before its parameters become float64: a plain one on the domain."""
        return MLP(self.domain.dim, 1, self.hidden, domain=self.domain, seed=seed, steepness=self.steepness)

    def model(self, seed: int = 0) -> nn.Module:
        """A float64 network that suits the equation; its start is a function of the seed alone."""
        return self.network(seed).double()

    def phases(self) -> list[Phase]:
        """What to solve with: Gauss-Newton from the start, which draws points anew when it over-fits. On every equation
        here it leaves the plateaus of first-order methods within seconds, so Adam would only cost time."""
        return [GaussNewton(tolerance=self.tolerance)]

    def sample(self, size: int | None, generator: torch.Generator) -> Float[Tensor, "points dim"]:
        """Stratified points on a line, freshly scrambled Sobol points otherwise: a stream without end."""
        return self.domain.sample(size or self.points, generator)

    def least_squares(self, model: nn.Module, batch: Float[Tensor, "points dim"]) -> Mapping[str, Tensor]:
        """The residual at every point."""
        return {"residual": self.residual_of(lambda x: self.field(model, x), batch)}

    def residual_of(
        self, field: Callable[[Tensor], Tensor], points: Float[Tensor, "points dim"]
    ) -> Float[Tensor, "points equations"]:
        """The residual of any differentiable field at the points."""
        with torch.enable_grad():
            x = points.detach().requires_grad_(True)
            return self.residual(field(x), x)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The checks on points that the training never sees.

        Returns:
            relative_l2: error in the L2 norm on a uniform grid, relative to the reference.
            held_out_residual: root mean square residual at fixed points; it needs no reference.
        """
        like = next(model.parameters())
        with torch.no_grad():
            error = self.field(model, self.grid.to(like)).double().cpu() - self.truth
        residual = self.residual_of(lambda x: self.field(model, x), self._checks.to(like)).detach()
        return {
            "relative_l2": float(error.norm() / self.truth.norm()),
            "held_out_residual": math.sqrt(float(residual.double().square().mean())),
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """Points of the held-out grid along each axis."""
        return (GRID_1D,) if self.domain.dim == 1 else (GRID_2D,) * self.domain.dim

    @functools.cached_property
    def lattice(self) -> Float[Tensor, "lattice dim"]:
        """The grid on the box around the domain, ends included, last axis fastest."""
        sides = zip(self.domain.lower, self.domain.upper, self.shape, strict=True)
        lines = [torch.linspace(low, high, count, dtype=torch.float64) for low, high, count in sides]
        return torch.cartesian_prod(*lines).reshape(-1, self.domain.dim)

    @functools.cached_property
    def grid(self) -> Float[Tensor, "points dim"]:
        """The held-out grid: what of the lattice lies in the domain."""
        return self.lattice[self.domain.contains(self.lattice)]

    def shown(self, values: Float[Tensor, "points components"]) -> Float[Tensor, "points"]:
        """The one number per point that a figure of the field shows: the first component."""
        return values[:, 0]

    def picture(self, values: Float[Tensor, "points components"]) -> Float[Tensor, "..."]:
        """What is shown of values on the held-out grid, in the shape of the lattice; NaN outside the domain."""
        picture = torch.full((len(self.lattice),), math.nan, dtype=torch.float64)
        picture[self.domain.contains(self.lattice)] = self.shown(values.double().cpu())
        return picture.reshape(self.shape)

    @functools.cached_property
    def truth(self) -> Float[Tensor, "points components"]:
        """The reference on the held-out grid."""
        return self.reference(self.grid)

    @functools.cached_property
    def _checks(self) -> Tensor:
        return self.sample(CHECK_POINTS, torch.Generator().manual_seed(987654321))


class Embedded(nn.Module):
    """A network behind fixed functions of the coordinates.

    Args:
        features: maps points (points, dim) to inputs (points, inputs).
        network: takes the inputs.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.network = network

    def forward(self, x: Float[Tensor, "points dim"]) -> Float[Tensor, "points outputs"]:
        """The network of the features."""
        return self.network(self.features(x))
