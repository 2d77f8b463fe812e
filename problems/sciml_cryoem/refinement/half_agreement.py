"""What the two half maps of a step say of each other: their FSC, the mask it is measured in, and the Wiener prior."""

import numpy as np
from jaxtyping import Float

from sciml.errors import InputError
from sciml_cryoem.maps.fsc import fsc, last_shell_before
from sciml_cryoem.maps.masks import AutomaticMask, soft_sphere
from sciml_cryoem.reconstruction.accumulation import positive
from sciml_cryoem.reconstruction.prior import shrink_fsc
from sciml_cryoem.refinement.image_set import ImageSet

CLEAR = 2.0
"""Shells beyond those that the halves share in which they must agree before the mask follows the molecule."""


def agreement(
    images: ImageSet, halves: Float[np.ndarray, "2 n n n"], reach: float
) -> tuple[Float[np.ndarray, " shells"], Float[np.ndarray, "n n n"]]:
    """FSC of two unfiltered half maps in a mask, 0 from `reach` on, and that mask.

    The mask is a sphere, and follows the molecule once the halves agree beyond what they share: a mask carries the
    agreement of shared shells into the next ones, a narrow one farther.
    """
    box = images.box
    mask = soft_sphere(box, images.mask_radius * box, 0.08 * box)
    curve = _curve(halves, mask, reach)
    if last_shell_before(curve, 0.143) >= images.first_radius + CLEAR:
        mask = mask * molecule(0.5 * (halves[0] + halves[1]) * mask, images.extent, images.extent / images.first_radius)
        curve = _curve(halves, mask, reach)
    return curve, mask


def _curve(halves: np.ndarray, mask: np.ndarray, reach: float) -> np.ndarray:
    box = len(mask)
    curve = fsc(halves[0] * mask, halves[1] * mask)[: box // 2 + 1]
    curve[int(min(reach, box / 2)) :] = 0.0
    return curve


def molecule(average: Float[np.ndarray, "n n n"], extent: float, resolution: float) -> Float[np.ndarray, "n n n"]:
    """A mask at a resolution up to which the halves may share something; 1 where nothing stands out of the noise.

    Args:
        average: of the half maps.
        extent: side of its box, Angstrom.
        resolution: Angstrom.
    """
    try:
        return AutomaticMask(resolution).find(average, extent / len(average))
    except InputError:
        return np.ones_like(average)


def prior_precision(
    weight: Float[np.ndarray, " shells"], curve: Float[np.ndarray, " shells"], mask: Float[np.ndarray, "n n n"]
) -> Float[np.ndarray, " shells"]:
    """Precision that filters a half map by its FSC, weight (1 - F) / F in each shell."""
    shrunk = shrink_fsc(curve, mask)
    return positive(weight * (1.0 - shrunk) / shrunk)
