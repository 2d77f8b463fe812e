"""How far the regularized map is from the density: the posterior standard deviation of each voxel.

With a prior of precision T = 1 / tau^2 the posterior precision of a Fourier voxel is W + T, the diagonal of A'WA + T.
The variance has three parts, and the two half sets measure the first two:

* noise, W / (W + T)^2: what another set of particles would change. The difference of the sums of the half sets, less
  the signal that it has where their weights differ, has the noise of their sum, with the pose errors and the
  flexibility that no model knows. It is solved like the full map; its local mean square, in a window of a few
  resolution lengths, is the variance.
* missing signal: what the filter removed, the share T^2 / (W + T)^2 of the signal's power. That power is the cross
  power of the half maps in each shell, divided by what their solves leave of it. Not F / (1 - F) / <W>: the noise of a
  half map goes with the mean of 1 / W, so that this is too little where weights differ, by half with views within 40
  degrees of an axis. The sum over shells is spread like the local mean square of the map less its noise.
* the projector's error, the share (r / (2 - r))^4 of the power of density at r box widths, spread alike.

It does not know of directions that no view shows (it takes them to be like the others), of poses that are wrong in
both halves alike, nor of frequencies beyond the last shell. The README gives the calibration: the deviation of
(map - truth) / std, which should be 1.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Float
from scipy.special import log_ndtr

from sciml_cryoem.imaging import fourier
from sciml_cryoem.maps.fsc import shell_sums
from sciml_cryoem.maps.masks import low_pass, soft_sphere
from sciml_cryoem.reconstruction.accumulation import HALF_FLOOR, positive
from sciml_cryoem.reconstruction.direct import Reconstruction
from sciml_cryoem.reconstruction.prior import MAP_SPHERE, fsc_error, mean_if_positive

_WINDOW = 2.0  # resolution lengths, the deviation of the window of local mean squares of noise
_SIGNAL_WINDOW = 1.0
_WHOLE = 0.999  # a mask of at least this value is taken to remove nothing
_STEEPEST = 2.0  # logarithm of the fall of the density's mean square within a resolution length outside of a mask
_SURE = 0.5  # FSC from which on the signal's power is taken shell by shell


@dataclass(frozen=True)
class Uncertainty:
    """The posterior standard deviation of a map.

    Attributes:
        std: of the full map, in its units. Outside a mask the map is 0, and the deviation that of the density there.
        noise: root mean square of the noise part inside the region of the prior, measured from the half maps.
        predicted_noise: the same from the weights alone; equal if the images' noise and poses are as assumed.
        missing: root mean square of the signal that the filter removed, inside that region.
    """

    std: Float[np.ndarray, "n n n"]
    noise: float
    predicted_noise: float
    missing: float


@dataclass(frozen=True)
class SolveSums:
    """Effect of the solves of full and half maps on noise and signal, by shell 0 ... n // 2.

    Attributes:
        noise: mean square that the weights predict for the noise of a voxel of the full map, each shell's part.
        difference: the same for the difference of the half sets (`noise_draw`).
        removed: share of the signal's power that the full map lacks, T^2 / (W + T)^2, mean over the shell.
        kept: share of it that the cross power of the half maps has, mean over the shell.
    """

    noise: Float[np.ndarray, " shells"]
    difference: Float[np.ndarray, " shells"]
    removed: Float[np.ndarray, " shells"]
    kept: Float[np.ndarray, " shells"]


def solve_sums(result: Reconstruction) -> SolveSums:
    """Sums over the Fourier grids of a reconstruction."""
    from sciml_cryoem.validation import uncertainty_kernels

    first, second = result.half_sums.sums
    floors = (positive(HALF_FLOOR * part.shell_weights()) for part in (first, second))
    # One shell more, so that the last has data up to its outer edge.
    tables = np.stack([np.append(row, row[-1]) for row in (result.prior.precision, *floors)]).astype(np.float32)
    sums = uncertainty_kernels.variance_sums(first.grid, second.grid, tables, float(first.padding))[:, :-1]
    voxels, scale = np.maximum(sums[4], 1.0), float(len(first.grid)) ** 6
    return SolveSums(sums[0] / scale, sums[1] / scale, sums[2] / voxels, sums[3] / voxels)


def uncertainty(result: Reconstruction) -> Uncertainty:
    """The standard deviation of every voxel of a reconstruction."""
    sums = solve_sums(result)
    missing = _missing(result, sums)
    box, pixel_size = result.half_sums.box, result.half_sums.pixel_size
    # The window is counted in resolution lengths: noise is correlated over one of them.
    width = _WINDOW * min(result.prior.curves.resolution() / pixel_size, 0.125 * box)
    draw = noise_draw(result, sums)
    noise = local_mean_square(draw, width)
    # The map's own square less its noise, in a narrower window: there is no signal beside the molecule.
    signal = np.maximum(local_mean_square(result.full, _SIGNAL_WINDOW / _WINDOW * width) - noise, 0.0)
    region = np.square(result.prior.region)
    level = float((signal * region).sum() / region.sum())
    aliases = _aliases(np.square(result.full), result.half_sums.sums[0].padding)
    variance = noise + (missing / max(level, 1e-30) + aliases) * signal
    if (mask := result.prior.mask) is not None:
        variance = np.square(mask) * variance + np.square(1.0 - mask) * _cut_away(result, mask) * (
            1.0 + missing / max(level, 1e-30)
        )
    std = np.sqrt(variance)
    measured = float((noise * region).sum() / region.sum())
    return Uncertainty(std.astype(np.float32), measured**0.5, float(sums.noise.sum()) ** 0.5, missing**0.5)


def _cut_away(result: Reconstruction, mask: Float[np.ndarray, "n n n"]) -> Float[np.ndarray, "n n n"]:
    """Mean square of the density that a mask takes away, by the distance from where it begins to.

    It is the product of the half maps, filtered to their resolution, whose noise is independent. Where it is lost in
    that noise it is taken to fall exponentially: it soon is much less than can be measured. At least a millionth of the
    mean inside.
    """
    from scipy.ndimage import distance_transform_edt

    box, pixel_size, limit = len(mask), result.half_sums.pixel_size, result.prior.curves.resolution()
    first, second = (low_pass(half, pixel_size, limit) for half in (result.half1, result.half2))
    product, inside = first * second, soft_sphere(box, MAP_SPHERE * box, 0.0) > 0
    floor = 1e-6 * max(float(product[mask > 0.5].mean()), 0.0) + 1e-30
    distance = np.asarray(distance_transform_edt(mask < _WHOLE), np.float32)
    shell = distance.astype(np.int64)  # 0: nothing is cut away
    members = inside & (shell > 0)
    if not members.any():
        return np.full(mask.shape, floor)
    voxels = np.bincount(shell[members])
    mean, square = (
        np.bincount(shell[members], values[members]) / np.maximum(voxels, 1) for values in (product, product**2)
    )
    found = np.flatnonzero(voxels)
    # Noise within a sphere of frequencies has as many independent values as the sphere has Fourier voxels.
    independent = np.maximum(voxels[found] * (4.0 / 3.0) * np.pi * (pixel_size / limit) ** 3, 1.0)
    power, error = mean[found], np.sqrt(square[found] / independent) + floor
    weak = int(np.argmax(np.append(power < 3.0 * error, True)))
    if weak < len(power):
        power[weak:] = _falling(power[weak:], error[weak:], _STEEPEST * (len(power) - weak) * pixel_size / limit)
    return np.interp(distance, found + 0.5, np.maximum(power, floor))


def _aliases(square: Float[np.ndarray, "n n n"], padding: int) -> float:
    """Mean square error of the projector as a share of the signal's: (r / (padding - r))^4 for density at r box widths.

    It is the relative square of what trilinear interpolation leaves of the aliases of the padded map (README).
    """
    box = len(square)
    line = (np.arange(box) - box // 2) / box
    radius = np.minimum(np.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2), 0.5)
    return float((square * (radius / (padding - radius)) ** 4).sum() / max(float(square.sum()), 1e-30))


def _missing(result: Reconstruction, sums: SolveSums) -> float:
    """Mean square, inside the region of the prior, of the signal that the filter removed.

    The power of a weak shell scatters about its value, below zero too, and there are many such shells with little taken
    away from that scatter. So from the first shell with FSC below 0.5 on the power of a Fourier voxel is taken to fall
    exponentially with frequency, at a height and a rate that the weak shells tell together.
    """
    region = result.prior.region
    box = len(region)
    first, second = (np.asarray(scipy.fft.rfftn(half * region)) for half in (result.half1, result.half2))
    scale = 1.0 / (float(box) ** 3 * float(np.square(region, dtype=np.float64).sum()))
    cross = scale * shell_sums(np.real(first * np.conj(second)), box)
    powers = [scale * shell_sums(np.square(np.abs(half)), box) for half in (first, second)]
    middle = np.sqrt(np.maximum(powers[0] * powers[1], 1e-300))
    curve = np.clip(cross / middle, -0.9999, 0.9999)
    voxels = shell_sums(np.ones(first.shape), box)
    kept = np.maximum(sums.kept, 1e-3)
    power, error = cross / kept / voxels, fsc_error(curve, region) * middle / kept / voxels
    share = sums.removed * voxels
    share[-1] = 0.0  # the Nyquist shell is half outside the data: a large weight on a power that says little
    below = np.flatnonzero(curve[1:] < _SURE)
    weak = int(below[0]) + 1 if len(below) else len(curve)
    strong = max(0.0, float((share * power)[:weak].sum()))
    if len(curve) - weak < 3:
        return strong + max(0.0, float((share * power)[weak:].sum()))
    return strong + float(share[weak:] @ _falling(power[weak:], error[weak:]))


def _falling(
    power: Float[np.ndarray, " some"], error: Float[np.ndarray, " some"], steepest: float = 8.0
) -> Float[np.ndarray, " some"]:
    """Expected powers of shells in which the power falls like A exp(-B s), A and B unknown, s from 0 to the last shell.

    The mean over A > 0 and B >= 0 given the measured powers and their errors; both are equally likely beforehand, A at
    the first of the shells, B up to a fall by exp(`steepest`) at the last.
    """
    steps = np.linspace(0.0, 1.0, len(power))
    shape = np.exp(-np.linspace(0.0, steepest, 81)[:, None] * steps)
    information = (np.square(shape / error)).sum(1)
    best, deviation = (shape * power / np.square(error)).sum(1) / information, 1.0 / np.sqrt(information)
    # Likelihood of B: exp(-chi^2 / 2) integrated over A > 0.
    logarithm = 0.5 * np.square(best / deviation) + np.log(deviation) + log_ndtr(best / deviation)
    likelihood = np.exp(logarithm - logarithm.max())
    return (likelihood * mean_if_positive(best, deviation)) @ shape / likelihood.sum()


def noise_draw(result: Reconstruction, sums: SolveSums | None = None) -> Float[np.ndarray, "n n n"]:
    """A draw of the full map's noise without signal: the difference of the half sets, solved like the full map."""
    from sciml_cryoem.imaging.projection import correct_gridding
    from sciml_cryoem.validation import uncertainty_kernels

    sums = sums or solve_sums(result)
    first, second = result.half_sums.sums
    precision = np.append(result.prior.precision, result.prior.precision[-1]).astype(np.float32)
    spectrum = np.empty(first.grid.shape[:3], np.complex64)
    uncertainty_kernels.difference(first.grid, second.grid, precision, float(first.padding), spectrum)
    draw = correct_gridding(fourier.inverse_transform_cropped(spectrum, first.size), first.padding)
    gain = np.sqrt(sums.noise / np.maximum(sums.difference, 1e-300))
    spectrum = np.asarray(scipy.fft.rfftn(draw))
    spectrum *= np.interp(np.sqrt(fourier.squared_radii(first.size, 3)), np.arange(len(gain)), gain).astype(np.float32)
    return np.asarray(scipy.fft.irfftn(spectrum, draw.shape), np.float32)


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
