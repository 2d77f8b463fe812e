"""A family of standard PDEs, each with a reference that is no network. See README.md for the mathematics.

Names are loaded on first use, so that `sciml pde --help` does not pay for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from problems.pdes.allen_cahn import AllenCahn
    from problems.pdes.burgers import Burgers
    from problems.pdes.catalog import CATALOG, make
    from problems.pdes.collocation import Collocation, Embedded
    from problems.pdes.convection import Convection
    from problems.pdes.heat import Heat
    from problems.pdes.helmholtz import Helmholtz
    from problems.pdes.klein_gordon import KleinGordon
    from problems.pdes.plate import Plate
    from problems.pdes.poisson import Poisson1D, Poisson2D
    from problems.pdes.poisson_hole import PoissonHole
    from problems.pdes.reaction import Reaction
    from problems.pdes.rod_inverse import RodInverse
    from problems.pdes.wave import Wave

_HOMES = {
    "allen_cahn": ("AllenCahn",),
    "burgers": ("Burgers",),
    "catalog": ("CATALOG", "make"),
    "collocation": ("Collocation", "Embedded"),
    "convection": ("Convection",),
    "heat": ("Heat",),
    "helmholtz": ("Helmholtz",),
    "klein_gordon": ("KleinGordon",),
    "plate": ("Plate",),
    "poisson": ("Poisson1D", "Poisson2D"),
    "poisson_hole": ("PoissonHole",),
    "reaction": ("Reaction",),
    "rod_inverse": ("RodInverse",),
    "wave": ("Wave",),
}

__all__ = [
    "CATALOG",
    "AllenCahn",
    "Burgers",
    "Collocation",
    "Convection",
    "Embedded",
    "Heat",
    "Helmholtz",
    "KleinGordon",
    "Plate",
    "Poisson1D",
    "Poisson2D",
    "PoissonHole",
    "Reaction",
    "RodInverse",
    "Wave",
    "make",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"problems.pdes.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
