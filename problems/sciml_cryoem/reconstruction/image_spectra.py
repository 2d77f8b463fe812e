"""Particle images as whitened Fourier values up to a resolution, on which every search and refinement of poses works.

    y(k) = CTF(k) exp(+2 pi i k.o / n) V(A^T k) + noise,   E|noise|^2 = 1

for the independent points k of the half plane, sorted by |k|, so that a lower resolution is the beginning of each row.
The origin counts half: it is real, and its own Friedel mate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Complex, Float, Int

from sciml import distributed
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import ctf, fourier
from sciml_cryoem.imaging.half_plane import Disc, HalfPlane
from sciml_cryoem.reconstruction.images import ImageSettings, own_batches, own_images
from sciml_cryoem.reconstruction.insertion import Views
from sciml_cryoem.reconstruction.noise import NoiseModel
from sciml_cryoem.reconstruction.resources import disc_points

_disc = lru_cache(maxsize=64)(Disc)


@dataclass(frozen=True)
class ImageSpectra:
    """Whitened Fourier values of images.

    Attributes:
        disc: the points.
        values: (n, points) complex64, origin at n // 2, offsets not undone.
        transfer: (n, points) float32, CTF over the noise deviation.
    """

    disc: Disc
    values: Complex[np.ndarray, "n points"]
    transfer: Float[np.ndarray, "n points"]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def arrays(self) -> tuple[Complex[np.ndarray, "n points"], Float[np.ndarray, "n points"]]:
        """Values and transfer, as the compiled loops take them."""
        return self.values, self.transfer

    def up_to(self, radius: float) -> "ImageSpectra":
        """Only the points |k| < radius; views of the same numbers."""
        points = self.disc.within(radius)
        return ImageSpectra(_disc(self.disc.size, radius), self.values[:, :points], self.transfer[:, :points])

    def take(self, rows: Int[np.ndarray, " some"] | slice) -> "ImageSpectra":
        """Some of the images, in that order."""
        return ImageSpectra(self.disc, self.values[rows], self.transfer[rows])


def whitened_values(
    images: Float[np.ndarray, "batch n n"],
    plane: HalfPlane,
    noise: NoiseModel,
    groups: Int[np.ndarray, " batch"],
    offsets: Float[np.ndarray, "batch 2"] | None = None,
) -> Complex[np.ndarray, "batch points"]:
    """Whitened Fourier values of a block of images as read; the images are changed (`NoiseModel.prepare`).

    Args:
        images: float32, as read.
        plane: the Fourier points.
        noise: of the groups.
        groups: noise group of each image.
        offsets: to be undone, (x, y) in pixels; None leaves the images where they are.

    Returns:
        complex64, origin at n // 2.
    """
    spectra = fourier.corner_transform(noise.prepare(images, groups))
    moves = np.zeros((1, 2)) if offsets is None else np.asarray(offsets, np.float64)
    scale = noise.whitening[:, plane.shell].astype(np.float32)[groups]
    values = spectra[:, plane.rows, plane.columns] * (plane.phases(moves - plane.size // 2) * scale)
    return values.astype(np.complex64)


def whitened(images: Float[np.ndarray, "batch n n"], disc: Disc, noise: NoiseModel, views: Views) -> ImageSpectra:
    """`whitened_values` of a block of images, offsets not undone, with their transfer functions."""
    scale = noise.whitening[:, disc.shell].astype(np.float32)[views.groups]
    values = whitened_values(images, disc, noise, views.groups)
    return ImageSpectra(disc, values, ctf.evaluate(views.ctf, disc.kx, disc.ky) * scale)


def image_spectra(
    particles: Particles,
    views: Views,
    noise: NoiseModel,
    radius: float,
    settings: ImageSettings,
    rows: Int[np.ndarray, " some"] | None = None,
    watch: Callable[[int], None] | None = None,
) -> ImageSpectra:
    """Read images once and keep their whitened Fourier values within a radius (Fourier pixels).

    Where several processes share a run, each reads a part of the images and has all values in the end.

    Args:
        particles: the set.
        views: CTF and noise group of each particle; offsets and axes are not used.
        noise: of these groups.
        radius: at most half the box.
        settings: how images are read.
        rows: which images; None for all.
        watch: called with the number of images done.

    Raises:
        InputError: an unusable image.
    """
    disc, views = Disc(particles.box, radius), views if rows is None else views.take(rows)
    values = np.empty((len(views), len(disc)), np.complex64)
    transfer = np.empty((len(views), len(disc)), np.float32)
    with distributed.together():
        for part, images in own_batches(particles, settings, rows):
            block = whitened(images, disc, noise, views.take(part))
            values[part], transfer[part] = block.values, block.transfer
            if watch:
                watch(part.stop)
    distributed.gather(own_images(len(views)), values, transfer)
    return ImageSpectra(disc, values, transfer)


def spectra_bytes(images: int, radius: float) -> float:
    """Memory of `ImageSpectra` up to a radius: complex64 values and float32 transfer."""
    return 12.0 * images * disc_points(radius)
