"""A density without poses at one resolution, from particle images that are simulated in Fourier space."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from sciml_cryoem.imaging import ctf, kernels, orientations
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.initial_model.map_slices import TurnedGrid
from sciml_cryoem.initial_model.marginal import Marginal
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.search_plan import FRONTIER, SearchPlan
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra

BOX = 32
UNSEEN = 100


@dataclass(frozen=True)
class Sample:
    """What is imaged, and how.

    Attributes:
        images: particles that the density is made of.
        blobs: Gaussian blobs of the density.
        signal: energy of an image's signal, where that of the noise is 1 a Fourier pixel.
        radius: resolution, Fourier pixels.
        density: seed of the density; None draws another one with each seed of the images.
    """

    images: int = 512
    blobs: int = 12
    signal: float = 80.0
    radius: float = 5.0
    density: int | None = None

    @property
    def plan(self) -> SearchPlan:
        """Orientations and offsets that are searched."""
        return replace(SearchPlan.fit(BOX), start=self.radius, stop=self.radius, shift_range=1.0, shift_step=1.0)


class Particles(Marginal):
    """A density of blobs from images without poses."""

    def __init__(self, seed: int, sample: Sample) -> None:
        images, plan = _images(seed, sample), sample.plan
        super().__init__(images.take(np.arange(sample.images)), plan)
        self.judge = Marginal(images.take(np.arange(sample.images, sample.images + UNSEEN)), plan)
        turn = orientations.random_turns(1, np.random.default_rng(seed))[0]
        self.where = TurnedGrid(plan.stop, turn.astype(np.float32))
        self.whole = self.signal(plan.stop)

    def evaluate(self, model: MarginalDensity) -> Mapping[str, float]:
        """What the log likelihood of images that are not used falls short of that of the right map at the right poses,
        as a share of it."""
        likelihood = self.judge.log_likelihood(model, np.arange(UNSEEN), self.where)
        return {"missing": 1.0 - likelihood / self.whole}

    def model(self, seed: int) -> MarginalDensity:
        """A blob."""
        return self.blob(1, np.random.default_rng(seed))


def _images(seed: int, sample: Sample) -> ImageSpectra:
    """Whitened images at random poses, with CTF and offsets."""
    draw, disc = np.random.default_rng([seed, 1]), Disc(BOX, sample.radius + FRONTIER)
    line, volume, count = np.arange(BOX) - BOX // 2, np.zeros((BOX,) * 3), sample.images + UNSEEN
    blob = draw if sample.density is None else np.random.default_rng(sample.density)
    for _ in range(sample.blobs):
        z, y, x = (np.exp(-np.square(line - c) / 3.0) for c in 0.12 * BOX * blob.normal(size=3))
        volume += blob.uniform(0.5, 1.5) * z[:, None, None] * y[:, None] * x
    defocus = draw.uniform(8e3, 2e4, count)
    table = ctf.CTF(defocus, defocus, np.zeros(count), 3e5, 2.7e7, 0.1).coefficients(BOX, 5.0)
    transfer = ctf.evaluate(table.astype(np.float32), disc.kx, disc.ky)
    transfer[:, 0] *= math.sqrt(0.5)
    values = math.sqrt(0.5) * (draw.normal(size=transfer.shape) + 1j * draw.normal(size=transfer.shape))
    values[:, 0] = values[:, 0].real
    slices = np.empty((count, len(disc)), np.complex64)
    turns = orientations.random_turns(count, draw)
    axes = np.ascontiguousarray(2.0 * turns[:, :2], np.float32)
    kernels.gather(
        Projector(BOX, 2).spectrum(volume.astype(np.float32)).astype(np.complex64), axes, disc.kx, disc.ky, slices
    )
    signal = transfer * slices
    signal *= np.sqrt(sample.signal / np.square(np.abs(signal[:, 1:])).sum(1).mean())
    values += signal * disc.phases(draw.uniform(-0.7, 0.7, (count, 2))).conj()
    return ImageSpectra(disc, values.astype(np.complex64), transfer.astype(np.float32))
