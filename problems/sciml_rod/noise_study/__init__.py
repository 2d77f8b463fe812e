"""The comparison of the formulations: gradient variance, descent, and the verdict.

The modules `variance`, `descent`, `verdict` and `figures` load on first use: `sciml_rod.noise_study.variance`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciml_rod.noise_study import descent, figures, variance, verdict

__all__ = ["descent", "figures", "variance", "verdict"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"sciml_rod.noise_study.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
