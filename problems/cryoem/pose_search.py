"""Every image against every orientation and shift: posterior weights, and the sums that they give each orientation.

    L(i, R, s) = 2 Re <exp(2 pi i k.s / n) CTF y_i, P_R> - <CTF^2, |P_R|^2>

over the points |k| < r of the half plane is the log likelihood of a pose, up to what does not depend on it. The slice at
psi + 180 degrees is the complex conjugate, so two real matrix products, a = Re X Re P' and b = Im X Im P', give both
scores, a + b and a - b. The second term does not depend on the shift. What an orientation collects,

    numerator_R = sum_i,s w exp(2 pi i k.s / n) CTF y_i,    denominator_R = sum_i,s w CTF^2,

is a third product, or a short loop when few poses of an image are likely; only orientations, not images, are then
inserted into a volume.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float, Int

from problems.cryoem import search_kernels
from problems.cryoem.image_spectra import ImageSpectra

CUTOFF = 12.0
"""Poses less likely than exp(-CUTOFF) of the best one of their image are left out."""
SPARSE = 0.08
"""Share of likely poses below which the sums of an image are a loop, not a matrix product."""
_SCORES = 1 << 18  # scores per matrix product: both products of a chunk stay in a core's cache


@dataclass(frozen=True)
class Found:
    """What a batch of images says.

    Attributes:
        numerator: (orientations, points) complex64. denominator: (orientations, points) float32.
        log_likelihood: (images,) log of the mean likelihood over all poses of the grid, relative to an empty map.
        orientation: (images,) best one. half: (images,) 1 if it is the one at psi + 180 degrees. shift: (images,) best.
        evaluated: scores computed.
    """

    numerator: Complex[np.ndarray, "orientations points"]
    denominator: Float[np.ndarray, "orientations points"]
    log_likelihood: Float[np.ndarray, " images"]
    orientation: Int[np.ndarray, " images"]
    half: Int[np.ndarray, " images"]
    shift: Int[np.ndarray, " images"]
    evaluated: int


def search(
    images: ImageSpectra,
    slices: Complex[np.ndarray, "orientations points"],
    shifts: Float[np.ndarray, "shifts 2"],
    radius: float,
    gather: bool = True,
) -> Found:
    """Score images on a grid of poses.

    Args:
        images: up to a radius at which the sums are wanted.
        slices: of the reference at the points of `images`, one a rotation of a half-turn grid.
        shifts: (x, y) in pixels, candidates for the offset of every image.
        radius: only points within it are scored; the others only collect.
        gather: whether sums are wanted.
    """
    disc, count = images.disc, len(slices)
    scored = disc.within(radius)
    real, imaginary = (np.ascontiguousarray(2.0 * part[:, :scored]) for part in (slices.real, slices.imag))
    power = np.square(np.abs(slices[:, :scored])).astype(np.float32)
    phases = disc.phases(shifts)
    found = Found(
        numerator=np.zeros((count, len(disc)) if gather else (0, 0), np.complex64),
        denominator=np.zeros((count, len(disc)) if gather else (0, 0), np.float32),
        log_likelihood=np.empty(len(images)),
        orientation=np.empty(len(images), np.int64),
        half=np.empty(len(images), np.int64),
        shift=np.empty(len(images), np.int64),
        evaluated=2 * count * len(shifts) * len(images),
    )
    squares = np.square(images.transfer)
    norms = squares[:, :scored] @ power.T
    step = max(1, _SCORES // (count * len(shifts)))
    for start in range(0, len(images), step):
        part = slice(start, min(start + step, len(images)))
        weighted = images.values[part] * images.transfer[part]
        shifted = weighted[:, None, :] * phases
        flat = shifted.reshape(-1, len(disc))[:, :scored]
        a = np.dot(np.ascontiguousarray(flat.real), real.T).reshape(-1, len(shifts), count)
        b = np.dot(np.ascontiguousarray(flat.imag), imaginary.T).reshape(-1, len(shifts), count)
        _collect(found, part, (a, b, norms[part]), shifted, squares[part])
    found.log_likelihood[:] -= np.log(2.0 * count * len(shifts))
    return found


def _collect(found: Found, part: slice, scores: tuple, shifted: np.ndarray, squares: np.ndarray) -> None:
    """Posterior and sums of a chunk of images."""
    plus, minus, norms = scores
    gather = len(found.numerator) > 0
    dense = []
    for j, i in enumerate(range(part.start, part.stop)):
        total, kept, shift, orientation, half = search_kernels.posterior(plus[j], minus[j], norms[j], CUTOFF)
        found.log_likelihood[i], found.shift[i] = total, shift
        found.orientation[i], found.half[i] = orientation, half
        if not gather:
            continue
        if kept > SPARSE * plus[j].size:
            dense.append(j)
        else:
            search_kernels.add_sparse(plus[j], minus[j], shifted[j], squares[j], found.numerator, found.denominator)
    if dense:
        count, points = plus.shape[2], shifted.shape[2]
        p, m = plus[dense].reshape(-1, count), minus[dense].reshape(-1, count)
        values = shifted[dense].reshape(-1, points)
        found.numerator.real[:] += p.T @ np.ascontiguousarray(values.real)
        found.numerator.imag[:] += m.T @ np.ascontiguousarray(values.imag)
        found.denominator[:] += plus[dense].sum(1).T @ squares[dense]
