"""The energy form (Deep Ritz): the potential energy, integrated cell by cell; items are cells."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.batches import move
from sciml.errors import InputError
from sciml.pde import composite_gauss, derivatives
from sciml_rod.forms.form import RodForm
from sciml_rod.forms.weak import mesh
from sciml_rod.mechanics import Rod, Traction

UNSEEN = 1e4
"""Weight of the unseen stretch: hiding from the rule gains at most about 1 / UNSEEN of the energy."""


@dataclass(frozen=True)
class Cells:
    """Quadrature cells of the unit bar; their weights are chosen so that the *mean* over all cells is the integral.

    Attributes:
        x: left end, Gauss points and right end of each cell.
        stiffness: weight EA / 2 at the Gauss points.
        load: weight f at the Gauss points.
        length: length of the cell.
    """

    x: Float[Tensor, "cells places 1"]
    stiffness: Float[Tensor, "cells points"]
    load: Float[Tensor, "cells points"]
    length: Float[Tensor, "cells 1"]


class EnergyForm(RodForm[Cells]):
    """The potential energy, whose minimum among all admissible displacements is the solution.

    Loss terms (non-dimensional; the sum is negative at the solution):
        strain: integral of EA u'^2 / 2.
        load: minus the integral of f u.
        forces: minus the work of end and point forces.
        unseen: zero for a displacement that the rule resolves.

    On any fixed rule a network can lower the first three without bound, by rising and falling between the quadrature
    points, where no strain is counted. That stretch is found out by comparing u at the points with the integral of u'
    as the rule sees it; `unseen` is UNSEEN times its strain energy. What is left shows on another rule: `held_out_gap`.

    Args:
        rod: the bar.
        cells: quadrature cells on the whole bar.
        points: Gauss points per cell.
    """

    def __init__(self, rod: Rod, cells: int = 64, points: int = 8) -> None:
        super().__init__(rod)
        self._all = _cells(self.unit, cells, points)
        self.size = len(self._all.x)
        self._held_out = _cells(self.unit, cells + cells // 2 + 1, points)
        self._integrate = _integration_matrix(points)
        ends = ((0.0, self.unit.left), (1.0, self.unit.right))
        forces = [(x, end.force) for x, end in ends if isinstance(end, Traction) and end.force]
        forces += [(load.position, load.force) for load in self.unit.point_loads]
        self._forces = torch.tensor(forces, dtype=torch.float64).reshape(-1, 2)
        self._moved: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def sample(self, size: int | None, generator: torch.Generator) -> Cells:
        """All cells, or `size` different ones."""
        total = len(self._all.x)
        if size is None or size == total:
            return self._all
        if not 0 < size < total:
            raise InputError(f"a batch of {size} cells: there are {total}.")
        index = torch.randperm(total, generator=generator)[:size]
        return Cells(*(getattr(self._all, field.name)[index] for field in fields(Cells)))

    def held_out(self) -> Cells:
        """Another rule: more cells, so other points."""
        return self._held_out

    def loss(self, model: nn.Module, batch: Cells) -> Mapping[str, Tensor]:
        """The terms of the energy; see the class."""
        cells, places = batch.x.shape[:2]
        forces, integrate = self._constants(batch.x)
        x = torch.cat([batch.x.reshape(-1, 1), forces[:, :1]])
        u, slope = derivatives(lambda x: self.field(model, x), x, order=1)
        at_cells = u[: cells * places].view(cells, places)
        strain = slope[: cells * places].view(cells, places)[:, 1:-1]
        seen = strain @ integrate * (batch.length / 2)
        unseen = (at_cells[:, 1:] - at_cells[:, :1] - seen).square().mean(1) / batch.length[:, 0].square()
        terms = {
            "strain": (batch.stiffness * strain.square()).sum() / cells,
            "load": -(batch.load * at_cells[:, 1:-1]).sum() / cells,
            "unseen": (UNSEEN / cells) * (batch.stiffness.sum(1) * unseen).sum(),
        }
        if len(forces):
            terms["forces"] = -(forces[:, 1:] * u[cells * places :]).sum()
        return terms

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Forces and integration matrix on the device of the batch, moved there once."""
        key = (like.dtype, like.device)
        if key not in self._moved:
            self._moved[key] = (self._forces.to(like), self._integrate.to(like))
        return self._moved[key]

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """As for every form, and `held_out_gap`: relative difference of the energies on two quadrature rules."""
        values = dict(super().evaluate(model))
        with torch.no_grad():
            energy = float(sum(self.loss(model, move(self._all, next(model.parameters()))).values()))
        gap = abs(energy - values["held_out_loss"])
        return values | {"held_out_gap": gap / max(abs(energy), abs(values["held_out_loss"]), 1e-300)}


def _cells(unit: Rod, cells: int, points: int) -> Cells:
    nodes = mesh(unit, cells)
    x, weights = composite_gauss(nodes, points)
    places = torch.cat([nodes[:-1, None], x, nodes[1:, None]], dim=1)
    weights = weights * len(x)
    return Cells(places[..., None], weights * unit.EA(x) / 2, weights * unit.f(x), nodes.diff()[:, None])


def _integration_matrix(points: int) -> Float[Tensor, "points targets"]:
    """Values at the Gauss points of [-1, 1] -> integrals of their interpolant from -1 to each Gauss point and to 1."""
    t, w = np.polynomial.legendre.leggauss(points)
    degree = np.arange(points)
    expand = (w[:, None] * np.polynomial.legendre.legvander(t, points - 1)) * (2 * degree + 1) / 2
    integrals = np.polynomial.legendre.legint(np.eye(points), lbnd=-1)  # column k: the integral of P_k
    return torch.from_numpy(expand @ (np.polynomial.legendre.legvander(np.append(t, 1.0), points) @ integrals).T)
