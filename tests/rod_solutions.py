"""Bars of every kind with their answers, and a `network` that is the answer: for the physics tests of the rod."""

from itertools import pairwise

import numpy as np
import torch
from sciml_rod import Displacement, PointLoad, Reference, Rod, Traction, reference_solution
from sciml_rod.forms.form import RodForm
from skfem import Basis, ElementLineP2, LinearForm, MeshLine, condense, solve
from skfem.assembly import BilinearForm
from torch import Tensor, nn

RODS = {
    "pulled": Rod(2.0, lambda x: 3 + torch.sin(x), lambda x: torch.exp(-x), right=Traction(1.5)),
    "pulled at the left": Rod(1.0, 2.0, lambda x: 1 + x, left=Traction(-0.7), right=Displacement(0.1)),
    "held at both ends": Rod(
        1.0, lambda x: 1 + x**2, lambda x: torch.cos(3 * x), left=Displacement(0.2), right=Displacement(-0.1)
    ),
    "two materials": Rod(1.0, (1.0, 10.0), 10.0, right=Traction(1.0), breakpoints=(0.5,)),
    "three materials, held": Rod(
        3.0, (2.0, lambda x: 1 + x, 5.0), (0.0, 1.0, lambda x: -x), right=Displacement(0.3), breakpoints=(1.0, 1.7)
    ),
    "point loads": Rod(
        1.0, lambda x: 2 - x, 1.0, right=Traction(-0.4), point_loads=(PointLoad(0.25, 2.0), PointLoad(0.6, -3.0))
    ),
    "point load, held": Rod(
        1.0, (1.0, 4.0), 0.0, right=Displacement(0.0), point_loads=(PointLoad(0.5, 1.0),), breakpoints=(0.5,)
    ),
    "steel in SI units": Rod(
        4.0, 2.1e11 * 3e-4, 5e3, right=Traction(2e4), point_loads=(PointLoad(1.0, -1e4),)
    ),
}  # fmt: skip


def finite_elements(rod: Rod, cells: int, x: np.ndarray) -> np.ndarray:
    """u at x by quadratic finite elements (scikit-fem) on a mesh that has all nodes of the bar."""
    nodes = np.array(rod.nodes)
    parts = [np.linspace(a, b, cells + 1)[:-1] for a, b in pairwise(nodes)]
    basis = Basis(MeshLine(np.concatenate([*parts, nodes[-1:]])), ElementLineP2(), intorder=8)
    evaluate = lambda field, at: field(torch.from_numpy(np.ascontiguousarray(at))).numpy()

    @BilinearForm
    def stiffness(u, v, w):  # type: ignore[no-untyped-def]
        return evaluate(rod.EA, w.x[0]) * u.grad[0] * v.grad[0]

    @LinearForm
    def load(v, w):  # type: ignore[no-untyped-def]
        return evaluate(rod.f, w.x[0]) * v

    forces = load.assemble(basis)
    places = [(point.position, point.force) for point in rod.point_loads]
    places += [(at, end.force) for at, end in ((0.0, rod.left), (rod.length, rod.right)) if isinstance(end, Traction)]
    for place, force in places:
        forces[int(np.argmin(np.abs(basis.doflocs[0] - place)))] += force
    prescribed = basis.zeros()
    held = []
    for place, end in ((0.0, rod.left), (rod.length, rod.right)):
        if isinstance(end, Displacement):
            held.append(int(np.argmin(np.abs(basis.doflocs[0] - place))))
            prescribed[held[-1]] = end.value
    answer = solve(*condense(stiffness.assemble(basis), forces, x=prescribed, D=np.array(held)))
    return basis.interpolator(np.asarray(answer))(x[None, :])


class Exact(nn.Module):
    """A `network` whose displacement is a reference solution, with the right slope and curvature between the nodes.

    On each cell of the reference the Legendre expansion is evaluated in torch, so it can be differentiated. The
    parameter `amount` adds an admissible displacement that is wrong.
    """

    def __init__(self, form: RodForm, perturbation: float = 0.0) -> None:
        super().__init__()
        self.reference: Reference = reference_solution(form.unit)
        self.form = form
        self.amount = nn.Parameter(torch.tensor(perturbation, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        edges = torch.from_numpy(np.ascontiguousarray(self.reference.edges))
        terms = torch.from_numpy(np.ascontiguousarray(self.reference.displacement_terms))
        cell = torch.searchsorted(edges, x.detach().contiguous(), right=True).clamp(1, len(terms)) - 1
        left, right = edges[cell], edges[cell + 1]
        t = (2 * x - left - right) / (right - left)
        before, now = torch.ones_like(t), t
        u = terms[cell, 0] + terms[cell, 1] * t
        for k in range(1, terms.shape[1] - 1):
            before, now = now, ((2 * k + 1) * t * now - k * before) / (k + 1)
            u = u + terms[cell, k + 1] * now
        zero = self.form.conditions(torch.zeros_like(x), x)
        mask = self.form.conditions(torch.ones_like(x), x) - zero
        # At a held end the mask is zero and the value does not matter.
        return (u - zero) / torch.where(mask == 0, torch.ones_like(mask), mask) + self.amount * torch.cos(2 * x)
