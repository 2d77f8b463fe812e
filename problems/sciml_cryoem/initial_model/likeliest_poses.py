"""The likeliest poses that a search finds for its images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class LikeliestPoses:
    """The likeliest pose of each of some images.

    Attributes:
        rotations: A.
        offsets: (x, y) in pixels.
        classes: from 0.
        log_likelihood: log of the mean likelihood over all poses.
    """

    rotations: Float[np.ndarray, "n 3 3"]
    offsets: Float[np.ndarray, "n 2"]
    classes: Int[np.ndarray, " n"]
    log_likelihood: Float[np.ndarray, " n"]

    def take(self, rows: Int[np.ndarray, " some"] | slice) -> "LikeliestPoses":
        """Those of some of the images."""
        return LikeliestPoses(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @classmethod
    def joined(cls, parts: Sequence["LikeliestPoses"]) -> "LikeliestPoses":
        """Several sets, one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))
