"""Noise of the two half sets of a refinement, each measured from its own images and from its own map.

First from the backgrounds (`noise`), then after every pass from what the projections leave of the images: the mean of
|y - a CTF P|^2 in each shell, the whole |y|^2 beyond the shells that are compared. That holds for images without a
background, too, masked ones among them. It is too small by what poses and map took on of the noise, in a shell of m
points about (6 + D / images) / m for D independent values of the map, and too large by the signal that the map lacks.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from sciml.errors import InputError
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.reconstruction.images import ImageSettings, measure_noise
from sciml_cryoem.reconstruction.noise import NoiseModel

POOLED = 20.0
"""New noise is drawn towards the old as if by this many images."""


def kinds_of(groups: Int[np.ndarray, " n"], halves: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """A number for every optics group of either half set: the groups of half 1, then those of half 2."""
    return groups + (int(groups.max()) + 1) * (halves - 1)


def measure_halves(
    particles: Particles, groups: Int[np.ndarray, " n"], halves: Int[np.ndarray, " n"], settings: ImageSettings
) -> NoiseModel:
    """Noise of each kind of images (`kinds_of`) from their backgrounds, that of a half set from its images alone.

    One thing the halves decide together, whether images are brought to one level: if either calls for it.

    Raises:
        InputError: a half set of fewer than two images, an unusable image.
    """
    count = int(groups.max()) + 1
    models, present = [], []
    for half in (1, 2):
        rows = np.flatnonzero(halves == half)
        if len(rows) < 2:
            raise InputError(f"{particles.path}: each half set needs at least two particles; half {half} has not.")
        here, own = np.unique(groups[rows], return_inverse=True)
        models.append(measure_noise(particles.select(rows), own.reshape(-1), settings))
        present.append(here)
    references = [model.reference for model in models]
    if sum(reference is None for reference in references) == 1:
        return measure_halves(particles, groups, halves, replace(settings, normalize="yes"))
    return replace(
        models[0],
        power=_joined([model.power for model in models], present, count),
        reference=None if references[0] is None else _joined(references, present, count),
        spread=max(model.spread for model in models),
        note=models[0].note or models[1].note,
    )


def _joined(rows: list, present: list[np.ndarray], count: int) -> Float[np.ndarray, "kinds shells"]:
    """Rows of both halves, one for each kind; a group that a half lacks has the mean of those it has."""
    out = np.stack([np.tile(of_half.mean(0), (count, 1)) for of_half in rows])
    for half in (0, 1):
        out[half, present[half]] = rows[half]
    return out.reshape(2 * count, -1)


class Residuals:
    """Power that is left of whitened images, by kind and shell: 1 if the noise is what they were whitened for.

    Attributes:
        power: (kinds, shells) sum over the images, to be added up where several processes share them.
        points: how many Fourier points went into it, likewise.
    """

    def __init__(self, noise: NoiseModel, disc: Disc) -> None:
        self.noise, self.disc = noise, disc
        self.power, self.points = np.zeros(noise.power.shape), np.zeros(noise.power.shape)

    def add(
        self, left: Float[np.ndarray, "kinds shells"], kinds: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
    ) -> None:
        """Add images.

        Args:
            left: weighted power that is left of them, by kind and shell.
            kinds: of each image.
            weights: how far each counts.
        """
        shells = len(self.power.T)
        number = np.bincount(self.disc.shell, minlength=shells)[:shells]
        self.power += left
        self.points += np.bincount(kinds, weights, len(self.power))[:, None] * number

    def noise_found(self) -> NoiseModel:
        """The noise brought up to date. Shell 0 and those beyond the disc change like their neighbors."""
        shells = len(self.power.T)
        number = np.maximum(np.bincount(self.disc.shell, minlength=shells), 1)[:shells]
        factor = (self.power + POOLED * number) / (self.points + POOLED * number)
        last = int(self.disc.shell.max())
        factor[:, 0] = factor[:, 1]
        factor[:, last + 1 :] = factor[:, max(last - 2, 1) : last + 1].mean(1, keepdims=True)
        return replace(self.noise, power=self.noise.power * factor)
