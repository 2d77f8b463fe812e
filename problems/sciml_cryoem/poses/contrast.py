"""Whether particles are bright or dark in the images.

RELION's convention, and ours, is bright on dark. A camera records dark on bright, and `relion_preprocess
--invert_contrast` inverts it; at times that step is forgotten. Only the sign of the map changes, and the map shows it:
a molecule is little matter at high density in much water, so the distribution of its values has its long tail above.
"""

import numpy as np
from jaxtyping import Complex, Float

from sciml_cryoem.imaging import fourier, orientations
from sciml_cryoem.imaging.projection import central_slices
from sciml_cryoem.maps.masks import soft_sphere
from sciml_cryoem.poses.search import search
from sciml_cryoem.poses.search_result import PoseGrid, SearchRequest
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra

LOWEST = -0.5
"""Skewness below which particles are taken to be dark; molecules have 1.2 to 5, noise has 0 +- .1."""
SHELLS = 12.0
"""Fourier pixels up to which the map is looked at: noise beyond them hides the tail."""

ADVICE = (
    "The map is darker than what surrounds it (skewness {skewness:.1f}): the particles seem to be dark in these images "
    "where bright ones are expected. Give --invert-contrast, to all commands that read them."
)


def skewness(volume: Float[np.ndarray, "n n n"]) -> float:
    """Third standardized moment of a map's low frequencies within a sphere of 0.42 of the box; 0 for an empty map."""
    box = len(volume)
    low = fourier.resample(volume, box, min(SHELLS, box / 2 - 1))
    values = low[soft_sphere(box, 0.42 * box, 0.0) > 0.5].astype(np.float64)
    values -= values.mean()
    deviation = values.std()
    return float((values**3).mean() / deviation**3) if deviation > 0 else 0.0


def advice(volume: Float[np.ndarray, "n n n"]) -> str:
    """A warning about the sign of a map; empty when its particles are bright."""
    found = skewness(volume)
    return ADVICE.format(skewness=found) if found < LOWEST else ""


def fits_negative(spectrum: Complex[np.ndarray, "P P half"], images: ImageSpectra) -> bool:
    """Whether images are significantly likelier under the negative of a map than under the map, poses summed over.

    Args:
        spectrum: padded (by 2) transform of the map, on the grey scale of the images.
        images: a hundred or more, up to where map and images are compared.
    """
    disc, box = images.disc, images.disc.size
    grid = PoseGrid(orientations.half_turn_grid(1), orientations.shift_disc(box / 16, box / 32))
    slices = central_slices(spectrum, grid.rotations, disc)
    radius = float(np.sqrt(np.max(disc.kx**2 + disc.ky**2))) + 0.5
    of_both = [
        search(images, part, grid, radius, SearchRequest(sums=False)).log_likelihood for part in (slices, -slices)
    ]
    gain = of_both[1] - of_both[0]
    return bool(gain.mean() > max(4.0 * gain.std() / np.sqrt(len(gain)), 0.5))
