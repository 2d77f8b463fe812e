"""Refinement of each particle's defocus with its pose fixed, under a Gaussian prior about the value in the file.

Particles lie at different heights in the ice. The offset shifts the CTF's zeros, which tells something only where
there are several, beyond low resolution: at 300 kV a hundred Angstrom turn the phase by .06 rad at 10 A, by 1.5 at 2 A.
Alternate with `polish.polish`; offset and pose are nearly independent, and the covariance of the pose is that at the
defocus it was given.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from sciml_cryoem.poses.polish_values import Observed, PolishResult, ReferenceSpectrum


@dataclass(frozen=True)
class DefocusResult:
    """Refined defoci.

    Attributes:
        images: the same with the CTF's coefficients brought up to date.
        offset: to be added to rlnDefocusU and rlnDefocusV, Angstrom.
        deviation: its posterior standard deviation, Angstrom; the prior's where the image says nothing.
        gain: by how much the log-likelihood (without the prior) rose.
    """

    images: Observed
    offset: Float[np.ndarray, " n"]
    deviation: Float[np.ndarray, " n"]
    gain: Float[np.ndarray, " n"]


def refocus(
    reference: ReferenceSpectrum,
    images: Observed,
    poses: PolishResult,
    wavelength: Float[np.ndarray, "..."] | float,
    deviation: float = 300.0,
) -> DefocusResult:
    """Refine the defocus of every image: scan within twice the prior's deviation, then Newton.

    Args:
        reference: map and points.
        images: at the same points.
        poses: rotations, offsets and scales of the images.
        wavelength: of the electrons, Angstrom (`ctf.wavelength`); one or one for each image.
        deviation: of the Gaussian prior about no change, Angstrom.

    Raises:
        ValueError: arguments that do not fit each other, a deviation that is not positive.
    """
    from sciml_cryoem.poses import focus_kernels

    count = len(images)
    if images.values.shape[1] != len(reference.plane) or len(poses.scale) != count:
        raise ValueError(
            f"{images.values.shape} values do not fit {len(poses.scale)} poses on {len(reference.plane)} points"
        )
    if not deviation > 0:
        raise ValueError(f"the prior deviation of the defocus must be positive, not {deviation}")
    packed = np.empty((count, 4, 3))
    packed[:, :3], packed[:, 3, :2], packed[:, 3, 2] = poses.rotations, poses.offsets, poses.scale
    data = (
        np.ascontiguousarray(images.values, np.complex64),
        np.ascontiguousarray(images.ctf, np.float32),
        np.ascontiguousarray(images.groups, np.int64),
        np.ascontiguousarray(images.whitening, np.float32),
    )
    optics = np.empty((count, 2))
    optics[:, 0], optics[:, 1] = wavelength, deviation
    settings = np.array([2.0 * math.pi / reference.plane.size, reference.padding, reference.reach])
    report = np.empty((count, 4))
    focus_kernels.refocus(reference.grid, reference.points, reference.index, data, packed, settings, optics, report)
    offset = report[:, 0].copy()
    table = np.array(images.ctf, np.float64)
    table[:, 0:3] -= math.pi * (optics[:, 0] * offset)[:, None] * table[:, 3:6]
    return DefocusResult(
        images=replace(images, ctf=table.astype(images.ctf.dtype)),
        offset=offset,
        deviation=report[:, 1].copy(),
        gain=0.5 * (report[:, 2] - report[:, 3]),
    )
