"""Fourier shell correlation of two maps: the curves, corrected for their mask, and the resolutions read from them.

    FSC(s) = Re sum F1 F2* / sqrt(sum |F1|^2 sum |F2|^2),    shell s = round(|k|), 0 ... n // 2

Two halves share nothing but the signal, so their FSC falls where the noise takes over. A mask shared by both adds a
correlation of its own, which is measured by randomizing the phases beyond some shell and is taken out again (Chen et
al., Ultramicroscopy 135, 2013), with the shells and thresholds of `relion_postprocess`.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Complex, Float, Int

from sciml.errors import InputError
from sciml_cryoem.imaging import fourier

RANDOMIZE_BELOW = 0.8
"""Phases are randomized from the first shell where the unmasked FSC is below this."""

GOLD_STANDARD = 0.143
HALF_BIT = 0.5


@lru_cache(maxsize=2)
def _shells(box: int) -> Int[np.ndarray, "n n half"]:
    """Shell of every point of the half spectrum; everything beyond Nyquist is one bin, box // 2 + 1."""
    return np.minimum(fourier.shells(box, 3), box // 2 + 1).astype(np.int32)


def shell_sums(values: Float[np.ndarray, "n n half"], box: int) -> Float[np.ndarray, " shells"]:
    """Sums over the shells 0 ... box // 2 of the full spectrum, from its half, in float64.

    The columns x = 0 and, for an even box, x = box / 2 hold both members of every Friedel pair; all others hold one.
    """
    shells = _shells(box)
    count = box // 2 + 2
    total = 2.0 * np.bincount(shells.ravel(), values.ravel(), count)
    for column in (0, box // 2) if box % 2 == 0 else (0,):
        total -= np.bincount(shells[..., column].ravel(), values[..., column].ravel(), count)
    return total[:-1]


def _spectrum(volume: Float[np.ndarray, "n n n"]) -> Complex[np.ndarray, "n n half"]:
    return np.asarray(scipy.fft.rfftn(np.asarray(volume, dtype=np.float32)))


def _correlate(a: Any, b: Any) -> Float[np.ndarray, " shells"]:
    """The curve from two half spectra."""
    box = len(a)
    cross = shell_sums(a.real * b.real + a.imag * b.imag, box)
    power = shell_sums(a.real**2 + a.imag**2, box) * shell_sums(b.real**2 + b.imag**2, box)
    return np.where(power > 0, cross / np.sqrt(np.where(power > 0, power, 1.0)), 0.0)


def _check(*volumes: np.ndarray) -> None:
    shapes = {volume.shape for volume in volumes}
    if len(shapes) != 1 or len(set(volumes[0].shape)) != 1:
        listed = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise InputError(f"The maps must be cubes of one size, not {listed}; crop or resample them first.")
    if not all(np.isfinite(volume).all() for volume in volumes):
        raise InputError("A map holds values that are not finite; its FSC would mean nothing.")


def fsc(first: Float[np.ndarray, "_ _ _"], second: Float[np.ndarray, "_ _ _"]) -> Float[np.ndarray, " shells"]:
    """Fourier shell correlation of two cubic maps, one value a shell 0 ... n // 2; 0 in a shell without power.

    Raises:
        InputError: the maps are not cubes of one size, or not finite.
    """
    _check(first, second)
    return _correlate(_spectrum(first), _spectrum(second))


def resolution(curve: Float[np.ndarray, " shells"], box: int, pixel_size: float, threshold: float) -> float:
    """Angstrom at which the curve first falls below a threshold, linear between shells; Nyquist if it never does."""
    for shell in range(2, len(curve)):
        if curve[shell] < threshold:
            above, below = curve[shell - 1], curve[shell]
            fraction = (above - threshold) / (above - below) if above >= threshold else 0.0
            return float(box * pixel_size / (shell - 1 + fraction))
    return 2.0 * pixel_size


def last_shell_before(curve: Float[np.ndarray, " shells"], threshold: float) -> int:
    """The last shell before the first one (from 1) below a threshold: where RELION reads its resolution."""
    below = np.flatnonzero(curve[1:] < threshold)
    return int(below[0]) if len(below) else len(curve) - 1


@dataclass(frozen=True)
class FSCCurves:
    """The FSC of two half maps, with and without a mask.

    Attributes:
        box: voxels along the side.
        pixel_size: Angstrom.
        unmasked: of the maps as they are.
        masked: of the maps times the mask.
        randomized: the same after randomizing phases from `randomized_from` on: what the mask alone correlates.
        corrected: (masked - randomized) / (1 - randomized) from two shells later on, masked below.
        randomized_from: first shell with random phases.
    """

    box: int
    pixel_size: float
    unmasked: Float[np.ndarray, " shells"]
    masked: Float[np.ndarray, " shells"]
    randomized: Float[np.ndarray, " shells"]
    corrected: Float[np.ndarray, " shells"]
    randomized_from: int

    @property
    def frequencies(self) -> Float[np.ndarray, " shells"]:
        """Spatial frequency of each shell, 1/Angstrom."""
        return np.arange(len(self.unmasked)) / (self.box * self.pixel_size)

    def resolution(self, threshold: float = GOLD_STANDARD, curve: str = "corrected") -> float:
        """Angstrom at which one of the curves first falls below a threshold, linear between shells."""
        return resolution(getattr(self, curve), self.box, self.pixel_size, threshold)

    @property
    def final_resolution(self) -> float:
        """Angstrom as RELION has it: last shell before the corrected curve (the unmasked if better) is below .143."""
        shells = (last_shell_before(curve, GOLD_STANDARD) for curve in (self.corrected, self.unmasked))
        return self.box * self.pixel_size / max(1, *shells)

    @property
    def mask_is_tight(self) -> bool:
        """Whether the mask alone correlates the half maps by more than 0.1 at the stated resolution.

        At resolutions before the first random phases the correlation is read two shells beyond these.
        """
        shell = max(last_shell_before(self.corrected, GOLD_STANDARD), self.randomized_from + 2)
        return bool(self.randomized[min(shell, len(self.randomized) - 1)] > 0.1)


def corrected_fsc(
    first: Float[np.ndarray, "_ _ _"],
    second: Float[np.ndarray, "_ _ _"],
    mask: Float[np.ndarray, "_ _ _"],
    pixel_size: float,
    seed: int = 0,
) -> FSCCurves:
    """FSC of two half maps, unmasked, masked, and corrected for the correlation that the mask brings.

    Args:
        first: half map.
        second: the other.
        mask: 0 ... 1, soft at its edge.
        pixel_size: Angstrom.
        seed: of the random phases.

    Raises:
        InputError: the arrays are not cubes of one size, or not finite.
    """
    _check(first, second, mask)
    box = len(first)
    spectra = [_spectrum(first), _spectrum(second)]
    unmasked = _correlate(*spectra)
    masked = _correlate(_spectrum(first * mask), _spectrum(second * mask))
    start = min(last_shell_before(unmasked, RANDOMIZE_BELOW) + 1, box // 2)
    random = [_randomize(spectrum, start, seed, half) for half, spectrum in enumerate(spectra)]
    randomized = _correlate(*(_spectrum(volume * mask) for volume in random))
    shells = np.arange(len(masked))
    safe = np.minimum(randomized, 1.0 - 1e-6)
    corrected = np.where(shells >= start + 2, (masked - safe) / (1.0 - safe), masked)
    return FSCCurves(box, pixel_size, unmasked, masked, randomized, corrected, start)


def _randomize(spectrum: Complex[np.ndarray, "n n half"], start: int, seed: int, half: int) -> np.ndarray:
    """A map with the same amplitudes whose phases are random from shell `start` on."""
    box = len(spectrum)
    draw = np.random.Generator(np.random.Philox(key=[seed, half]))
    # The phases of white noise are uniform and have the symmetry of a real map.
    phases = _spectrum(draw.standard_normal((box, box, box), dtype=np.float32))
    phases /= np.maximum(np.abs(phases), np.finfo(np.float32).tiny)
    # As RELION has it: the radius itself, not its shell, so half of the first shell keeps its phases.
    phases[fourier.squared_radii(box, 3) < start**2] = 1.0
    return np.asarray(scipy.fft.irfftn(spectrum * phases, (box, box, box)))
