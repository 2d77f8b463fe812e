"""Every image against every orientation and shift: posterior weights, and the sums that they give each orientation.

    L(i, R, s) = 2 Re <exp(-2 pi i k.s / n) CTF y_i, P_R> - <CTF^2, |P_R|^2>

over the points |k| < r of the half plane is the log likelihood of a pose, up to what does not depend on it. The slice
at psi + 180 degrees is the complex conjugate, so two real matrix products, a = Re X Re P' and b = Im X Im P', give both
scores, a + b and a - b. The second term does not depend on the shift. What an orientation collects,

    numerator_R = sum_i,s w exp(-2 pi i k.s / n) CTF y_i,    denominator_R = sum_i,s w CTF^2,

is a third product, or a short loop when few poses of an image are likely; only orientations, not images, are then
inserted into a volume.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Complex

from sciml_cryoem.imaging.threads import in_threads
from sciml_cryoem.poses import search_kernels
from sciml_cryoem.poses.search_result import APART_DEG, CUTOFF, PoseGrid, SearchRequest, SearchResult
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra
from sciml_cryoem.reconstruction.resources import Memory

RATE = 4e10
"""Floating-point operations of a search a second and core, exponentials included (measured)."""
SPARSE = 0.08
"""Share of likely poses below which the sums of an image are a loop, not a matrix product."""
_COSINE = np.float32(np.cos(np.radians(APART_DEG)))
_TOGETHER = 16  # images in a product at most, so that two processes can share a batch of 100 about evenly
_THREAD = 256  # images for which a thread pays: its sums must be added to those of the others
_SCORES = 1 << 18  # scores per matrix product: both products of a chunk stay in a core's cache


def search(
    images: ImageSpectra,
    slices: Complex[np.ndarray, "orientations points"],
    grid: PoseGrid,
    radius: float,
    wanted: SearchRequest | None = None,
    device: str = "cpu",
) -> SearchResult:
    """Score images on a grid of poses.

    Args:
        images: up to a radius at which the sums are wanted.
        slices: of the reference at the points of `images`, one a rotation of the grid; of several references in turn.
        grid: the poses that are tried.
        radius: only points within it are scored; the others only collect.
        wanted: by default `SearchRequest()`.
        device: "cpu" for compiled loops; "torch" for torch on the CPU; "cuda". Results agree to single precision; of
            equally likely poses either may be returned.

    Raises:
        InputError: a GPU whose memory does not hold one image.
    """
    wanted = wanted or SearchRequest()
    if device == "cpu":
        work = lambda part: _search(images.take(part), slices, grid, radius, wanted)
        return _joined(in_threads(len(images), _THREAD, work, together(len(slices), len(grid.shifts))))
    from sciml_cryoem.poses import torch_search

    return torch_search.search(images, slices, grid, radius, wanted, device)


def together(orientations: int, shifts: int) -> int:
    """Number of images that are scored in one matrix product.

    An image that keeps its place in its product adds the same bits to the sums, whichever images are searched with it.

    Args:
        orientations: of all references.
        shifts: that are tried.
    """
    return min(max(1, _SCORES // (orientations * shifts)), _TOGETHER)


def _joined(parts: list[SearchResult]) -> SearchResult:
    """The result of several batches together; the sums of the first are overwritten."""
    first, *others = parts
    if not others:
        return first
    for found in others:
        first.numerator[:] += found.numerator
        first.denominator[:] += found.denominator
    return replace(
        first,
        log_likelihood=np.concatenate([found.log_likelihood for found in parts]),
        places=np.concatenate([found.places for found in parts]),
        evaluated=sum(found.evaluated for found in parts),
    )


def _search(
    images: ImageSpectra, slices: np.ndarray, grid: PoseGrid, radius: float, wanted: SearchRequest
) -> SearchResult:
    """`search` by compiled loops."""
    disc, count = images.disc, len(slices)
    scored = disc.within(radius)
    real, imaginary = (np.ascontiguousarray(2.0 * part[:, :scored]) for part in (np.real(slices), np.imag(slices)))
    power = np.square(np.abs(slices[:, :scored])).astype(np.float32)
    shifts = grid.shifts
    phases = disc.phases(shifts)
    found = SearchResult(
        numerator=np.zeros((count, len(disc)) if wanted.sums else (0, 0), np.complex128),
        denominator=np.zeros((count, len(disc)) if wanted.sums else (0, 0), np.float64),
        log_likelihood=np.empty(len(images)),
        places=np.empty((len(images), wanted.poses, 3), np.int64),
        evaluated=2 * count * len(shifts) * len(images),
    )
    squares = np.square(images.transfer)
    turns = np.ascontiguousarray(grid.rotations.reshape(-1, 9), np.float32)
    step = together(count, len(shifts))
    for start in range(0, len(images), step):
        part = slice(start, min(start + step, len(images)))
        weighted = images.values[part] * images.transfer[part]
        shifted = weighted[:, None, :] * phases
        flat = shifted.reshape(-1, len(disc))[:, :scored]
        a = np.dot(np.ascontiguousarray(np.real(flat)), real.T).reshape(-1, len(shifts), count)
        b = np.dot(np.ascontiguousarray(np.imag(flat)), imaginary.T).reshape(-1, len(shifts), count)
        _collect(found, part, (a, b, squares[part, :scored] @ power.T, turns), shifted, squares[part])
    found.log_likelihood[:] -= np.log(2.0 * count * len(shifts))
    return found


def _collect(found: SearchResult, part: slice, scores: tuple, shifted: np.ndarray, squares: np.ndarray) -> None:
    """Posterior and sums of a chunk of images."""
    plus, minus, norms, turns = scores
    turns = np.resize(turns, (plus.shape[2], 9))  # several references share the grid
    gather = len(found.numerator) > 0
    dense = []
    for j, i in enumerate(range(part.start, part.stop)):
        found.log_likelihood[i], kept = search_kernels.posterior(plus[j], minus[j], norms[j], np.float32(CUTOFF))
        search_kernels.likeliest(plus[j], minus[j], turns, _COSINE, found.places[i])
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
        real, imaginary = np.real(found.numerator), np.imag(found.numerator)  # views
        real += p.T @ np.ascontiguousarray(np.real(values))
        imaginary += m.T @ np.ascontiguousarray(np.imag(values))
        found.denominator[:] += plus[dense].sum(1).T @ squares[dense]


def search_memory(images: int, slices: float, points: float) -> Memory:
    """Memory of a search with sums besides the images: slices, their sums, and the squares and norms of all images.

    Args:
        images: number of images that are searched together.
        slices: number of orientations of all references.
        points: number of Fourier points that are collected.
    """
    return [
        ("squares of the CTF, norms of the slices", images * 4.0 * (points + slices)),
        ("slices of the map and their sums", slices * points * 28.0),
    ]


def search_seconds(images: float, slices: float, shifts: float, points: float) -> float:
    """Rough time of a search on one core."""
    return 4.0 * images * slices * shifts * points / RATE
