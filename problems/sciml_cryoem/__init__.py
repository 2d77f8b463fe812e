"""Cryo-EM: particle images to a 3D density. Names are loaded on first use, so importing the package costs nothing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciml_cryoem.figures.maps import draw_fsc, draw_slices
    from sciml_cryoem.figures.search import MapSnapshot, draw_emergence, draw_pose_errors, draw_refinement
    from sciml_cryoem.files.mrc import read_map, write_map
    from sciml_cryoem.files.particle_set import Particles
    from sciml_cryoem.files.particles import read_particles
    from sciml_cryoem.initial_model.start_map import AbInitioOptions, StartMap, abinitio
    from sciml_cryoem.maps.alignment import align
    from sciml_cryoem.maps.fsc import FSCCurves, corrected_fsc, fsc
    from sciml_cryoem.maps.masks import soft_sphere
    from sciml_cryoem.poses.pose_error import PoseError, pose_error
    from sciml_cryoem.postprocessing.postprocess import PostprocessOptions, PostprocessResult, postprocess
    from sciml_cryoem.reconstruction.accumulation import ReconstructOptions
    from sciml_cryoem.reconstruction.direct import Reconstruction, reconstruct
    from sciml_cryoem.reconstruction.images import ImageSettings
    from sciml_cryoem.reconstruction.stochastic import reconstruct_stochastic
    from sciml_cryoem.refinement.conclusion import RefinedMaps, refine
    from sciml_cryoem.refinement.image_set import RefineOptions

_HOMES = {
    "files.mrc": ("read_map", "write_map"),
    "files.particles": ("read_particles",),
    "files.particle_set": ("Particles",),
    "reconstruction.images": ("ImageSettings",),
    "reconstruction.accumulation": ("ReconstructOptions",),
    "reconstruction.direct": ("Reconstruction", "reconstruct"),
    "reconstruction.stochastic": ("reconstruct_stochastic",),
    "initial_model.start_map": ("AbInitioOptions", "StartMap", "abinitio"),
    "refinement.image_set": ("RefineOptions",),
    "refinement.conclusion": ("RefinedMaps", "refine"),
    "postprocessing.postprocess": ("PostprocessOptions", "PostprocessResult", "postprocess"),
    "maps.alignment": ("align",),
    "maps.fsc": ("FSCCurves", "corrected_fsc", "fsc"),
    "maps.masks": ("soft_sphere",),
    "poses.pose_error": ("PoseError", "pose_error"),
    "figures.maps": ("draw_fsc", "draw_slices"),
    "figures.search": ("MapSnapshot", "draw_emergence", "draw_pose_errors", "draw_refinement"),
}

__all__ = [
    "AbInitioOptions",
    "FSCCurves",
    "ImageSettings",
    "MapSnapshot",
    "Particles",
    "PoseError",
    "PostprocessOptions",
    "PostprocessResult",
    "ReconstructOptions",
    "Reconstruction",
    "RefineOptions",
    "RefinedMaps",
    "StartMap",
    "abinitio",
    "align",
    "corrected_fsc",
    "draw_emergence",
    "draw_fsc",
    "draw_pose_errors",
    "draw_refinement",
    "draw_slices",
    "fsc",
    "pose_error",
    "postprocess",
    "read_map",
    "read_particles",
    "reconstruct",
    "reconstruct_stochastic",
    "refine",
    "soft_sphere",
    "write_map",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"sciml_cryoem.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
