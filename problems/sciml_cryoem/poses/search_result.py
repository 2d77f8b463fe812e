"""Grid, request and result of a pose search, for the compiled loops and for torch alike."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float, Int

from sciml_cryoem.imaging.orientations import HALF_TURN

CUTOFF = 12.0
"""Poses less likely than exp(-CUTOFF) of the best one of their image are left out."""
APART_DEG = 25.0
"""Least turn between two poses that are given for one image."""


@dataclass(frozen=True)
class SearchResult:
    """Likelihoods, likely poses and sums of a batch of images.

    Attributes:
        numerator: (orientations, points), summed in double precision. In the first steps of a search rounding errors
            grow from step to step until they decide the orientation of the map; in single precision the result would
            depend on how many processes share the images.
        denominator: (orientations, points), likewise.
        log_likelihood: (images,) log of the mean likelihood over all poses of the grid, relative to an empty map.
        places: (images, poses, 3) the likeliest poses, best first: shift, orientation, and 1 for psi + 180 degrees.
        evaluated: number of scores computed.
    """

    numerator: Complex[np.ndarray, "orientations points"]
    denominator: Float[np.ndarray, "orientations points"]
    log_likelihood: Float[np.ndarray, " images"]
    places: Int[np.ndarray, "images poses 3"]
    evaluated: int


@dataclass(frozen=True)
class PoseGrid:
    """The poses that a search tries.

    Attributes:
        rotations: (orientations, 3, 3) of a half-turn grid (`orientations`).
        shifts: (shifts, 2), (x, y) in pixels.
    """

    rotations: Float[np.ndarray, "orientations 3 3"]
    shifts: Float[np.ndarray, "shifts 2"]

    def poses(self, places: Int[np.ndarray, "*batch 3"]) -> tuple[np.ndarray, np.ndarray]:
        """Rotations (*batch, 3, 3) and offsets (*batch, 2) of places on the grid, which all classes share."""
        turn = np.where(places[..., 2, None, None] == 1, HALF_TURN, np.eye(3))
        return turn @ self.rotations[places[..., 1] % len(self.rotations)], self.shifts[places[..., 0]]


@dataclass(frozen=True)
class SearchRequest:
    """Results that a search computes besides likelihoods.

    Attributes:
        sums: whether to compute numerator and denominator.
        poses: number of likely poses of each image, at least `APART_DEG` apart (of several references: only the best).
    """

    sums: bool = True
    poses: int = 1
