"""Noise power of the images, per shell and optics group, and what normalization the images need: both from their
backgrounds.

The background is what lies outside a circle around the particle (by default the corners of the box). Its windowed power
spectrum, scaled to the whole image, estimates sigma^2 of a Fourier point, the variance that weights the data: CTF^2 /
sigma^2. A window smooths the spectrum over a few shells. Nothing here needs poses.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.fft
from jaxtyping import Float, Int

from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.half_plane import HalfPlane

Normalize = Literal["auto", "yes", "no"]

_SAMPLE = 1000  # images measured, spread over the set: .1 % of sampling error in a shell of 1000 points is enough
_POOLED = 20.0  # a group's spectrum is drawn towards that of all groups as if by this many images
_SPREAD = 0.1  # relative spread of noise levels beyond which images are brought to one scale
_SIGNAL = 0.25  # signal over noise, in power, beyond which an image's level is that of its background alone


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
        """The background of a box, or outside a particle of this diameter in pixels (kept between .6 and 1 times the
        box)."""
        radius = 0.5 * size if diameter is None else float(np.clip(0.5 * diameter, 0.3 * size, 0.5 * size))
        return cls(size, radius)

    def window(self) -> Float[np.ndarray, "n n"]:
        """1 in the background, 0 at the particle, float32."""
        axis = np.arange(self.size) - self.size // 2
        distance = np.hypot(axis[:, None], axis[None, :])
        rise = np.clip((distance - self.radius) / max(1.0, 0.05 * self.size), 0.0, 1.0)
        return (0.5 - 0.5 * np.cos(np.pi * rise)).astype(np.float32)

    def sampling_error(self) -> float:
        """Relative deviation of a noise level measured in the background of one image of white noise."""
        square = np.square(self.window(), dtype=np.float64)
        return float(np.sqrt(0.5 * np.square(square).sum()) / square.sum())

    def means(self, images: Float[np.ndarray, "batch n n"]) -> Float[np.ndarray, " batch"]:
        """Mean of each image's background."""
        window = self.window().ravel()
        return images.reshape(len(images), -1) @ (window / window.sum())

    def power(self, images: Float[np.ndarray, "batch n n"]) -> Float[np.ndarray, "batch shells"]:
        """Mean |F|^2 in each shell 0 ... n // 2 that the whole image would have if it were background, float64.

        The background mean of the images must be 0.
        """
        window = self.window()
        spectra = fourier.corner_transform(images * window)
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
    """Mean |F|^2 of each spectrum in each shell 0 ... size // 2, float64."""
    plane = HalfPlane(size)
    order = np.argsort(plane.shell, kind="stable")
    values = spectra[:, plane.rows[order], plane.columns[order]]
    squares = np.square(np.real(values), dtype=np.float64) + np.square(np.imag(values))
    number = np.bincount(plane.shell, minlength=size // 2 + 1)
    # Every shell up to the last has a point on the axis ky = 0, but the Nyquist shell of a tiny box may have none.
    starts = np.minimum(np.cumsum(number) - number, len(order) - 1)
    return np.add.reduceat(squares, starts, axis=1) / np.maximum(number, 1)


@dataclass(frozen=True)
class NoiseModel:
    """Noise of the images, measured in their backgrounds, and how images are normalized.

    Attributes:
        background: where the noise was measured.
        power: (groups, shells) E|F|^2 of the noise at a Fourier point of a prepared image; positive.
        reference: (groups, shells) noise power to which every image is scaled; None when images are left as they are.
        spread: relative spread of the images' own scales, which decided it.
        note: what was found wrong with the backgrounds, a sentence; empty if nothing.
        by_background: whether the scale of an image is measured in its background. Else it is measured in the whole
            image, which is more precise.
    """

    background: Background
    power: Float[np.ndarray, "groups shells"]
    reference: Float[np.ndarray, "groups shells"] | None
    spread: float
    note: str = ""
    by_background: bool = False

    @property
    def weights(self) -> Float[np.ndarray, "groups shells"]:
        """Weight of an independent Fourier point: 1 / power, and half of that at the origin.

        Every other point of a half plane speaks for its Friedel mate as well; the origin, alone in shell 0, is its own.
        """
        weights = 1.0 / self.power
        weights[:, 0] *= 0.5
        return weights

    @property
    def whitening(self) -> Float[np.ndarray, "groups shells"]:
        """What Fourier values are multiplied by, the root of `weights`.

        Squares of whitened values, summed over a half plane, are log likelihoods: the noise has power 1 at each point.
        """
        return np.sqrt(self.weights)

    def prepare(
        self, images: Float[np.ndarray, "batch n n"], groups: Int[np.ndarray, " batch"]
    ) -> Float[np.ndarray, "batch n n"]:
        """Images with background mean 0 and, if there is a `reference`, on its scale; the argument is changed."""
        images -= self.background.means(images)[:, None, None].astype(images.dtype)
        if self.reference is not None:
            spectra = image_power(images, self.background if self.by_background else None)
            scales = noise_scales(spectra, self.reference[groups], images.shape[-1])
            images /= np.where(scales > 1e-6, scales, 1.0)[:, None, None].astype(images.dtype)
        return images


def image_power(
    images: Float[np.ndarray, "batch n n"], background: Background | None = None
) -> Float[np.ndarray, "batch shells"]:
    """Mean |F|^2 of each image in each shell 0 ... n // 2, or what its background says of it, float64."""
    if background is not None:
        return background.power(images)
    return _shell_power(fourier.corner_transform(images), images.shape[-1])


def noise_scales(
    spectra: Float[np.ndarray, "batch shells"], power: Float[np.ndarray, "batch shells"], size: int
) -> Float[np.ndarray, " batch"]:
    """Root mean square of each image's Fourier values (`image_power`) over those that noise of this power would have.

    The shells below an eighth of the box, where the signal is, stay out. All others count alike, so that colored noise
    is measured as well as white: a background deviation would hang on its few strongest frequencies.
    """
    first = size // 8
    points = np.bincount(HalfPlane(size).shell, minlength=size // 2 + 1)[first:]
    return np.sqrt((spectra[:, first:] / power[:, first:]) @ (points / points.sum()))


def sample_indices(groups: Int[np.ndarray, " particles"], count: int = _SAMPLE) -> Int[np.ndarray, " some"]:
    """Particles to measure, in ascending order: at most `count`, spread evenly over the set and its optics groups."""
    share = max(1, count // len(np.unique(groups)))
    picked = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        picked.append(members[np.unique(np.linspace(0, len(members) - 1, min(share, len(members))).astype(np.int64))])
    return np.sort(np.concatenate(picked))


def measure(
    blocks: Iterable[Float[np.ndarray, "_ n n"]],
    groups: Int[np.ndarray, " some"],
    background: Background,
    normalize: Normalize = "auto",
) -> NoiseModel:
    """Estimate the noise from a sample of images.

    Args:
        blocks: a sample of the images, a few at a time, every group among them (`sample_indices`).
        groups: optics group of each of these images, 0 ... groups - 1.
        background: where to look.
        normalize: whether images are brought to one noise level; auto: when theirs differ by more than 10 %.
    """
    found = []
    for block in blocks:
        images = block - background.means(block)[:, None, None].astype(block.dtype)
        square = np.square(images, dtype=np.float64).mean((1, 2))
        found.append((square, background.power(images), image_power(images)))
    whole, outside, everywhere = (np.concatenate(parts) for parts in zip(*found, strict=True))
    count = int(groups.max()) + 1
    # A masked or artificial background holds no noise: fall back on the images as a whole.
    blank = outside[:, 1:].mean(1) < 1e-6 * whole * background.size**2
    spectra = np.where(blank[:, None], everywhere, outside)
    note = ""
    if blank.any():
        note = "images have no noise outside the particle (masked?): their whole power is taken for noise."
    power = _per_group(spectra, groups, count)
    scales = noise_scales(everywhere, power[groups], background.size)
    # Where the signal shows in these shells, the power of an image is that of its contrast as well.
    by_background = not blank.any() and float(np.median(np.square(scales))) > 1.0 + _SIGNAL
    if by_background:
        scales = noise_scales(outside, power[groups], background.size)
    middle = np.array([np.median(scales[groups == group]) for group in range(count)])
    relative = scales / middle[groups]
    spread = float(1.4826 * np.median(np.abs(relative - 1.0)))
    if by_background:
        spread = float(np.sqrt(max(spread**2 - background.sampling_error() ** 2, 0.0)))
    # Where next to nothing is noise (clean simulations) the background holds the signal's tails.
    noisy = float(np.median(spectra.mean(1) / background.size**2 / np.maximum(whole, 1e-30))) > (
        0.05 if by_background else 0.25
    )
    if not (normalize == "yes" or (normalize == "auto" and spread > _SPREAD and noisy)):
        return NoiseModel(background, power, None, spread, note, by_background)
    reference = power * middle[:, None] ** 2
    power = _per_group(spectra / np.square(relative)[:, None], groups, count)
    return NoiseModel(background, power, reference, spread, note, by_background)


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
