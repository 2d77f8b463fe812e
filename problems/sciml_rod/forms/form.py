"""What the strong, weak and energy forms of the bar share: units, essential conditions, network, reference, checks."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.batches import move
from sciml.errors import InputError
from sciml.pde import MLP, HardDirichlet, Interval, Kinks, composite_gauss, derivatives
from sciml.problem import Problem
from sciml_rod.forms.first_layer import MANY_WAVES, load_waves, spread
from sciml_rod.mechanics import Displacement, Rod, Traction, nondimensional
from sciml_rod.reference import Reference, reference_solution

Batch = TypeVar("Batch")

HELD_OUT_POINTS = 512


class RodForm(Problem[nn.Module, Batch]):
    """A bar to be solved by a network: u = conditions(network), so the essential conditions hold by construction.

    Inside, everything is non-dimensional (x on [0, 1], displacements and normal forces of order one); `displacement`
    and `force` speak SI.

    Attributes:
        rod: the bar, SI.
        unit: the same bar without dimensions; `scales` are its units.
        conditions: the essential conditions of the unit bar.
        kinks: whether `network` can jump in slope at the interfaces.
    """

    kinks = True

    def __init__(self, rod: Rod) -> None:
        self.rod = rod
        self.unit, self.scales = nondimensional(rod)
        ends = [side.value if isinstance(side, Displacement) else None for side in (self.unit.left, self.unit.right)]
        self.conditions = HardDirichlet(Interval(0.0, 1.0), *ends)
        self._check = _HeldOut(self.unit)

    @abstractmethod
    def held_out(self) -> Batch:
        """Items the training never sees: the loss on them is `held_out_loss`."""

    def network(self, hidden: tuple[int, ...] = (24, 24), seed: int = 0) -> nn.Module:
        """A float64 network of the right shape for this bar: kinks at its interfaces, inputs scaled to [-1, 1].

        Where the load rises and falls more than `MANY_WAVES` times along the bar, the first layer starts with its
        transitions spread over the bar and as steep as the waves are short (`first_layer.spread`); otherwise with
        Glorot's weights.
        """
        interval = Interval(0.0, 1.0)
        places = [interface.position for interface in self.unit.interfaces] if self.kinks else []
        features = Kinks(interval, places) if places else None
        domain = features.domain if features else interval
        network = MLP(domain.dim, 1, hidden, domain=domain, seed=seed, steepness=None).double()
        if (waves := load_waves(self.unit)) > MANY_WAVES:
            spread(network, waves / 2, seed)
        return nn.Sequential(features, network).double() if features else network

    def field(self, model: nn.Module, x: Float[Tensor, "*points 1"]) -> Float[Tensor, "*points 1"]:
        """The non-dimensional displacement at non-dimensional positions."""
        return self.conditions(model(x), x)

    def displacement(self, model: nn.Module, x: Float[Tensor, "points"]) -> Float[Tensor, "points"]:
        """u [m] at positions x [m]."""
        return self._evaluate(model, x)[0]

    def force(self, model: nn.Module, x: Float[Tensor, "points"]) -> Float[Tensor, "points"]:
        """N = EA u' [N] at positions x [m]; undefined exactly at an interface."""
        return self._evaluate(model, x)[1]

    @property
    def reference(self) -> Reference:
        """The bar solved without a network, SI."""
        return reference_solution(self.rod)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The checks that are always on, from points and items that the training never sees.

        Returns:
            relative_l2: error of u in the L2 norm, relative to the reference solution.
            relative_force: the same for the normal force N.
            held_out_balance: the largest force missing for the equilibrium of any piece cut out of the bar between two
                held-out points, relative to the largest normal force. It needs the loads only, not the solution, and it
                sees what a loss cannot: a forgotten interface condition, overfitting between points or test functions.
            held_out_loss: the loss on held-out items.
        """
        check = self._check
        parameter = next(model.parameters())
        x = check.x.to(parameter)
        with torch.no_grad():
            u, slope = derivatives(lambda x: self.field(model, x), x, order=1)
            loss = float(sum(self.loss(model, move(self.held_out(), parameter)).values()))
        return check.errors(u.double().cpu(), slope.double().cpu()) | {"held_out_loss": loss}

    def _evaluate(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        parameter = next(model.parameters())
        if x.dim() != 1:
            raise InputError(f"positions of shape {tuple(x.shape)}: a one-dimensional tensor is needed.")
        points = (x / self.scales.length).to(parameter)[:, None]
        with torch.no_grad():
            u, slope = derivatives(lambda x: self.field(model, x), points, order=1)
            force = self.unit.EA(points) * slope
        return u[:, 0] * self.scales.displacement, force[:, 0] * self.scales.force


class _HeldOut:
    """Points between the nodes of the bar with the reference there, and the errors of a candidate."""

    def __init__(self, unit: Rod) -> None:
        parts = len(unit.nodes) - 1
        x, weights = composite_gauss(unit.nodes, points=8, cells=math.ceil(HELD_OUT_POINTS / (8 * parts)))
        reference = reference_solution(unit)
        self.x, self.weights = x.reshape(-1, 1), weights.reshape(-1, 1)
        at = self.x[:, 0].numpy()
        self.u = torch.from_numpy(np.ascontiguousarray(reference.displacement(at)))[:, None]
        self.force = torch.from_numpy(np.ascontiguousarray(reference.force(at)))[:, None]
        self.stiffness = unit.EA(self.x)
        self.end_known = isinstance(unit.left, Traction) or isinstance(unit.right, Traction)

    def errors(self, u: Tensor, slope: Tensor) -> dict[str, float]:
        norm = lambda v: float((self.weights * v.square()).sum().sqrt())
        # Up to a constant, which the spread does not see, the reference force is minus the accumulated load. Where an
        # end force is prescribed the constant counts too, because that end belongs to the free body.
        excess = self.stiffness * slope - self.force
        bounds = [float(excess.max()), float(excess.min())] + ([0.0] if self.end_known else [])
        return {
            "relative_l2": norm(u - self.u) / max(norm(self.u), 1e-300),
            "relative_force": norm(excess) / max(norm(self.force), 1e-300),
            "held_out_balance": (max(bounds) - min(bounds)) / max(float(self.force.abs().max()), 1e-300),
        }
