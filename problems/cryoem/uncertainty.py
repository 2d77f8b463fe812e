"""How far the regularised map is from the density: the posterior standard deviation of each voxel.

With a prior of precision T = 1 / tau^2 the posterior precision of a Fourier voxel is W + T, the diagonal of A'WA + T.
The variance of a voxel of the map is (1 / P^6) sum 1 / (W + T) over the padded grid. It has two parts:

* noise, sum W / (W + T)^2: what another set of particles would change. The model takes the noise of the images for it.
  The half maps show it: half their difference, filtered like the map, is a draw of such noise, with the pose errors
  and the flexibility that no model knows. So its local mean square, in a window of a few resolution lengths, is
  what is used (6 to 10 % too large where images are few, because half maps have the sparser weights);
* missing signal, sum T / (W + T)^2: what the filter removed. It lies where the density lies, so it is spread like the
  local mean square of the map, with its mean inside the mask as the prior says.

The README gives the calibration: the deviation of (map - truth) / std, which should be 1.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Float

from problems.cryoem import fourier
from problems.cryoem.prior import PriorEstimate, fsc_error, mean_if_positive
from problems.cryoem.reconstruction import Reconstruction

_WINDOW = 2.0  # resolution lengths, the deviation of the window of all local mean squares


@dataclass(frozen=True)
class Uncertainty:
    """The posterior standard deviation of a map.

    Attributes:
        std: of the full map before it was multiplied by a mask, in its units.
        noise: root mean square of the noise part inside the region of the prior, measured from the half maps.
        predicted_noise: the same from the weights alone; equal if the images' noise and poses are as assumed.
        missing: root mean square of the signal that the filter removed, inside that region.
    """

    std: Float[np.ndarray, "n n n"]
    noise: float
    predicted_noise: float
    missing: float


def uncertainty(result: Reconstruction) -> Uncertainty:
    """The standard deviation of every voxel of a reconstruction."""
    from problems.cryoem import kernels

    first, second = result.accumulated.sums
    # One shell more, so that the last has data up to its outer edge.
    precision = np.append(result.prior.precision, result.prior.precision[-1]).astype(np.float32)
    sums = (
        kernels.variance_sums((first.grid, second.grid), precision, float(first.padding)) / float(len(first.grid)) ** 6
    )
    predicted, missing = float(sums[0].sum()), _missing(result.prior, sums[1])
    box, pixel_size = result.accumulated.box, result.accumulated.pixel_size
    # The window is counted in resolution lengths: noise is correlated over one of them.
    width = _WINDOW * min(result.prior.curves.resolution() / pixel_size, 0.125 * box)
    noise = local_mean_square(filtered_difference(result), width)
    signal = local_mean_square(result.full, width)
    region = np.square(result.prior.region)
    level = float((signal * region).sum() / region.sum())
    std = np.sqrt(noise + missing * signal / max(level, 1e-30))
    measured = float((noise * region).sum() / region.sum())
    return Uncertainty(std.astype(np.float32), measured**0.5, predicted**0.5, missing**0.5)


def _missing(prior: PriorEstimate, sums: Float[np.ndarray, " more"]) -> float:
    """Sum over all shells of the signal power that the filter removed.

    `sums`, sum T / (W + T)^2 by shell, takes the prior's own signal power, whose FSC was shrunk upwards: over many
    empty shells that adds up. So each shell is brought to the FSC as measured, scatter below zero and all, and only the
    sum is known to be positive.
    """
    shrunk, measured = prior.half_fsc, np.clip(prior.measured_fsc, -0.5, 0.9999)
    per_unit = sums[: len(shrunk)] * (1.0 - shrunk) / shrunk
    per_unit[-1] = 0.0  # the Nyquist shell is half outside the data: a large weight on an FSC that says little
    total = (per_unit * measured / (1.0 - measured)).sum()
    error = per_unit * fsc_error(measured, prior.region) / np.square(1.0 - measured)
    return float(mean_if_positive(total[None], np.sqrt(np.square(error).sum())[None])[0])


def filtered_difference(result: Reconstruction) -> Float[np.ndarray, "n n n"]:
    """Half the difference of the half maps, filtered like the full map: a draw of noise without signal."""
    gain = 2.0 * result.prior.half_fsc / (1.0 + result.prior.half_fsc)
    box = result.accumulated.box
    radius = np.sqrt(fourier.squared_radii(box, 3))
    spectrum = np.asarray(scipy.fft.rfftn(0.5 * (result.half1 - result.half2)))
    spectrum *= np.interp(radius, np.arange(len(gain)), gain, right=0.0).astype(np.float32)
    return np.asarray(scipy.fft.irfftn(spectrum, result.half1.shape), np.float32)


def local_mean_square(volume: Float[np.ndarray, "n n n"], width: float) -> Float[np.ndarray, "n n n"]:
    """Mean square of a map in a bell-shaped window of this deviation (voxels) about each voxel; float32, positive.

    The window is a box three times over, close to a Gaussian, whose cost does not grow with its width.
    """
    from scipy.ndimage import uniform_filter

    square = np.square(volume, dtype=np.float32)
    floor = 1e-6 * float(square.mean()) + 1e-30
    side = max(1, round(float(np.sqrt(4.0 * width**2 + 1.0))))
    for _ in range(3):
        square = uniform_filter(square, side, mode="nearest")
    return np.maximum(square, floor)
