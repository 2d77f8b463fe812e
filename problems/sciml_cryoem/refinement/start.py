"""How a refinement begins: the start map on the grey scale of the images, and what the statistics then ask for."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sciml.errors import InputError
from sciml_cryoem.imaging import fourier, orientations
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.projection import central_slices, correct_gridding
from sciml_cryoem.maps.masks import soft_sphere
from sciml_cryoem.poses.contrast import fits_negative
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra, image_spectra
from sciml_cryoem.reconstruction.noise import sample_indices
from sciml_cryoem.refinement.image_set import ImageSet

PROBED = 200
"""Images sampled for the contrast check."""


@dataclass(frozen=True)
class Start:
    """What a refinement begins with.

    Attributes:
        maps: (2, n, n, n) the start map below the first radius, on the grey scale of each half.
        weight: (2, shells) mean weight that an image gives a Fourier voxel of its half map: the inverse of the power of
            its noise there.
        power: (2, shells) mean power of the start map's transform.
    """

    maps: Float[np.ndarray, "2 n n n"]
    weight: Float[np.ndarray, "2 radii"]
    power: Float[np.ndarray, "2 radii"]

    def images_for(self, agreement: float, radius: float) -> float:
        """How many images of both halves make half maps that agree to an FSC of `agreement` up to a radius, if the
        start map is right: F = x / (1 + x), x the signal over the noise of a half map."""
        shells = slice(max(int(radius) - 2, 1), max(int(radius), 2))
        ratio = float(np.mean(self.weight[:, shells] * self.power[:, shells]))
        return 2.0 * agreement / (1.0 - agreement) / max(ratio, 1e-30)


def begin(images: ImageSet, start: Float[np.ndarray, "n n n"]) -> Start:
    """Bring a start map to the grey scale of the images of each half, whose power above the noise is that of
    projections.

    Raises:
        InputError: a start map of another box; particles that are dark in one and bright in the other.
    """
    box, radius = images.box, images.first_radius
    if start.shape != (box,) * 3:
        raise InputError(f"the start map has {start.shape[0]} voxels along its side, the images {box}; resample it.")
    filtered = start * soft_sphere(box, images.mask_radius * box, 0.08 * box)
    filtered = fourier.resample(filtered, box, radius)
    side, disc = images.side(radius), Disc(box, radius)
    spectrum = fourier.transform_padded(correct_gridding(fourier.resample(filtered, side), 2), 2 * side)
    spectrum = spectrum.astype(np.complex64)
    slices, ring = central_slices(spectrum, orientations.half_turn_grid(0), disc), disc.shell > 0
    mean = np.square(np.abs(slices[:, ring])).mean(0)
    maps, weights, powers = [], [], []
    for half in (1, 2):
        mine = np.flatnonzero(images.halves == half)
        which = mine[sample_indices(images.views.groups[mine])]
        seen = image_spectra(images.particles, images.views, images.noise, images.box / 2, images.settings, which)
        low = seen.up_to(radius)
        signal = float((np.square(np.abs(low.values[:, ring])) - 1.0).sum())
        squares = np.square(low.transfer[:, ring]).sum(0)
        least = 1e-4 * low.values[:, ring].size
        scale = np.float32(np.sqrt(max(signal, least) / max(float(squares @ mean), 1e-30)))
        probe = seen.take(slice(PROBED)).up_to(min(0.6 * images.search_radius, radius))
        if half == 1 and fits_negative(spectrum * scale, probe):
            raise InputError(
                "the images fit the negative of the reference better than the reference: particles are dark in "
                "one and bright in the other. Give --invert-contrast if they are dark in the images."
            )
        maps.append(filtered * scale)
        weights.append(_shell_weight(seen))
        powers.append(_shell_power(maps[-1]))
    return Start(np.stack(maps), np.stack(weights), np.stack(powers))


def _shell_weight(seen: ImageSpectra) -> Float[np.ndarray, " radii"]:
    """Mean weight of a Fourier voxel in each shell, for one image: the squares of the transfer function of a slice,
    spread over the voxels of the shell (half of each counted)."""
    box = seen.disc.size
    shells = box // 2 + 1
    squares = np.square(seen.transfer, dtype=np.float64).mean(0)
    total = np.bincount(seen.disc.shell, squares, shells)[:shells]
    return total / np.bincount(np.minimum(fourier.shells(box, 3), shells).ravel(), minlength=shells + 1)[:shells]


def _shell_power(volume: np.ndarray) -> Float[np.ndarray, " radii"]:
    """Mean power of a map's transform in each shell."""
    box = len(volume)
    shells = box // 2 + 1
    index = np.minimum(fourier.shells(box, 3), shells).ravel()
    number = np.bincount(index, minlength=shells + 1)
    power = np.square(np.abs(fourier.transform(volume, 3))).ravel()
    return (np.bincount(index, power, shells + 1) / np.maximum(number, 1))[:shells]
