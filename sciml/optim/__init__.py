"""Optimisers, one algorithm a file: first-order rules, line search, quasi-Newton methods, Gauss-Newton.

`Clip`, `Normalize` and `Quantize` transform the gradient of a stochastic phase. `Average` and `Best` choose which of
its iterates is kept. `sciml.optim.LBFGS` and `sciml.optim.SelfScaled` are plain `torch.optim.Optimizer`s; the phases of
`sciml.solve` use the classes beneath them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciml.optim.iterates import Average, Best
    from sciml.optim.torch_optimizers import LBFGS, SelfScaled
    from sciml.optim.transforms import Clip, Normalize, Quantize

_HOMES = {
    "Average": "sciml.optim.iterates",
    "Best": "sciml.optim.iterates",
    "Clip": "sciml.optim.transforms",
    "LBFGS": "sciml.optim.torch_optimizers",
    "Normalize": "sciml.optim.transforms",
    "Quantize": "sciml.optim.transforms",
    "SelfScaled": "sciml.optim.torch_optimizers",
}

__all__ = ["LBFGS", "Average", "Best", "Clip", "Normalize", "Quantize", "SelfScaled"]


def __getattr__(name: str) -> Any:
    # on first use: the phases import this package for its parts, and the optimisers import them, too
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
