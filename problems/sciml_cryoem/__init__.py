"""Cryo-EM: particle images to a 3D density. Names are loaded on first use, so importing the package costs nothing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciml_cryoem.files.particles import Particles, read_particles
    from sciml_cryoem.initial_model.start_map import abinitio
    from sciml_cryoem.reconstruction.direct import reconstruct
    from sciml_cryoem.refinement.gold_standard import refine

_HOMES = {
    "Particles": "sciml_cryoem.files.particles",
    "read_particles": "sciml_cryoem.files.particles",
    "reconstruct": "sciml_cryoem.reconstruction.direct",
    "refine": "sciml_cryoem.refinement.gold_standard",
    "abinitio": "sciml_cryoem.initial_model.start_map",
}

__all__ = ["Particles", "abinitio", "read_particles", "reconstruct", "refine"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
