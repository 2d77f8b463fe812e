"""Whether images fill Fourier space: what no image reaches is no part of a map, whatever its FSC."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sciml.findings import Finding
from sciml_cryoem.imaging import fourier

_ONE_VIEW = float(np.sin(np.radians(3.0)) ** 2)
"""Mean square sine of the angles between the views and their axis, below which they are one view."""
_LITTLE = 0.5
"""Share of Fourier voxels up to half of Nyquist below which a map is said to be full of gaps."""


@dataclass(frozen=True)
class Coverage:
    """How the images of a set fill Fourier space.

    Attributes:
        completeness: share of the Fourier voxels within Nyquist that some image reached.
        within_half: the same within half of Nyquist.
        spread: mean square sine of the angles between view directions and their common axis; 2/3 for all directions.
    """

    completeness: float
    within_half: float
    spread: float

    @classmethod
    def of(
        cls,
        weights: Float[np.ndarray, "p p half"],
        directions: Float[np.ndarray, "n 3"],
        group: Float[np.ndarray, "g 3 3"],
    ) -> "Coverage":
        """From the summed weights of all images, their view directions, and the operators of the point group."""
        nyquist = len(weights) // 2
        plane, filled = fourier.squared_radii(len(weights), 2), np.zeros((2, 2))
        for section, height in zip(weights, fourier.frequencies(len(weights)), strict=True):  # large: one at a time
            for place, radius in enumerate((nyquist, nyquist / 2)):
                inside = plane < radius**2 - height**2
                filled[place] += inside.sum(), (section[inside] > 0).sum()
        whole, inner = (float(reached / there) for there, reached in filled)
        views = np.concatenate([directions @ operator for operator in group])
        largest = float(np.linalg.eigvalsh(views.T @ views / len(views))[-1])
        return cls(whole, inner, 1.0 - largest)

    @property
    def enough(self) -> bool:
        """Whether there is a volume at all: some signal, from more than one view."""
        return bool(self.completeness > 0 and self.spread > _ONE_VIEW)

    def findings(self) -> list[Finding]:
        """What a reader of the map must know."""
        if self.completeness == 0:
            what = "No image reaches any Fourier voxel: the map is empty."
            return [Finding(what, "coverage", "severe", "Look at the CTF: its scale, B factor and amplitude contrast.")]
        if self.spread <= _ONE_VIEW:
            what = f"All images show one view (within 3 degrees); {self.within_half:.0%} of Fourier space is filled."
            return [Finding(what, "coverage", "severe", "Look at the angles: one view gives no volume.")]
        if self.within_half < _LITTLE:
            what = f"The images fill {self.within_half:.0%} of Fourier space up to half of Nyquist: the map has gaps."
            return [Finding(what, "coverage", "warning", "Add images, or views of other directions.")]
        return []
