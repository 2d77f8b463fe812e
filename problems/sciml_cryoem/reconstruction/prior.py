"""Estimates from the half maps: their FSC, the prior precision 1 / tau^2 of each shell, and the mask."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

from sciml.errors import InputError
from sciml_cryoem.imaging import fourier
from sciml_cryoem.maps.fsc import FSCCurves, corrected_fsc, fsc, resolution
from sciml_cryoem.maps.masks import AutomaticMask, soft_sphere
from sciml_cryoem.reconstruction.accumulation import HalfSetSums, ReconstructOptions, positive

PRIOR_SPHERE = 0.40
"""Radius, as a fraction of the box, of the sphere in which the FSC of the prior is measured."""

MAP_SPHERE = 0.42
"""Radius of the sphere that the full map is multiplied by, outside of which the gridding correction raises noise."""


@dataclass(frozen=True)
class PriorEstimate:
    """Prior, FSC and mask of a map, estimated from its half maps.

    Attributes:
        precision: 1 / tau^2 in each shell, in the units of the weights.
        half_fsc: FSC that set it, after shrinkage (`shrink_fsc`).
        measured_fsc: the same before shrinkage.
        curves: FSC of the half maps, unmasked, masked and corrected.
        mask: for the full map; None for none.
        region: where the FSC that set the prior was measured: the mask, or the sphere of the prior.
        note: why the mask is not the one that was asked for, a sentence; else empty.
    """

    precision: Float[np.ndarray, " shells"]
    half_fsc: Float[np.ndarray, " shells"]
    measured_fsc: Float[np.ndarray, " shells"]
    curves: FSCCurves
    mask: Float[np.ndarray, "n n n"] | None
    region: Float[np.ndarray, "n n n"]
    note: str = ""


def shrink_fsc(curve: Float[np.ndarray, " shells"], mask: Float[np.ndarray, "n n n"]) -> Float[np.ndarray, " shells"]:
    """An FSC curve as a signal estimate: smoothed where it is low, and the mean of what it can be given that FSC >= 0.

    Taken at its word, a shell that scatters below zero is cut out, and the steep steps between shells leak through the
    mask into their neighbors. The mean of the normal distribution truncated at 0 has neither fault.
    """
    smooth = np.convolve(np.pad(curve, 3, mode="edge"), _KERNEL, mode="valid")
    share = np.clip((0.5 - curve) / 0.3, 0.0, 1.0)  # of smoothing: none above .5, all below .2
    value = share * smooth + (1.0 - share) * curve
    error = fsc_error(curve, mask) * (1.0 - share + share * np.sqrt(np.square(_KERNEL).sum()))
    return np.clip(mean_if_positive(value, _CAUTION * error), 1e-6, 0.9999)


_CAUTION = 2.0  # cutting a shell that holds signal costs more than leaving one of noise; measured, see the README
_KERNEL = np.exp(-0.5 * np.arange(-3, 4) ** 2.0)
_KERNEL /= _KERNEL.sum()


def fsc_error(curve: Float[np.ndarray, " shells"], mask: Float[np.ndarray, "n n n"]) -> Float[np.ndarray, " shells"]:
    """Standard error of an FSC measured in a mask, positive: (1 - FSC^2) / sqrt(m).

    m, the independent numbers of a shell, is twice its Friedel pairs times f^(2/3), f = <mask^2>^2 / <mask^4> the
    effective volume fraction of the mask: it correlates neighbors, but across a shell, one point thick, there are none.
    """
    count = len(curve)
    shell = np.minimum(fourier.shells(mask.shape[0], 3), count)
    points = np.bincount(shell.ravel(), minlength=count + 1)[:count]
    square = np.square(mask, dtype=np.float64)
    fraction = square.mean() ** 2 / np.square(square).mean()
    independent = np.maximum(2.0 * points * fraction ** (2.0 / 3.0), 1.0)
    return np.maximum((1.0 - np.square(curve)) / np.sqrt(independent), 1e-6)


def mean_if_positive(
    value: Float[np.ndarray, " some"], error: Float[np.ndarray, " some"]
) -> Float[np.ndarray, " some"]:
    """Mean of a normal distribution of this mean and deviation that is known to be positive (truncated at 0)."""
    ratio = np.maximum(value / error, -30.0)
    density = np.exp(-0.5 * np.square(ratio)) / np.sqrt(2.0 * np.pi)
    return value + error * density / np.maximum(ndtr(ratio), 1e-300)


def prior_precision(
    weights: Float[np.ndarray, " shells"], half_fsc: Float[np.ndarray, " shells"]
) -> Float[np.ndarray, " shells"]:
    """1 / tau^2 = <W> (1 - F) / F in each shell.

    F = 2 FSC / (1 + FSC) is the square of the correlation of the full map with the truth, the Wiener filter's gain.
    """
    full = 2.0 * half_fsc / (1.0 + half_fsc)
    return positive(weights * (1.0 - full) / full)


def estimate_prior(
    half1: Float[np.ndarray, "n n n"],
    half2: Float[np.ndarray, "n n n"],
    half_sums: HalfSetSums,
    options: ReconstructOptions,
) -> PriorEstimate:
    """FSC of the half maps, the prior it implies, and the mask."""
    box, pixel_size = half_sums.box, half_sums.pixel_size
    weights = half_sums.shell_weights()
    sphere = soft_sphere(box, _prior_radius(half_sums, options))
    measured = fsc(half1 * sphere, half2 * sphere)
    half_fsc = shrink_fsc(measured, sphere)
    precision = prior_precision(weights, half_fsc)
    mask, note = _map_mask(0.5 * (half1 + half2), half_fsc, pixel_size, options)
    if isinstance(options.mask, str) and (options.mask != "auto" or note):
        measured_in = np.ones_like(sphere) if mask is None else sphere
        curves = corrected_fsc(half1, half2, measured_in, pixel_size, options.seed)
        return PriorEstimate(precision, half_fsc, measured, curves, mask, sphere, note)
    assert mask is not None
    curves = corrected_fsc(half1, half2, mask, pixel_size, options.seed)
    # A mask that follows the molecule leaves less noise in the FSC, and what it adds is corrected for.
    half_fsc = shrink_fsc(curves.corrected, mask)
    return PriorEstimate(prior_precision(weights, half_fsc), half_fsc, curves.corrected, curves, mask, mask)


def _map_mask(
    average: Float[np.ndarray, "n n n"],
    half_fsc: Float[np.ndarray, " shells"],
    pixel_size: float,
    options: ReconstructOptions,
) -> tuple[Float[np.ndarray, "n n n"] | None, str]:
    """The mask that was asked for, and a note about it; a sphere where no mask can be found in the map."""
    box = len(average)
    if not isinstance(options.mask, str):
        return np.asarray(options.mask, np.float32), ""
    if options.mask == "none":
        return None, ""
    note = ""
    if options.mask == "auto":
        half_bit = resolution(half_fsc, box, pixel_size, 0.5)
        try:
            return AutomaticMask.for_resolution(half_bit, pixel_size).find(average, pixel_size), ""
        except InputError:
            note = "Nothing stands out of the noise that a mask could follow; a sphere is used."
    return soft_sphere(box, MAP_SPHERE * box, 0.08 * box), note


def _prior_radius(half_sums: HalfSetSums, options: ReconstructOptions) -> float:
    """Radius in voxels of the sphere in which the FSC of the prior is measured, smaller if the diameter is known."""
    widest = PRIOR_SPHERE * half_sums.box
    if options.settings.diameter is None:
        return widest
    return min(widest, 0.55 * options.settings.diameter / half_sums.pixel_size)
