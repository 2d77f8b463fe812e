"""The weak form: virtual work against test functions, each integrated over its own support. Items: test functions."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.errors import InputError
from sciml.pde import derivative, hats
from sciml_rod.forms.form import RodForm
from sciml_rod.mechanics import Rod, Traction

LOAD_POINTS = 16
"""Gauss points per half support for the work of the loads: done once, so it may as well be exact."""


@dataclass(frozen=True)
class VirtualWork:
    """Test functions with everything in their work that does not depend on the displacement already done.

    The work that is missing for equilibrium is the sum over `internal * u'` less `external`.

    Attributes:
        x: quadrature points on the support of each function.
        internal: weight EA v' at those points.
        external: work of the loads, point loads and end forces.
    """

    x: Float[Tensor, "tests points 1"]
    internal: Float[Tensor, "tests points 1"]
    external: Float[Tensor, "tests"]


class WeakForm(RodForm[VirtualWork]):
    """Virtual work: for all test functions v, integral of EA u' v' = integral of f v + point and end forces times v.

    The test functions are the hat functions of a mesh whose nodes include all interfaces, so the interface and traction
    conditions are contained and need no term of their own. Each is scaled to integral v'^2 = 1, which makes the missing
    work a mean force.

    Loss term:
        work: mean over the test functions of the square of the missing work.

    Args:
        rod: the bar.
        cells: mesh cells on the whole bar, shared out over its smooth parts.
        points: Gauss points per half support.
    """

    def __init__(self, rod: Rod, cells: int = 64, points: int = 4) -> None:
        super().__init__(rod)
        self._all = virtual_work(self.unit, cells, points)
        self.size = len(self._all.x)
        self._held_out = virtual_work(self.unit, cells + cells // 2 + 1, points)
        # Neighbouring hats share a cell and its points: the whole set needs each of them only once.
        self._points, self._place = torch.unique(self._all.x, return_inverse=True)

    def sample(self, size: int | None, generator: torch.Generator) -> VirtualWork:
        """All test functions, or `size` different ones."""
        total = len(self._all.x)
        if size is None or size == total:
            return self._all
        if not 0 < size < total:
            raise InputError(f"a batch of {size} test functions: there are {total}.")
        return take(self._all, torch.randperm(total, generator=generator)[:size])

    def held_out(self) -> VirtualWork:
        """The hat functions of another mesh."""
        return self._held_out

    def loss(self, model: nn.Module, batch: VirtualWork) -> Mapping[str, Tensor]:
        """Mean square of the missing work; see the class."""
        return {"work": self.missing_work(model, batch).square().mean()}

    def missing_work(self, model: nn.Module, batch: VirtualWork) -> Float[Tensor, "tests"]:
        """Work that is missing for equilibrium, per test function (non-dimensional)."""
        field = lambda x: self.field(model, x)
        # The comparison costs a hundredth of an evaluation here; on a GPU it would make the host wait.
        x, whole = batch.x, self._all.x
        if x.device.type == "cpu" and x.dtype == whole.dtype and x.shape == whole.shape and torch.equal(x, whole):
            slope = derivative(field, self._points[:, None])[:, 0][self._place]
        else:
            slope = derivative(field, x)
        return (batch.internal * slope).sum(dim=(1, 2)) - batch.external


def virtual_work(unit: Rod, cells: int, points: int) -> VirtualWork:
    """The hats of a mesh on the unit bar, with the work of the loads against them."""
    nodes = mesh(unit, cells)
    free = [isinstance(unit.left, Traction), isinstance(unit.right, Traction)]
    v, fine = hats(nodes, points, *free), hats(nodes, LOAD_POINTS, *free)
    scale = v.integrate(v.slope.square()).rsqrt()
    external = fine.integrate(unit.f(fine.x) * fine.value)
    peaks = nodes[(0 if free[0] else 1) : (len(nodes) if free[1] else len(nodes) - 1)]
    forces = [(load.position, load.force) for load in unit.point_loads]
    forces += [(x, end.force) for x, end in ((0.0, unit.left), (1.0, unit.right)) if isinstance(end, Traction)]
    for position, force in forces:  # a hat is 1 at its own node and 0 at all others
        external[int((peaks - position).abs().argmin())] += force
    return VirtualWork(v.x, v.weights * unit.EA(v.x) * v.slope * scale[:, None, None], external * scale)


def mesh(unit: Rod, cells: int) -> Float[Tensor, "nodes"]:
    """About `cells` cells, equal within every smooth part, at least 2 in each; all nodes of the bar are nodes."""
    parts = []
    for a, b in pairwise(unit.nodes):
        count = max(2, round(cells * (b - a)))
        parts.append(torch.linspace(a, b, count + 1, dtype=torch.float64)[:-1])
    return torch.cat([*parts, torch.tensor(unit.nodes[-1:], dtype=torch.float64)])


def take(batch: VirtualWork, index: Tensor) -> VirtualWork:
    """The chosen test functions, in that order."""
    return VirtualWork(*(getattr(batch, field.name)[index] for field in fields(batch)))
