"""A family of standard PDEs, each with a reference that is no network. See README.md for the mathematics.

The classes are loaded on first use, so that `sciml pde --help` does not pay for torch. Each equation of the catalog is
a class of this package: `sciml_pdes.Helmholtz`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sciml_pdes.catalog import CATALOG, make

if TYPE_CHECKING:
    from sciml_pdes.collocation import Collocation, Embedded

__all__ = ["CATALOG", "Collocation", "Embedded", "make"]


def __getattr__(name: str) -> Any:
    if name in ("Collocation", "Embedded"):
        return getattr(importlib.import_module("sciml_pdes.collocation"), name)
    for entry in CATALOG.values():
        if entry.name == name:
            return entry.load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(entry.name for entry in CATALOG.values())})
