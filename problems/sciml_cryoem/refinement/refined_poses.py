"""Poses of all images as a refinement holds them, and how they go into a particle set."""

from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Float, Int

from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import rotations


@dataclass
class Poses:
    """Poses of all images as they stand, and what is thought of them.

    Attributes:
        rotations: matrices A of the views.
        offsets: (x, y) of the particle's center, pixels.
        weights: share of each image that is used, the lesser of what the last two passes made of it.
        judged: what the last pass made of it.
        evidence: log likelihood of the pose against no particle at all.
        expected: what that is for a good image.
        contrast: of each image with the map's projection, as it was found.
        strength: root of the power of that projection over the mean of all views.
        scale: what of the contrast is believed, with which the image is inserted.
        covariance: of the pose.
        defocus: to be added to that of the file, Angstrom.
        defocus_deviation: its posterior standard deviation; 0 where it was not refined.
    """

    rotations: Float[np.ndarray, "n 3 3"]
    offsets: Float[np.ndarray, "n 2"]
    weights: Float[np.ndarray, " n"]
    judged: Float[np.ndarray, " n"]
    evidence: Float[np.ndarray, " n"]
    expected: Float[np.ndarray, " n"]
    contrast: Float[np.ndarray, " n"]
    strength: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]
    covariance: Float[np.ndarray, "n 5 5"]
    defocus: Float[np.ndarray, " n"]
    defocus_deviation: Float[np.ndarray, " n"]

    @classmethod
    def unknown(cls, count: int) -> "Poses":
        """Of images not looked at."""
        zeros, ones = np.zeros((6, count)), np.ones((5, count))
        eyes = [np.tile(np.eye(size), (count, 1, 1)) for size in (3, 5)]
        return cls(
            rotations=eyes[0], offsets=zeros[:2].T.copy(), weights=ones[0], judged=ones[1], evidence=zeros[2],
            expected=zeros[3], contrast=ones[2], strength=ones[3], scale=ones[4], covariance=eyes[1],
            defocus=zeros[4], defocus_deviation=zeros[5],
        )  # fmt: skip

    def take(self, rows: Int[np.ndarray, " some"] | slice) -> "Poses":
        """Those of some images; copies."""
        return Poses(**{field.name: np.array(getattr(self, field.name)[rows]) for field in fields(self)})

    def put(self, rows: Int[np.ndarray, " some"], values: "Poses") -> None:
        """Replace those of some images."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(values, field.name)


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
