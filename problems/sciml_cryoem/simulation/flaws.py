"""Flaws of real particle sets: colored noise, several optics groups, junk, preferred views.

Every choice about a particle is drawn from that particle's own random numbers (`Simulation`), so a larger set still
begins with the smaller one.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Float, Int

from sciml.errors import InputError
from sciml_cryoem.imaging import fourier


@dataclass(frozen=True)
class Flaws:
    """How a simulated set departs from uniform views of one molecule in white noise.

    Attributes:
        noise: standard deviation of the noise of each optics group; as many groups as numbers. The signal-to-noise
            ratio of a simulation is that at standard deviation 1.
        noise_color: of each group (or one for all), power of the noise at frequency 0 over that at Nyquist. The power
            falls exponentially with the frequency; the variance stays.
        junk: fraction of images without the molecule: noise only, or another molecule.
        preferred: fraction of views within a cone about the z axis; the others are uniform.
        cone_deg: half opening angle of the cone.
        normal_shifts: offsets are normal with the standard deviation `Simulation.shift` (cut at a quarter of the box),
            not uniform up to it.
    """

    noise: tuple[float, ...] = (1.0,)
    noise_color: tuple[float, ...] = (1.0,)
    junk: float = 0.0
    preferred: float = 0.0
    cone_deg: float = 30.0
    normal_shifts: bool = False

    def __post_init__(self) -> None:
        limits = [("The noise of an optics group", value, 1e-3, 1e3) for value in self.noise]
        limits += [("The color of the noise", value, 1e-6, 1e6) for value in self.noise_color]
        limits += [
            ("The fraction of junk", self.junk, 0.0, 1.0),
            ("The fraction of preferred views", self.preferred, 0, 1),
        ]
        limits += [("The cone of preferred views", self.cone_deg, 0.01, 180.0)]
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise InputError(f"{name} is {value:g}; allowed is {low:g} to {high:g}.")
        if not self.noise or len(self.noise_color) not in (1, len(self.noise)):
            raise InputError(
                f"{len(self.noise_color)} noise colors for {len(self.noise)} optics groups; give one, or one a group."
            )

    @property
    def groups(self) -> int:
        """Number of optics groups."""
        return len(self.noise)

    def color(
        self, white: Float[np.ndarray, "batch n n"], groups: Int[np.ndarray, " batch"]
    ) -> Float[np.ndarray, "batch n n"]:
        """Noise of each image's optics group (0, 1, ...) from white noise of standard deviation 1."""
        if any(value != 1 for value in self.noise_color):
            box = white.shape[-1]
            rows = np.stack([self.spectrum(box, group) for group in range(self.groups)])
            spectra = fourier.corner_transform(white) * np.sqrt(rows).astype(np.float32)[groups]
            white = np.asarray(scipy.fft.irfftn(spectra, white.shape[1:], axes=(1, 2)))
        if self.noise != (1.0,):
            white = white * np.array(self.noise, np.float32)[groups, None, None]
        return white

    def spectrum(self, box: int, group: int) -> Float[np.ndarray, "n half"]:
        """Noise power of a group at each point of an image's half spectrum, mean 1 over the full spectrum."""
        ratio = self.noise_color[group if len(self.noise_color) > 1 else 0]
        radius = np.sqrt(fourier.squared_radii(box, 2)) / (box / 2)
        power = np.exp(-np.log(ratio) * radius)
        weights = np.full(box // 2 + 1, 2.0)
        weights[0] = 1.0
        if box % 2 == 0:
            weights[-1] = 1.0
        return power / ((power * weights).sum() / box**2)

    def cosine_of_tilt(
        self, place: Float[np.ndarray, " batch"], choice: Float[np.ndarray, " batch"]
    ) -> Float[np.ndarray, " batch"]:
        """Cosine of the tilt from two uniform numbers in 0 ... 1: where, and whether in the cone."""
        width = np.where(choice < self.preferred, 1.0 - np.cos(np.radians(self.cone_deg)), 2.0)
        return 1.0 - width * place

    def offsets(
        self, place: Float[np.ndarray, "batch 2"], shift: float, largest: float
    ) -> Float[np.ndarray, "batch 2"]:
        """Offsets from uniform numbers in 0 ... 1; `shift` is the largest, or the standard deviation."""
        if not self.normal_shifts:
            return shift * (2 * place - 1)
        from scipy.special import ndtri

        return np.clip(shift * ndtri(np.clip(place, 1e-12, 1 - 1e-12)), -largest, largest)
