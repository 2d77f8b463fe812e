"""Watched stochastic optimisation for physics and structural-biology inverse problems.

`sciml.solve(problem, model)` minimises a `Problem`; `sciml.pde` holds what differential equations need. Names load
when first used, so `import sciml` and the `--help` of the command line do not pay for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sciml.errors import ConvergenceError, InputError

if TYPE_CHECKING:
    from sciml import pde
    from sciml.budget import Budget
    from sciml.loop.solver import solve
    from sciml.phases import LBFGS, SGD, Adam, GaussNewton, SelfScaled
    from sciml.problem import Problem
    from sciml.runs.run import Run
    from sciml.solution import Result, Solution
    from sciml.watching.noise import GradientNoise

_HOMES = {
    "Adam": "sciml.phases",
    "Budget": "sciml.budget",
    "GaussNewton": "sciml.phases",
    "GradientNoise": "sciml.watching.noise",
    "LBFGS": "sciml.phases",
    "Problem": "sciml.problem",
    "Result": "sciml.solution",
    "Run": "sciml.runs.run",
    "SGD": "sciml.phases",
    "SelfScaled": "sciml.phases",
    "Solution": "sciml.solution",
    "solve": "sciml.loop.solver",
}

__all__ = [
    "LBFGS",
    "SGD",
    "Adam",
    "Budget",
    "ConvergenceError",
    "GaussNewton",
    "GradientNoise",
    "InputError",
    "Problem",
    "Result",
    "Run",
    "SelfScaled",
    "Solution",
    "pde",
    "solve",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in (PEP 562)."""
    if name == "pde":
        return importlib.import_module("sciml.pde")
    if name not in _HOMES:
        raise AttributeError(f"module 'sciml' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
