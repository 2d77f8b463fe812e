"""The elastic rod in strong, weak and energy form, with an independent reference. See README.md for the mathematics.

Names are loaded on first use, so that `sciml rod --help` does not pay for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciml_rod.cases import CASES, FORMS, Case, find_case
    from sciml_rod.forms.energy import EnergyForm
    from sciml_rod.forms.strong import MissingInterfaceCondition, StrongForm
    from sciml_rod.forms.weak import WeakForm
    from sciml_rod.mechanics import Displacement, Interface, PointLoad, Rod, Traction
    from sciml_rod.reference import Reference, reference_solution

_HOMES = {
    "cases": ("CASES", "FORMS", "Case", "find_case"),
    "forms.energy": ("EnergyForm",),
    "forms.strong": ("MissingInterfaceCondition", "StrongForm"),
    "forms.weak": ("WeakForm",),
    "mechanics": ("Displacement", "Interface", "PointLoad", "Rod", "Traction"),
    "reference": ("Reference", "reference_solution"),
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
            return getattr(importlib.import_module(f"sciml_rod.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
