"""The answer without a network: integrate the load once for the force, once more for the displacement, to rounding.

N(x) = C - F(x), where F is the load accumulated from the left end, and u(x) = u(0) + integral of N / EA. The constant C
is the end force where one is given; with both ends held it follows from u(L) - u(0) (statically indeterminate). Both
integrals are taken exactly on piecewise Legendre expansions, so the error is that of the expansion, which is checked.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float

from sciml.errors import InputError
from sciml_rod.mechanics import Displacement, Rod, Traction

ORDER = 20
TAIL = 1e-12
MOST_CELLS = 8192


@dataclass(frozen=True)
class Reference:
    """Displacement and normal force of a bar.

    Attributes:
        rod: the bar.
        edges: cell edges [m]; loads and stiffness are smooth inside the cells.
        force_terms: Legendre coefficients of the normal force on every cell [N].
        displacement_terms: likewise of the displacement [m].
    """

    rod: Rod
    edges: Float[np.ndarray, "edges"]
    force_terms: Float[np.ndarray, "cells order"]
    displacement_terms: Float[np.ndarray, "cells order"]

    def displacement(self, x: Float[np.ndarray, "points"]) -> Float[np.ndarray, "points"]:
        """u(x) [m]."""
        return self._evaluate(self.displacement_terms, x)

    def force(self, x: Float[np.ndarray, "points"]) -> Float[np.ndarray, "points"]:
        """N(x) [N]; at a point load the value on its right."""
        return self._evaluate(self.force_terms, x)

    @property
    def energy(self) -> float:
        """Potential energy at the solution [J]: strain energy minus the work of loads and end forces (its minimum)."""
        t, w = np.polynomial.legendre.leggauss(ORDER)
        half = np.diff(self.edges) / 2
        x = ((self.edges[:-1] + half)[:, None] + half[:, None] * t).ravel()
        weights = (half[:, None] * w).ravel()
        u, force = self.displacement(x), self.force(x)
        total = float(weights @ (force**2 / (2 * _sample(self.rod.EA, x)) - _sample(self.rod.f, x) * u))
        places = [(load.position, load.force) for load in self.rod.point_loads]
        places += [(x, end.force) for x, end in ((0.0, self.rod.left), (self.rod.length, self.rod.right))
                   if isinstance(end, Traction)]  # fmt: skip
        return total - sum(force * float(self.displacement(np.array([x]))[0]) for x, force in places)

    def _evaluate(self, terms: np.ndarray, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, dtype=np.float64)
        cell = np.clip(np.searchsorted(self.edges, x, side="right") - 1, 0, len(terms) - 1)
        left, right = self.edges[cell], self.edges[cell + 1]
        t = (2 * x - left - right) / (right - left)
        return np.einsum("pk,pk->p", np.polynomial.legendre.legvander(t, terms.shape[1] - 1), terms[cell])


def reference_solution(rod: Rod, cells: int = 16) -> Reference:
    """Solve the bar by exact integration of piecewise Legendre expansions of f and N / EA.

    Args:
        rod: the bar.
        cells: cells per smooth part to begin with; doubled until the expansions have decayed to rounding.

    Raises:
        InputError: the expansion does not converge, because EA or f jumps where no breakpoint is declared.
    """
    nodes = np.array(rod.nodes)
    while True:
        edges = _refine(nodes, cells)
        load = _expand(_sample(rod.f, _gauss_points(edges)))
        flexibility = _expand(1 / _sample(rod.EA, _gauss_points(edges)))
        if _decayed(load) and _decayed(flexibility):
            break
        if cells >= MOST_CELLS:
            raise InputError(
                "EA or f is not smooth between the breakpoints of the bar: declare every jump in `breakpoints`."
            )
        cells *= 2
    return _integrate(rod, edges, load)


def _integrate(rod: Rod, edges: np.ndarray, load: np.ndarray) -> Reference:
    half = np.diff(edges) / 2
    loaded = _antiderivative(load, half)
    for point in rod.point_loads:
        loaded[edges[:-1] >= point.position, 0] += point.force
    # Displacements per unit constant force, and caused by the load alone.
    values = np.polynomial.legendre.legval(_nodes(), loaded.T)
    flexibility = 1 / _sample(rod.EA, _gauss_points(edges)).reshape(len(half), -1)
    unit, lag = _antiderivative(_expand(flexibility), half), _antiderivative(_expand(values * flexibility), half)
    if isinstance(rod.left, Traction):
        constant = -rod.left.force
    elif isinstance(rod.right, Traction):
        constant = rod.right.force + loaded[-1].sum()
    else:
        constant = (rod.right.value - rod.left.value + lag[-1].sum()) / unit[-1].sum()
    force, displacement = -loaded, constant * unit - lag
    force[:, 0] += constant
    if isinstance(rod.left, Displacement):
        displacement[:, 0] += rod.left.value
    else:
        assert isinstance(rod.right, Displacement)  # the bar checks that one end is held
        displacement[:, 0] += rod.right.value - displacement[-1].sum()
    return Reference(rod, edges, force, displacement)


def _nodes() -> np.ndarray:
    return np.polynomial.legendre.leggauss(ORDER)[0]


def _refine(nodes: np.ndarray, cells: int) -> np.ndarray:
    parts = [np.linspace(a, b, cells, endpoint=False) for a, b in pairwise(nodes)]
    return np.concatenate([*parts, nodes[-1:]])


def _gauss_points(edges: np.ndarray) -> np.ndarray:
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + _nodes())).ravel()


def _sample(field, x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(field(torch.from_numpy(x)).numpy(), x.shape)


def _expand(values: np.ndarray) -> np.ndarray:
    """Legendre coefficients on every cell from the values at its Gauss points (exact for degree < ORDER)."""
    t, w = np.polynomial.legendre.leggauss(ORDER)
    degree = np.arange(ORDER)
    return (values.reshape(-1, ORDER) * w) @ np.polynomial.legendre.legvander(t, ORDER - 1) * (2 * degree + 1) / 2


def _decayed(terms: np.ndarray) -> bool:
    # Rounding grows like the degree in the last coefficients of a constant: hence not machine precision.
    return bool(np.abs(terms[:, -2:]).max() <= TAIL * max(np.abs(terms).max(), 1e-300))


def _antiderivative(terms: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Coefficients of the integral from the left end of the bar, continuous across the cells."""
    integral = np.polynomial.legendre.legint(terms, lbnd=-1, axis=1) * half[:, None]
    totals = integral.sum(1)  # every Legendre polynomial is 1 at the right end
    integral[:, 0] += np.concatenate([[0.0], np.cumsum(totals)[:-1]])
    return integral
