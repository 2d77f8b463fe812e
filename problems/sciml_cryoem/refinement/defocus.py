"""Defocus of every particle within a refinement: from when on it can be told, around what, and into which columns.

A defocus that is off by D turns the phase of the CTF by pi lambda D s^2 at the frequency s. An image whose projection
has the power S(s) over the noise leaves it a posterior deviation of about

    1 / sqrt(1 / prior^2 + sum over s of 2 S(s) (pi lambda s^2)^2),

sin^2 and cos^2 of the phase being alike on average.
Defocus is refined from when a deviation of `PRIOR` turns the phase by `PHASE` at the resolution reached: 11 Angstrom at
300 kV. The prior is about the value in the file, not about that of the iteration before. Its deviation is found from
the images, in each half set: the mean of offset^2 + posterior variance (expectation maximisation), so that defoci that
were right stay what they were.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import ctf
from sciml_cryoem.poses.focus import DefocusPrior
from sciml_cryoem.reconstruction.noise import NoiseModel
from sciml_cryoem.refinement.refined_poses import Poses

PRIOR = 300.0
"""Deviation of a particle's defocus from the value in the file, Angstrom, before anything is known."""
PHASE = 0.15
"""Turn of the phase (radian) at the resolution reached from which defocus is refined."""
_LEAST = 10.0  # Angstrom: where the file is right, the prior need not shrink further


@dataclass(frozen=True)
class Focus:
    """What the defoci of a set are refined from.

    Attributes:
        file: coefficients of the CTF by the values in the file.
        wavelength: of each image, Angstrom.
    """

    file: Float[np.ndarray, "n 10"]
    wavelength: Float[np.ndarray, " n"]

    @classmethod
    def of(cls, particles: Particles, coefficients: Float[np.ndarray, "n 10"]) -> "Focus":
        """That of a particle set."""
        wavelength = np.broadcast_to(ctf.wavelength(particles.voltage_kv * 1e3), (len(particles),))
        return cls(coefficients, np.asarray(wavelength, np.float64))

    def can_tell(self, resolution: float) -> bool:
        """Whether maps of this resolution (Angstrom) tell the defocus of a particle."""
        return bool(np.pi * np.median(self.wavelength) * PRIOR / resolution**2 > PHASE)

    def coefficients(
        self, rows: Int[np.ndarray, " some"], offset: Float[np.ndarray, " some"]
    ) -> Float[np.ndarray, "some 10"]:
        """Coefficients of the CTF of some images whose defocus differs by an offset (Angstrom) from the file's."""
        table = np.array(self.file[rows], np.float64)
        table[:, 0:3] -= np.pi * (self.wavelength[rows] * offset)[:, None] * table[:, 3:6]
        return table.astype(self.file.dtype)

    def prior(
        self, rows: Int[np.ndarray, " some"], groups: Int[np.ndarray, " some"], noise: NoiseModel, spread: float
    ) -> DefocusPrior:
        """What is known of images before their defocus is refined.

        Args:
            rows: which images.
            groups: noise group of each.
            noise: of these groups.
            spread: deviation of the prior, Angstrom.
            views: CTF and noise kind of all images.
            noise: of these kinds.
        """
        return DefocusPrior(self.file[rows], groups, noise.whitening, self.wavelength[rows], spread)


def prior_spread(poses: Poses, halves: Int[np.ndarray, " n"], before: Float[np.ndarray, "2"]) -> Float[np.ndarray, "2"]:
    """Deviation of the prior of the defocus in each half set, Angstrom, by what the images say of it; as before where
    no image says anything."""
    spread = before.copy()
    for half in (1, 2):
        mine = (halves == half) & (poses.weights > 0.5) & (poses.defocus_deviation > 0)
        if mine.any():
            mean = np.mean(np.square(poses.defocus[mine]) + np.square(poses.defocus_deviation[mine]))
            spread[half - 1] = np.clip(np.sqrt(mean), _LEAST, PRIOR)
    return spread


def with_defocus(particles: Particles, offset: Float[np.ndarray, " n"]) -> Particles:
    """The set with these offsets added to its defoci, in its columns as well; as it is where all are zero."""
    if not offset.any():
        return particles
    table = particles.table
    for label in ("rlnDefocusU", "rlnDefocusV"):  # of the file, where U may be the smaller one
        table = table.with_column(label, [f"{value:.2f}" for value in table.numbers(label) + offset])
    u, v = particles.defocus_u + offset, particles.defocus_v + offset
    return replace(particles, defocus_u=u, defocus_v=v, table=table)
