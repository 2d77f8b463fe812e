"""Poses of all images as a refinement holds them, and how they go into a particle set."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from problems.cryoem import rotations
from problems.cryoem.particle_set import Particles


@dataclass
class Poses:
    """Poses of all images as they stand, and what is thought of them.

    Attributes:
        rotations, offsets: offsets in pixels. weights: share of each image that is used.
        evidence: log likelihood of the pose against no particle at all. expected: what that is for a good image.
        scale: contrast of each image. covariance: of the pose.
    """

    rotations: Float[np.ndarray, "n 3 3"]
    offsets: Float[np.ndarray, "n 2"]
    weights: Float[np.ndarray, " n"]
    evidence: Float[np.ndarray, " n"]
    expected: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]
    covariance: Float[np.ndarray, "n 5 5"]

    @classmethod
    def unknown(cls, count: int) -> "Poses":
        """Of images not looked at."""
        nothing = np.zeros(count)
        return cls(
            np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 2)), np.ones(count), nothing, nothing.copy(),
            np.ones(count), np.tile(np.eye(5), (count, 1, 1)),
        )  # fmt: skip


def with_poses(particles: Particles, poses: Poses, halves: Int[np.ndarray, " n"]) -> Particles:
    """The set with these poses and half sets, in its columns as well."""
    angles = rotations.euler_angles(poses.rotations)
    origins = poses.offsets * particles.pixel_size
    table = particles.table
    columns = {"rlnAngleRot": angles[:, 0], "rlnAngleTilt": angles[:, 1], "rlnAnglePsi": angles[:, 2]}
    columns |= {"rlnOriginXAngst": origins[:, 0], "rlnOriginYAngst": origins[:, 1]}
    for label, values in columns.items():
        table = table.with_column(label, [f"{value:.6f}" for value in values])
    table = table.with_column("rlnRandomSubset", [str(int(half)) for half in halves])
    table = table.with_column("rlnMaxValueProbDistribution", [f"{weight:.6f}" for weight in poses.weights])
    return replace(
        particles, angles_deg=angles, origins=origins, random_subset=halves, table=table, has_poses=True,
    )  # fmt: skip
