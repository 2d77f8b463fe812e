"""The names of the family: what the command line calls each equation, and where its class is."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml.errors import InputError

if TYPE_CHECKING:
    from sciml_pdes.collocation import Collocation


@dataclass(frozen=True)
class Entry:
    """An equation of the family.

    Attributes:
        module: file in `sciml_pdes.equations`.
        name: of its class there.
        equation: in one line.
    """

    module: str
    name: str
    equation: str

    def load(self) -> "type[Collocation]":
        """The class; loads torch."""
        return getattr(importlib.import_module(f"sciml_pdes.equations.{self.module}"), self.name)


CATALOG: dict[str, Entry] = {
    "poisson_1d": Entry("poisson", "Poisson1D", "-u'' = f on [0, 1]"),
    "poisson_2d": Entry("poisson", "Poisson2D", "-Laplacian u = f on the unit square"),
    "poisson_hole": Entry("poisson_hole", "PoissonHole", "-Laplacian u = 2 on a square with a hole"),
    "helmholtz": Entry("helmholtz", "Helmholtz", "Laplacian u + u = f, solution sin(pi x) sin(4 pi y)"),
    "heat": Entry("heat", "Heat", "u_t = 0.1 u_xx, two modes"),
    "klein_gordon": Entry("klein_gordon", "KleinGordon", "u_tt - u_xx + u^3 = f"),
    "reaction": Entry("reaction", "Reaction", "u_t = 5 u (1 - u) from a Gaussian hill"),
    "convection": Entry("convection", "Convection", "u_t + 40 u_x = 0, periodic"),
    "wave": Entry("wave", "Wave", "u_tt = 4 u_xx, first and fifth mode"),
    "burgers": Entry("burgers", "Burgers", "u_t + u u_x = (0.01 / pi) u_xx, a shock"),
    "allen_cahn": Entry("allen_cahn", "AllenCahn", "u_t = 0.0001 u_xx + 5 u - 5 u^3, fronts"),
    "plate": Entry("plate", "Plate", "div sigma = 0, a plate with a hole under tension"),
    "rod_inverse": Entry("rod_inverse", "RodInverse", "-(EA u')' = 2, EA and the end force from data"),
}


def make(name: str) -> "Collocation":
    """The problem of that name; loads torch.

    Raises:
        InputError: there is none.
    """
    if name not in CATALOG:
        raise InputError(f"PDE {name!r}: choose one of {', '.join(CATALOG)}.")
    return CATALOG[name].load()()
