"""Cryo-EM: particle images to a 3D density. Names are loaded on first use, so importing the package costs nothing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciml_cryoem.files.particles import Particles, read_particles
    from sciml_cryoem.initial_model.start_map import AbInitioOptions, abinitio
    from sciml_cryoem.reconstruction.accumulation import ReconstructOptions
    from sciml_cryoem.reconstruction.direct import reconstruct
    from sciml_cryoem.reconstruction.images import ImageSettings
    from sciml_cryoem.refinement.image_set import RefineOptions
    from sciml_cryoem.refinement.refine import refine

_HOMES = {
    "AbInitioOptions": "sciml_cryoem.initial_model.start_map",
    "ImageSettings": "sciml_cryoem.reconstruction.images",
    "Particles": "sciml_cryoem.files.particles",
    "ReconstructOptions": "sciml_cryoem.reconstruction.accumulation",
    "RefineOptions": "sciml_cryoem.refinement.image_set",
    "abinitio": "sciml_cryoem.initial_model.start_map",
    "read_particles": "sciml_cryoem.files.particles",
    "reconstruct": "sciml_cryoem.reconstruction.direct",
    "refine": "sciml_cryoem.refinement.refine",
}

__all__ = [
    "AbInitioOptions",
    "ImageSettings",
    "Particles",
    "ReconstructOptions",
    "RefineOptions",
    "abinitio",
    "read_particles",
    "reconstruct",
    "refine",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
