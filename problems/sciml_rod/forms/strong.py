"""The strong form: the equilibrium residual at collocation points, natural conditions as residuals at their places."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.pde import Interval, derivative, derivatives
from sciml_rod.forms.form import RodForm
from sciml_rod.mechanics import Rod, Traction


class MissingInterfaceCondition(UserWarning):
    """A bar with interfaces is solved in strong form without the condition that couples its parts."""


@dataclass(frozen=True)
class Points:
    """Collocation points of the unit bar with its coefficients there.

    Attributes:
        x: positions.
        load: f.
        stiffness: EA.
        stiffness_slope: EA'.
    """

    x: Float[Tensor, "points 1"]
    load: Float[Tensor, "points 1"]
    stiffness: Float[Tensor, "points 1"]
    stiffness_slope: Float[Tensor, "points 1"]


class StrongForm(RodForm[Points]):
    """Collocation of (EA u')' + f = 0; items are points.

    Loss terms, each divided by a typical size so that all are of order one at the start:
        equilibrium: mean square of the residual over the batch.
        traction: square of N - force at a pulled end.
        interface: sum over interfaces of the square of EA+ u'+ - EA- u'- + point force, from one-sided slopes.

    Args:
        rod: the bar.
        points: collocation points of the fixed set.
        interface: False leaves the interface condition out and makes the network smooth. The residual cannot see a
            jump, so the loss falls at a wrong solution; a `MissingInterfaceCondition` warning names the places.

    Attributes:
        load_scale: what the residual is divided by.
    """

    def __init__(self, rod: Rod, points: int = 256, interface: bool = True) -> None:
        super().__init__(rod)
        self.points = points
        self.kinks = self.interface = interface and bool(self.unit.interfaces)
        if rod.interfaces and not interface:
            places = "; ".join(str(place) for place in rod.interfaces)
            warnings.warn(
                f"the strong form has no interface condition at {places}. Collocation points cannot see the jump: "
                "the loss falls at a wrong solution. Use interface=True, or the weak or energy form.",
                MissingInterfaceCondition,
                stacklevel=2,
            )
        grid = self._check.x
        self.load_scale = max(float(self.unit.f(grid).abs().max()), 1.0)
        self._held_out = self.at(grid)
        self._edges: dict[tuple[torch.dtype, torch.device], Edges] = {}

    def sample(self, size: int | None, generator: torch.Generator) -> Points:
        """Stratified (jittered) points on the bar: a fresh draw from the generator, without end."""
        return self.at(Interval(0.0, 1.0).sample(size or self.points, generator))

    def held_out(self) -> Points:
        """Gauss points of a fixed rule, which no random draw hits."""
        return self._held_out

    def loss(self, model: nn.Module, batch: Points) -> Mapping[str, Tensor]:
        """Mean square residuals; see the class."""
        return {name: residual.square().mean() for name, residual in self.least_squares(model, batch).items()}

    def least_squares(self, model: nn.Module, batch: Points) -> Mapping[str, Tensor]:
        """The scaled residual at every point, and those of ends and interfaces."""
        count, ends = len(batch.x), self._edges_like(batch.x)
        x = torch.cat([batch.x, ends.x]) if len(ends.x) else batch.x
        _, slope, curvature = derivatives(lambda x: self.field(model, x), x, order=2)
        force_slope = batch.stiffness * curvature[:count] + batch.stiffness_slope * slope[:count]
        residuals = {"equilibrium": (force_slope + batch.load) / self.load_scale}
        if len(ends.x):
            force = ends.stiffness * slope[count:]
            pulled, pairs = len(ends.end_force), len(ends.point_force)
            # squares are summed, not averaged, over ends and over interfaces
            if pulled:
                residuals["traction"] = (force[:pulled] - ends.end_force).T * math.sqrt(pulled)
            if pairs:
                jump = force[pulled + pairs :] - force[pulled : pulled + pairs] + ends.point_force
                residuals["interface"] = jump.T * math.sqrt(pairs)
        return residuals

    def at(self, x: Float[Tensor, "points 1"]) -> Points:
        """The coefficients of the unit bar at given positions."""
        return Points(x, self.unit.f(x), self.unit.EA(x), derivative(self.unit.EA, x).detach())

    def _edges_like(self, x: Tensor) -> "Edges":
        key = (x.dtype, x.device)
        if key not in self._edges:
            self._edges[key] = edges(self.unit, self.interface, x)
        return self._edges[key]


@dataclass(frozen=True)
class Edges:
    """Where natural conditions act: the pulled end (if any), then the left, then the right sides of the interfaces.

    Attributes:
        x: positions.
        stiffness: EA there.
        end_force: N at the pulled end.
        point_force: the point load at each interface.
    """

    x: Tensor
    stiffness: Tensor
    end_force: Tensor
    point_force: Tensor


def edges(unit: Rod, interface: bool, like: Tensor) -> Edges:
    """The natural and interface conditions of a unit bar.

    Args:
        unit: the bar.
        interface: whether the interface conditions are imposed.
        like: device and dtype.
    """
    column = lambda values: like.new_tensor(values).reshape(-1, 1)
    ends = [(0.0, -unit.left.force)] if isinstance(unit.left, Traction) else []
    ends += [(1.0, unit.right.force)] if isinstance(unit.right, Traction) else []
    jumps = unit.interfaces if interface else ()
    place = column([jump.position for jump in jumps])
    # Neighbouring floats carry the one-sided slopes to rounding: a kink feature |x - p| differentiates to -1 and +1.
    before, after = (torch.nextafter(place, torch.full_like(place, side)) for side in (0.0, 1.0))
    x = torch.cat([column([position for position, _ in ends]), before, after])
    stiffness = torch.cat(
        [
            unit.EA(column([position for position, _ in ends])),
            column([jump.stiffness_left for jump in jumps]),
            column([jump.stiffness_right for jump in jumps]),
        ]
    )
    return Edges(x, stiffness, column([force for _, force in ends]), column([jump.force for jump in jumps]))
