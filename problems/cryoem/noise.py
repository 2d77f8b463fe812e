"""Noise power of the images, per shell and optics group, and what normalisation the images need: both from their backgrounds.

The background is what lies outside a circle around the particle (by default the corners of the box). Its windowed power spectrum,
scaled to the whole image, estimates sigma^2 of a Fourier point, the variance that weights the data: CTF^2 / sigma^2. A window
smooths the spectrum over a few shells. Nothing here needs poses.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.fft
from jaxtyping import Float, Int

from problems.cryoem import fourier

Normalize = Literal["auto", "yes", "no"]

_SAMPLE = 1000  # images measured, spread over the set: .1 % of sampling error in a shell of 1000 points is enough
_POOLED = 20.0  # a group's spectrum is drawn towards that of all groups as if by this many images
_SPREAD = 0.1  # relative spread of background standard deviations beyond which images are brought to one scale


@dataclass(frozen=True)
class Background:
    """The part of an n x n image outside a circle around its origin.

    Attributes:
        size: n.
        radius: of the circle in pixels; the window rises from 0 to 1 over an edge of a twentieth of the box outside it.
    """

    size: int
    radius: float

    @classmethod
    def outside(cls, size: int, diameter: float | None = None) -> "Background":
        """The background of a box, or outside a particle of this diameter in pixels (kept between .6 and 1 times the box)."""
        radius = 0.5 * size if diameter is None else float(np.clip(0.5 * diameter, 0.3 * size, 0.5 * size))
        return cls(size, radius)

    def window(self) -> Float[np.ndarray, "n n"]:
        """1 in the background, 0 at the particle, float32."""
        axis = np.arange(self.size) - self.size // 2
        distance = np.hypot(axis[:, None], axis[None, :])
        rise = np.clip((distance - self.radius) / max(1.0, 0.05 * self.size), 0.0, 1.0)
        return (0.5 - 0.5 * np.cos(np.pi * rise)).astype(np.float32)

    def means(self, images: Float[np.ndarray, "batch n n"]) -> Float[np.ndarray, " batch"]:
        """Mean of each image's background."""
        window = self.window().ravel()
        return images.reshape(len(images), -1) @ (window / window.sum())

    def deviations(
        self, images: Float[np.ndarray, "batch n n"], means: Float[np.ndarray, " batch"]
    ) -> Float[np.ndarray, " batch"]:
        """Standard deviation of each image's background."""
        inside = np.flatnonzero(self.window().ravel() > 0)
        window = self.window().ravel()[inside]
        values = images.reshape(len(images), -1)[:, inside] - means[:, None]
        return np.sqrt(np.maximum(np.square(values) @ (window / window.sum()), 0.0))

    def power(
        self, images: Float[np.ndarray, "batch n n"], means: Float[np.ndarray, " batch"]
    ) -> Float[np.ndarray, "batch shells"]:
        """Mean |F|^2 in each shell 0 ... n // 2 that the whole image would have if it were background, float64."""
        window = self.window()
        spectra = scipy.fft.rfftn((images - means[:, None, None]) * window, axes=(-2, -1))
        transfer = self.size**2 / np.maximum(self._white_response(), 1e-6 * np.square(window).sum())
        return _shell_power(spectra, self.size) * transfer

    def _white_response(self) -> Float[np.ndarray, " shells"]:
        """What `power` would find, before scaling, of white noise with deviation 1.

        The subtracted mean is measured in the same window, which takes power from the lowest shells: for window M,
        E|F|^2 = sum M^2 - 2 Re conj(a) FT(M^2) + |a|^2 sum M^2 with a = FT(M) / sum M.
        """
        window = self.window().astype(np.float64)
        share = scipy.fft.rfft2(window) / window.sum()
        square = np.square(window)
        response = square.sum() * (1 + np.abs(share) ** 2) - 2 * np.real(np.conj(share) * scipy.fft.rfft2(square))
        return _shell_power(np.sqrt(np.maximum(response, 0.0))[None], self.size)[0]


def _shell_power(spectra: np.ndarray, size: int) -> np.ndarray:
    plane = fourier.HalfPlane(size)
    values = spectra[:, plane.rows, plane.columns]
    squares = np.square(values.real, dtype=np.float64) + np.square(values.imag)
    count = size // 2 + 1
    number = np.maximum(np.bincount(plane.shell, minlength=count), 1)
    return np.stack([np.bincount(plane.shell, row, count) for row in squares]) / number


