"""Sharpening of a map: the Guinier plot, the B-factor fitted to it, and the filter that undoes the decay.

The amplitudes of a map fall as exp(B s^2 / 4), B < 0, through everything that blurs it: motion, errors of the poses,
interpolation. Beyond 10 Angstrom those of a protein itself are nearly flat (Wilson), so there the slope of ln <|F|>
over s^2 is B / 4, and multiplying by exp(-B s^2 / 4) undoes it (Rosenthal and Henderson, J. Mol. Biol. 333, 2003).
Before that, the weight sqrt(2 FSC / (1 + FSC)) takes out what is noise. Definitions and signs are those of
`relion_postprocess`: a **negative** B sharpens.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Complex, Float

from sciml_cryoem.imaging import fourier
from sciml_cryoem.maps.fsc import shell_sums
from sciml_cryoem.maps.masks import cosine_edge

FIT_FROM = 10.0
"""Angstrom: below this resolution the shape of the molecule, not its atoms, decides the amplitudes."""

FEWEST_SHELLS = 5
"""A line through fewer shells than this tells nothing about a B-factor."""

_NOTHING = -99.0  # what RELION writes for the logarithm of nothing
_EDGE = 2.0  # Fourier pixels of the low-pass filter's edge, as RELION has it


@dataclass(frozen=True)
class LineFit:
    """A straight line through the Guinier plot.

    Attributes:
        slope: Angstrom^2; a quarter of the B-factor.
        intercept: ln of an amplitude.
        correlation: of the points with a line, squared (R^2); RELION's rlnCorrelationFitGuinierPlot.
        error: standard error of the slope.
        shells: how many points.
    """

    slope: float
    intercept: float
    correlation: float
    error: float
    shells: int

    @property
    def bfactor(self) -> float:
        """Angstrom^2."""
        return 4.0 * self.slope


@dataclass(frozen=True)
class Guinier:
    """The Guinier plot of a map.

    Attributes:
        inverse_square: 1 / d^2 of each shell, 1/Angstrom^2.
        original: ln <|F|> of the map, the transform divided by the number of voxels; -99 where there is nothing.
        weighted: after the FSC weights.
        fitted: which shells the line goes through.
        fit: the line; None with fewer than `FEWEST_SHELLS` of them.
    """

    inverse_square: Float[np.ndarray, " shells"]
    original: Float[np.ndarray, " shells"]
    weighted: Float[np.ndarray, " shells"]
    fitted: np.ndarray
    fit: LineFit | None

    def sharpened(self, bfactor: float) -> Float[np.ndarray, " shells"]:
        """The plot after sharpening with a B-factor (Angstrom^2), before the low-pass filter."""
        return np.where(self.weighted > _NOTHING, self.weighted - 0.25 * bfactor * self.inverse_square, _NOTHING)


def fsc_weights(curve: Float[np.ndarray, " shells"]) -> Float[np.ndarray, " shells"]:
    """sqrt(2 FSC / (1 + FSC)), the correlation of the full map with the truth; 0 from the first shell without any."""
    known = np.cumsum(curve <= 0.0) == 0
    safe = np.where(known, curve, 0.0)
    return np.sqrt(2.0 * safe / (1.0 + safe))


def guinier_plot(
    spectrum: Complex[np.ndarray, "n n half"], weights: Float[np.ndarray, " shells"], pixel_size: float, until: float
) -> Guinier:
    """The Guinier plot of a map and the line through it from 10 Angstrom to a resolution.

    Args:
        spectrum: half spectrum of the map, unnormalized.
        weights: factor of each shell, as from `fsc_weights`.
        pixel_size: Angstrom.
        until: Angstrom, the highest resolution of the fit.
    """
    box = len(spectrum)
    amplitudes = np.abs(spectrum).astype(np.float32)
    points = shell_sums(np.ones_like(amplitudes), box)
    mean = shell_sums(amplitudes, box) / points / float(box) ** 3
    frequency = np.arange(len(mean)) / (box * pixel_size)
    weighted = _logarithm(mean * weights)
    # A shell that a limit names belongs to the fit, whatever the last digit of its frequency.
    within = (frequency > (1 - 1e-6) / FIT_FROM) & (frequency < (1 + 1e-6) / until)
    fitted = within & (weighted > _NOTHING)
    fit = fit_line(frequency[fitted] ** 2, weighted[fitted]) if fitted.sum() >= FEWEST_SHELLS else None
    return Guinier(frequency**2, _logarithm(mean), weighted, fitted, fit)


def _logarithm(values: Float[np.ndarray, " shells"]) -> Float[np.ndarray, " shells"]:
    return np.where(values > 0, np.log(np.where(values > 0, values, 1.0)), _NOTHING)


def fit_line(x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"]) -> LineFit:
    """Least squares through at least three points, all of one weight.

    Raises:
        ValueError: fewer points, or all at one place.
    """
    if len(x) < 3 or np.ptp(x) == 0:
        raise ValueError(f"{len(x)} points at {len(np.unique(x))} places do not make a line")
    dx, dy = x - x.mean(), y - y.mean()
    square = float(dx @ dx)
    slope = float(dx @ dy) / square
    total = float(dy @ dy)
    left = max(total - slope**2 * square, 0.0)
    correlation = 1.0 - left / total if total > 0 else 1.0
    error = float(np.sqrt(left / (len(x) - 2) / square))
    return LineFit(slope, float(y.mean() - slope * x.mean()), correlation, error, len(x))


@dataclass(frozen=True)
class MapFilter:
    """The filter that is applied to the mean of the half maps.

    Attributes:
        weights: of each shell.
        bfactor: Angstrom^2; negative sharpens, 0 leaves the amplitudes.
        resolution: Angstrom of the low-pass filter.
    """

    weights: Float[np.ndarray, " shells"]
    bfactor: float
    resolution: float

    def apply(self, spectrum: Complex[np.ndarray, "n n half"], pixel_size: float) -> Float[np.ndarray, "n n n"]:
        """Map from its half spectrum (which stays as it is): weighted, sharpened, low-passed; float32."""
        box = len(spectrum)
        radius = np.sqrt(fourier.squared_radii(box, 3)).astype(np.float32)
        shell = np.rint(radius).astype(np.int32)
        gain = np.append(self.weights, 0.0).astype(np.float32)[np.minimum(shell, len(self.weights))]
        decay = np.float32(0.25 * self.bfactor / (box * pixel_size) ** 2)
        # Not beyond Nyquist: in the corners a strong B-factor would overflow.
        gain *= np.exp(-decay * np.minimum(radius, box / 2) ** 2)
        gain *= cosine_edge(radius - np.float32(box * pixel_size / self.resolution - _EDGE / 2), _EDGE)
        return np.asarray(scipy.fft.irfftn(spectrum * gain, (box,) * 3), dtype=np.float32)
