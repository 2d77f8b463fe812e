"""The elastic rod in strong, weak and energy form, with an independent reference. See README.md for the mathematics."""

from problems.rod.cases import CASES, FORMS, Case, find_case
from problems.rod.energy import EnergyForm
from problems.rod.mechanics import Displacement, Interface, PointLoad, Rod, Traction
from problems.rod.reference import Reference, reference_solution
from problems.rod.strong import MissingInterfaceCondition, StrongForm
from problems.rod.weak import WeakForm

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
