"""How far a search without poses goes, and on which grids, from the box and the size of the particle."""

from dataclasses import dataclass

import numpy as np

from sciml_cryoem.imaging.orientations import OFFSET_STEP, OFFSETS, WIDEST

FRONTIER = 2
"""Shells beyond the scored ones that are collected, and tested for signal."""
HALF_LIFE = 200
"""Images after which half of the weight in running means is of newer ones."""
START, STOP = 6.0, 12.0
"""Scored radius at the beginning and at most, Fourier pixels, of a particle that fills the box."""


@dataclass(frozen=True)
class SearchPlan:
    """Resolutions and grids of a search, in Fourier pixels and image pixels.

    Attributes:
        start: scored radius at the beginning.
        stop: scored radius at most.
        shift_range: range of the offsets tried at first.
        shift_step: distance between neighboring offsets.
        widest: range of offsets at most.
        mask_radius: of the particle as a fraction of the box.
        frontier: shells beyond the scored ones that are collected, and tested for signal.
    """

    start: float
    stop: float
    shift_range: float
    shift_step: float
    widest: float
    mask_radius: float = 0.42
    frontier: int = FRONTIER

    @classmethod
    def fit(cls, box: int, diameter: float | None = None) -> "SearchPlan":
        """The plan for images of a box.

        Radii scale so that the resolution in units of the particle, which decides how finely poses must be searched,
        is the same for all.

        Args:
            box: side of the images, pixels.
            diameter: of the particle as a fraction of the box; None: it may fill the box.
        """
        mask = 0.42 if diameter is None else float(np.clip(0.55 * diameter, 0.12, 0.42))
        stop = min(STOP * 0.42 / mask, box / 2 - FRONTIER - 1)
        return cls(min(START * 0.42 / mask, stop), stop, OFFSETS * box, OFFSET_STEP * box, WIDEST * box, mask)

    @property
    def side(self) -> int:
        """Side of the real box that holds all collected shells."""
        return side_of(self.stop + self.frontier)

    def order(self, radius: float) -> int:
        """HEALPix order of the grid on which a scored radius is searched."""
        return 1 if radius * 2.0 * self.mask_radius < 7.0 else 2


def side_of(radius: float) -> int:
    """Voxels along a box that holds the shells below a radius, with room for interpolation."""
    return 2 * int(np.ceil(radius)) + 4
