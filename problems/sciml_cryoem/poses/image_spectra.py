"""Particle images as whitened Fourier values up to a resolution: what every search and refinement of poses works on.

    y(k) = CTF(k) exp(+2 pi i k.o / n) V(A^T k) + noise,   E|noise|^2 = 1

for the independent points k of the half plane, sorted by |k|, so that a lower resolution is the beginning of each row.
The origin counts half: it is real, and its own Friedel mate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Complex, Float, Int

from sciml import distributed
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import ctf, fourier
from sciml_cryoem.reconstruction.accumulation import Settings, own_batches, own_images
from sciml_cryoem.reconstruction.insertion import Views
from sciml_cryoem.reconstruction.noise import NoiseModel


@dataclass(frozen=True)
class Disc(fourier.HalfPlane):
    """The points of a half plane, sorted by |k|."""

    @cached_property
    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = super()._points
        squares = fourier.frequencies(self.size)[rows] ** 2 + columns**2
        order = np.argsort(squares, kind="stable")
        return rows[order], columns[order]

    @cached_property
    def _squares(self) -> np.ndarray:
        return self.kx.astype(np.float64) ** 2 + self.ky.astype(np.float64) ** 2

    def within(self, radius: float) -> int:
        """How many points, from the first, have |k| < radius."""
        return int(np.searchsorted(self._squares, radius**2, side="left"))

    def phases(self, offsets: Float[np.ndarray, "shifts 2"]) -> Complex[np.ndarray, "shifts points"]:
        """exp(-2 pi i k.o / n): undoes offsets o (x, y) in pixels; complex64."""
        along_x, along_y = self.phase_tables(offsets)
        columns, rows = self.table_places
        return along_x[:, columns] * along_y[:, rows]

    def phase_tables(
        self, offsets: Float[np.ndarray, "shifts 2"]
    ) -> tuple[Complex[np.ndarray, "shifts line"], Complex[np.ndarray, "shifts line"]]:
        """Factors of `phases` for kx and for ky (exponentials of two lines, not of every point); complex64."""
        line = (-2j * np.pi / self.size) * np.arange(-self._reach, self._reach + 1)
        return tuple(np.exp(offsets[:, axis, None] * line).astype(np.complex64) for axis in (0, 1))  # type: ignore

    @cached_property
    def table_places(self) -> tuple[Int[np.ndarray, " points"], Int[np.ndarray, " points"]]:
        """Where the factors of each point stand in `phase_tables`."""
        return self.kx.astype(np.int64) + self._reach, self.ky.astype(np.int64) + self._reach

    @cached_property
    def _reach(self) -> int:
        return int(np.ceil(np.sqrt(self._squares[-1]))) if len(self._squares) else 0


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
        """Values and transfer functions."""
        return self.values, self.transfer

    def up_to(self, radius: float) -> "ImageSpectra":
        """Only the points |k| < radius; views of the same numbers."""
        points = self.disc.within(radius)
        return ImageSpectra(_disc(self.disc.size, radius), self.values[:, :points], self.transfer[:, :points])

    def take(self, rows: Int[np.ndarray, " some"] | slice) -> "ImageSpectra":
        """Some of the images, in that order."""
        return ImageSpectra(self.disc, self.values[rows], self.transfer[rows])


def whitened(images: Float[np.ndarray, "batch n n"], disc: Disc, noise: NoiseModel, views: Views) -> ImageSpectra:
    """Whitened Fourier values of a block of images as read; the images are changed (`NoiseModel.prepare`)."""
    spectra = fourier.corner_transform(noise.prepare(images, views.groups))
    amplitude = np.sqrt(noise.weights)[:, disc.shell]
    amplitude[:, (disc.rows == 0) & (disc.columns == 0)] *= np.sqrt(0.5)
    scale = amplitude[views.groups].astype(np.float32)
    center = disc.phases(np.full((1, 2), -float(disc.size // 2)))[0]
    values = spectra[:, disc.rows, disc.columns] * (center * scale)
    return ImageSpectra(disc, values.astype(np.complex64), ctf.evaluate(views.ctf, disc.kx, disc.ky) * scale)


def image_spectra(
    particles: Particles,
    views: Views,
    noise: NoiseModel,
    radius: float,
    settings: Settings,
    rows: Int[np.ndarray, " some"] | None = None,
    watch: Callable[[int], None] | None = None,
) -> ImageSpectra:
    """Read images once and keep their Fourier values within a radius (Fourier pixels); several processes that share a
    run read a part each, and keep all.

    Args:
        particles: the set. views: CTF and noise group of each of them; offsets and axes are not used.
        noise: of these groups. radius: at most half the box.
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
