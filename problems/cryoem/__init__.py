"""Cryo-EM: particle images to a 3D density. Names are loaded on first use, so importing the package costs nothing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from problems.cryoem.particles import Particles, read_particles
    from problems.cryoem.reconstruction import reconstruct
    from problems.cryoem.refinement import refine
    from problems.cryoem.start_map import abinitio

_HOMES = {
    "Particles": "problems.cryoem.particles",
    "read_particles": "problems.cryoem.particles",
    "reconstruct": "problems.cryoem.reconstruction",
    "refine": "problems.cryoem.refinement",
    "abinitio": "problems.cryoem.start_map",
}

__all__ = ["Particles", "abinitio", "read_particles", "reconstruct", "refine"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
