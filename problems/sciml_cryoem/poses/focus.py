"""Refinement of each particle's defocus with its pose fixed, under a Gaussian prior about the value in the file.

Particles lie at different heights in the ice. An offset of the defocus shifts the zeros of the CTF, which shows only at
high resolution: at 300 kV a hundred Angstrom turn the phase by 0.06 rad at 10 A, by 1.5 rad at 2 A. Alternate with
`polish.polish`: offset and pose are nearly independent. The covariance of a pose holds for the defocus it was given.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sciml_cryoem.poses.polish_values import PolishResult, ReferenceSpectrum
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra


@dataclass(frozen=True)
class DefocusPrior:
    """Optics of images before their defocus is refined, and how far it may be off.

    Attributes:
        ctf: `CTF.coefficients` by the values in the file.
        groups: noise group of each image.
        whitening: `NoiseModel.whitening`.
        wavelength: of the electrons, Angstrom (`ctf.wavelength`); one or one for each image.
        deviation: of the Gaussian prior about no change, Angstrom.
    """

    ctf: Float[np.ndarray, "images 10"]
    groups: Int[np.ndarray, " images"]
    whitening: Float[np.ndarray, "groups shells"]
    wavelength: Float[np.ndarray, "..."] | float
    deviation: float = 300.0


@dataclass(frozen=True)
class DefocusResult:
    """Refined defoci.

    Attributes:
        ctf: the coefficients of the prior, brought up to date.
        offset: to be added to rlnDefocusU and rlnDefocusV, Angstrom.
        deviation: its posterior standard deviation, Angstrom; the prior's where the image says nothing.
        gain: by how much the log-likelihood (without the prior) rose.
    """

    ctf: Float[np.ndarray, "images 10"]
    offset: Float[np.ndarray, " images"]
    deviation: Float[np.ndarray, " images"]
    gain: Float[np.ndarray, " images"]


def refocus(
    reference: ReferenceSpectrum, images: ImageSpectra, poses: PolishResult, prior: DefocusPrior
) -> DefocusResult:
    """Refine the defocus of every image: scan within twice the prior's deviation, then Newton.

    Args:
        reference: map and points.
        images: at the same points; their `transfer` is not used.
        poses: rotations, offsets and scales of the images.
        prior: of the images.

    Raises:
        ValueError: arguments that do not fit each other, a deviation that is not positive.
    """
    from sciml_cryoem.poses import focus_kernels

    count = len(images)
    if images.values.shape[1] != len(reference.plane) or len(poses.scale) != count or len(prior.ctf) != count:
        raise ValueError(
            f"{images.values.shape} values do not fit {len(poses.scale)} poses on {len(reference.plane)} points and "
            f"{len(prior.ctf)} CTFs"
        )
    if not prior.deviation > 0:
        raise ValueError(f"the prior deviation of the defocus must be positive, not {prior.deviation}")
    packed = np.empty((count, 4, 3))
    packed[:, :3], packed[:, 3, :2], packed[:, 3, 2] = poses.rotations, poses.offsets, poses.scale
    data = (
        np.ascontiguousarray(images.values),
        np.ascontiguousarray(prior.ctf, np.float32),
        np.ascontiguousarray(prior.groups, np.int64),
        np.ascontiguousarray(prior.whitening[:, reference.plane.shell], np.float32),
    )
    optics = np.empty((count, 2))
    optics[:, 0], optics[:, 1] = prior.wavelength, prior.deviation
    report = np.empty((count, 4))
    focus_kernels.refocus(reference.slice_grid(), data, packed, optics, report)
    offset = report[:, 0].copy()
    table = np.array(prior.ctf, np.float64)
    table[:, 0:3] -= math.pi * (optics[:, 0] * offset)[:, None] * table[:, 3:6]
    return DefocusResult(
        ctf=table.astype(prior.ctf.dtype),
        offset=offset,
        deviation=report[:, 1].copy(),
        gain=0.5 * (report[:, 2] - report[:, 3]),
    )
