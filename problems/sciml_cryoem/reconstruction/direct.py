"""A map from particles with known poses: two independent half maps, their FSC, and a full map regularized by it.

    V = F^-1[ sum CTF F / sigma^2  /  (sum CTF^2 / sigma^2 + 1 / tau^2) ] * gridding correction

per voxel of a Fourier grid padded by 2. Half maps carry only a floor of a thousandth of the mean weight of their shell.
For the full map 1 / tau^2 = <W> (1 - F) / F in each shell, with F = 2 FSC / (1 + FSC) from the half maps inside a
sphere: the Wiener filter of the measured signal-to-noise ratio. The README says how well that does and against what it
was compared.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from sciml.findings import Finding
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.maps.fsc import FSCCurves
from sciml_cryoem.maps.fsc_findings import fsc_findings
from sciml_cryoem.reconstruction.accumulation import HalfSetSums, ReconstructOptions, accumulate, sums_memory
from sciml_cryoem.reconstruction.images import block_bytes, stack_bytes
from sciml_cryoem.reconstruction.prior import PriorEstimate, estimate_prior
from sciml_cryoem.reconstruction.resources import Resources, disc_points, total


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed map with its half maps, FSC and sums.

    Attributes:
        full: the regularized map of all particles, times the mask of `prior` if it has one.
        half1: unfiltered, unmasked map of half set 1.
        half2: of half set 2.
        prior: the FSC of the half maps, and the prior and mask that follow from it.
        half_sums: the Fourier sums of both half sets, to solve again with another prior.
    """

    full: Float[np.ndarray, "n n n"]
    half1: Float[np.ndarray, "n n n"]
    half2: Float[np.ndarray, "n n n"]
    prior: PriorEstimate
    half_sums: HalfSetSums = field(repr=False)

    @property
    def mask(self) -> Float[np.ndarray, "n n n"] | None:
        """The mask of full map and FSC, 0 to 1; None for none."""
        return self.prior.mask

    @property
    def curves(self) -> FSCCurves:
        """FSC of the half maps: unmasked, masked, and corrected for the mask."""
        return self.prior.curves

    @property
    def resolution(self) -> float:
        """Where the FSC of the half maps, corrected for the mask, falls to 0.143; Angstrom."""
        return self.curves.resolution()

    @property
    def result(self) -> str:
        """CONVERGED; NO_COVERAGE where the images show one view only, or nothing: such a map is none."""
        return "CONVERGED" if self.half_sums.coverage.enough else "NO_COVERAGE"

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What to know about images and map before believing it."""
        note = [Finding(self.prior.note, "mask", "warning")] if self.prior.note else []
        return (*self.half_sums.findings, *fsc_findings(self.curves), *note)


def reconstruct(particles: Particles, options: ReconstructOptions | None = None) -> Reconstruction:
    """Reconstruct a particle set with known poses by the direct solve.

    Args:
        particles: with poses.
        options: how.

    Raises:
        InputError: see `accumulate`.
    """
    options = options or ReconstructOptions()
    return regularize(accumulate(particles, options), options)


def regularize(half_sums: HalfSetSums, options: ReconstructOptions) -> Reconstruction:
    """Half maps, FSC, prior and full map from the sums."""
    half1, half2 = half_sums.half_maps()
    estimate = estimate_prior(half1, half2, half_sums, options)
    full = half_sums.full_map(estimate.precision)
    if estimate.mask is not None:
        full = full * estimate.mask
    return Reconstruction(full, half1, half2, estimate, half_sums)


def resources(particles: Particles, options: ReconstructOptions) -> Resources:
    """Memory, reading and time of the direct solve, with the uncertainty of its map.

    The peak is in the pass over the images, or, where the box is large, in the solves after it.
    """
    box, count = particles.box, len(particles)
    sums, transforms = sums_memory(box)
    passing = [sums, ("a block of images", block_bytes(particles, options.settings))]
    solving = [sums, transforms, ("maps", 24.0 * box**3)]
    memory = max(passing, solving, key=total)
    points = disc_points(box / 2)
    seconds = 1.2e-7 * count * points + 4e-7 * (2.0 * box) ** 3
    read = stack_bytes(particles) + stack_bytes(particles, min(count, 1000))
    return Resources(memory, memory, read, 1, seconds)
