"""The elastic rod in strong, weak and energy form, with an independent reference. See README.md for the mathematics.

Names are loaded on first use, so that `sciml rod --help` does not pay for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from problems.rod.cases import CASES, FORMS, Case, find_case
    from problems.rod.energy import EnergyForm
    from problems.rod.mechanics import Displacement, Interface, PointLoad, Rod, Traction
    from problems.rod.reference import Reference, reference_solution
    from problems.rod.strong import MissingInterfaceCondition, StrongForm
    from problems.rod.weak import WeakForm

_HOMES = {
    "cases": ("CASES", "FORMS", "Case", "find_case"),
    "energy": ("EnergyForm",),
    "mechanics": ("Displacement", "Interface", "PointLoad", "Rod", "Traction"),
    "reference": ("Reference", "reference_solution"),
    "strong": ("MissingInterfaceCondition", "StrongForm"),
    "weak": ("WeakForm",),
}

__all__ = [
    "CASES",
    "FORMS",
    "Case",
    "Displacement",
    "EnergyForm",
    "Interface",
    "MissingInterfaceCondition",
    "PointLoad",
    "Reference",
    "Rod",
    "StrongForm",
    "Traction",
    "WeakForm",
    "find_case",
    "reference_solution",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"problems.rod.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
