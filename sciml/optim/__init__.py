"""Optimisers, one algorithm a file: first-order rules, line search, quasi-Newton methods.

`sciml.optim.LBFGS` and `sciml.optim.SelfScaled` are plain `torch.optim.Optimizer`s; the phases of `sciml.solve` use the
classes beneath them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciml.optim.torch_optimizers import LBFGS, SelfScaled

__all__ = ["LBFGS", "SelfScaled"]


def __getattr__(name: str) -> Any:
    # on first use: the phases import this package for its parts, and the optimisers import them, too
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("sciml.optim.torch_optimizers"), name)