@dataclass(frozen=True)
class NoiseModel:
    """What the images' backgrounds say, and how images are prepared.

    Attributes:
        background: where the noise was measured.
        power: (groups, shells) E|F|^2 of the noise at a Fourier point of a prepared image; positive.
        level: (groups,) background standard deviation that prepared images have.
        rescale: whether every image is divided by its own background deviation (and multiplied by `level`).
        spread: relative spread of the background deviations that decided it.
        note: in words, what was found wrong with the backgrounds; empty if nothing.
    """

    background: Background
    power: Float[np.ndarray, "groups shells"]
    level: Float[np.ndarray, " groups"]
    rescale: bool
    spread: float
    note: str = ""

    @property
    def weights(self) -> Float[np.ndarray, "groups shells"]:
        """1 / power."""
        return 1.0 / self.power

    def prepare(
        self, images: Float[np.ndarray, "batch n n"], groups: Int[np.ndarray, " batch"]
    ) -> Float[np.ndarray, "batch n n"]:
        """Images with background mean 0 and, if `rescale`, the background deviation of their group. May change its argument."""
        means = self.background.means(images)
        images -= means[:, None, None].astype(images.dtype)
        if self.rescale:
            deviations = self.background.deviations(images, np.zeros_like(means))
            level = self.level[groups]
            factors = np.where(deviations > 1e-6 * level, level / np.maximum(deviations, 1e-30), 1.0)
            images *= factors[:, None, None].astype(images.dtype)
        return images


def sample_indices(groups: Int[np.ndarray, " particles"], count: int = _SAMPLE) -> Int[np.ndarray, " some"]:
    """Particles to measure: at most `count`, spread evenly over the set and over its optics groups, in ascending order."""
    share = max(1, count // len(np.unique(groups)))
    picked = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        picked.append(members[np.unique(np.linspace(0, len(members) - 1, min(share, len(members))).astype(np.int64))])
    return np.sort(np.concatenate(picked))


def measure(
    images: Float[np.ndarray, "some n n"],
    groups: Int[np.ndarray, " some"],
    background: Background,
    normalize: Normalize = "auto",
) -> NoiseModel:
    """Estimate the noise from a sample of images.

    Args:
        images: a sample, every group among them (`sample_indices`).
        groups: their optics groups, 0 ... groups - 1.
        background: where to look.
        normalize: whether images are brought to one background deviation; auto: when theirs differ by more than 10 %.
    """
    means = background.means(images)
    deviations = background.deviations(images, means)
    count = int(groups.max()) + 1
    level = np.array([np.median(deviations[groups == g]) for g in range(count)])
    total = images.std(axis=(1, 2), dtype=np.float64)
    floor = 1e-3 * np.array([np.median(total[groups == g]) for g in range(count)])
    flat = level <= floor  # a masked or artificial background holds no noise: fall back on the images as a whole
    level = np.where(flat, np.maximum(floor * 1e3, 1e-30), level)
    relative = deviations / level[groups]
    spread = float(1.4826 * np.median(np.abs(relative - np.median(relative))))
    rescale = (normalize == "yes" or (normalize == "auto" and spread > _SPREAD)) and not flat.any()
    if rescale:
        images = images * (level[groups] / np.maximum(deviations, 1e-3 * level[groups]))[:, None, None].astype(
            np.float32
        )
        means = background.means(images)
    spectra = background.power(images, means)
    if flat.any():
        spectra = np.where(
            flat[groups][:, None], _shell_power(fourier.corner_transform(images), background.size), spectra
        )
    power = _per_group(spectra, groups, count)
    note = (
        "The images have no noise outside the particle (masked?): their whole power is taken for noise."
        if flat.any()
        else ""
    )
    return NoiseModel(background, power, level, bool(rescale), spread, note)


def _per_group(spectra: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Mean spectrum of each group, drawn towards the shape common to all where a group has few images."""
    spectra = spectra.copy()
    spectra[:, 0] = spectra[:, 1]  # the mean was subtracted
    common = spectra.mean(0)
    power = np.empty((count, spectra.shape[1]))
    for group in range(count):
        own = spectra[groups == group]
        level = own.mean() / common.mean()
        power[group] = (own.sum(0) + _POOLED * level * common) / (len(own) + _POOLED)
    return np.maximum(power, 1e-6 * power.max(1, keepdims=True))
