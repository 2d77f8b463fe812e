"""View directions and what they sample: density on the sphere, slices through Fourier space, SCF*, efficiency, gaps.

A view along the unit vector d adds a central slice, the plane of Fourier points k with k.d = 0. So d and -d say the
same, and what counts is how many slices pass through each direction of Fourier space. With N views a direction on the
shell of radius K (Fourier voxels) is met by the slices with |k.d| < 1 / (2 K) for unit k: N / (2 K) if the views are
spread evenly.

**SCF** (sampling compensation factor: Baldwin and Lyumkis, Prog. Biophys. Mol. Biol. 150, 2020, 160-183): by how much
uneven sampling lowers the spectral signal-to-noise ratio of a shell compared to even sampling by as many views,

    1 / SCF = <1 / s>,    s = slices through a direction / their mean,

the mean over the sphere. Views spread evenly have 1, views all around one axis 8 / pi^2 = 0.81.

**SCF*** is what their program makes of it where directions have no slice at all: the mean above runs over the share p
of directions that have some, and a share q = 1 - p without lowers it to

    SCF* = SCF / (1 + (q / p) (m / 2) SCF),

m the mean number of slices. It treats an empty direction like one with two slices, and so depends on how many views
there are. Here m is always 100 (10,000 views at K = 50), so that sets of different size compare; and K is lowered from
50 until the actual m is at least 50, so that scatter of few views does not pass for gaps: it lowers SCF by at most 2 %.

**Efficiency** E = 1 - 2 sigma / mean (Naydenova and Russo, Nature Communications 8, 2017, 629), mean and standard
deviation over all directions u of the width R(u) of the point spread function. We take R(u) from the curvature of the
point spread function of the slices at its peak,

    R(u)^-2  proportional to  <(k.u)^2> over the slices  =  (1 - <(d.u)^2>) / 2,

whatever the radial envelope. Their program measures the width of the surface of that function instead; its numbers
are similar and not the same. 1 for even views, 0.79 for views all around an axis, 0 (cut there) for a single view.
"""

import numpy as np
from jaxtyping import Float

SAMPLING_RADIUS = 50.0
"""Fourier voxels: the shell on which slices are counted, as in Baldwin and Lyumkis's program."""

_REFERENCE_SLICES = 100.0
_NSIDE = 16  # 3,072 directions, 3.7 degrees apart


def view_directions(angles_deg: Float[np.ndarray, "views 3"]) -> Float[np.ndarray, "views 3"]:
    """View directions (x, y, z) in the map of (rot, tilt, psi) in degrees: third rows of A."""
    rot, tilt = np.radians(np.asarray(angles_deg, np.float64)[:, :2]).T
    return np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)], 1)


def sphere_grid(nside: int) -> Float[np.ndarray, "pixels 3"]:
    """Unit vectors (x, y, z) to the centers of the HEALPix pixels in ring order."""
    import healpix

    return np.stack(healpix.pix2vec(nside, np.arange(12 * nside**2)), -1)


def relative_density(
    directions: Float[np.ndarray, "views 3"],
    weights: Float[np.ndarray, " views"] | None = None,
    nside: int | None = None,
) -> Float[np.ndarray, " pixels"]:
    """Views in each HEALPix pixel (ring order) relative to an even spread; d and -d are told apart here.

    Args:
        directions: unit vectors.
        weights: of the views.
        nside: of the HEALPix sphere, a power of 2; by default the finest up to 16 with ten views a pixel on average.
    """
    import healpix

    if nside is None:
        nside = next((side for side in (16, 8, 4, 2) if len(directions) >= 120 * side**2), 1)
    pixels = healpix.vec2pix(nside, *np.asarray(directions, np.float64).T)
    counts = np.bincount(pixels, weights, 12 * nside**2).astype(np.float64)
    return counts / counts.mean()


def fourier_sampling(
    directions: Float[np.ndarray, "views 3"],
    weights: Float[np.ndarray, " views"] | None = None,
    radius: float = SAMPLING_RADIUS,
) -> Float[np.ndarray, " directions"]:
    """Slices (summed weights) through each Fourier direction: those with |k.d| < 1 / (2 radius).

    Args:
        directions: unit vectors.
        weights: of the views.
        radius: of the shell, Fourier voxels.

    Returns:
        One number for each pixel of the HEALPix sphere of nside 16, ring order; the same at k and -k.
    """
    grid = sphere_grid(_NSIDE)
    upper = grid[:, 2] >= 0
    weight = np.ones(len(directions)) if weights is None else weights
    total = np.zeros(int(upper.sum()))
    for start in range(0, len(directions), 4096):
        part = slice(start, start + 4096)
        near = np.abs(grid[upper].astype(np.float32) @ np.asarray(directions[part], np.float32).T) < 0.5 / radius
        total += near.astype(np.float32) @ weight[part].astype(np.float32)
    out = np.zeros(len(grid))
    out[upper] = total
    out[~upper] = out[_opposite(grid[~upper])]
    return out


def _opposite(vectors: np.ndarray) -> np.ndarray:
    import healpix

    return np.asarray(healpix.vec2pix(_NSIDE, *(-vectors).T))


def sampling_compensation(sampling: Float[np.ndarray, " directions"]) -> tuple[float, float]:
    """(SCF, SCF*) of the slices through evenly spread Fourier directions; see the module for both definitions."""
    met = sampling > 0
    share = float(met.mean())
    if share == 0.0:
        return 0.0, 0.0
    scf = 1.0 / float(np.mean(sampling.mean() / sampling[met]))
    empty = (1.0 - share) / share
    return scf, scf / (1.0 + 0.5 * _REFERENCE_SLICES * empty * scf)


def efficiency(directions: Float[np.ndarray, "views 3"], weights: Float[np.ndarray, " views"] | None = None) -> float:
    """Efficiency of the orientation distribution, 0 ... 1: 1 - 2 sigma / mean of the point spread function's width."""
    spread = np.cov(np.asarray(directions, np.float64).T, aweights=weights, bias=True)
    mean = np.average(directions, axis=0, weights=weights)
    second = spread + np.outer(mean, mean)  # <d d^T>
    grid = sphere_grid(_NSIDE)
    curvature = 0.5 * (1.0 - np.einsum("pi,ij,pj->p", grid, second, grid))
    width = 1.0 / np.sqrt(np.maximum(curvature, 1e-9))
    return float(np.clip(1.0 - 2.0 * width.std() / width.mean(), 0.0, 1.0))


def largest_gap(directions: Float[np.ndarray, "views 3"]) -> tuple[float, Float[np.ndarray, "3"]]:
    """Angular radius in degrees and center of the largest cap without a view along d or -d, to about 2 degrees."""
    from scipy.spatial import KDTree

    grid = sphere_grid(_NSIDE)
    grid = grid[grid[:, 2] >= 0]
    chord, _ = KDTree(np.concatenate([directions, -np.asarray(directions)])).query(grid)
    widest = int(np.argmax(chord))
    return float(np.degrees(2.0 * np.arcsin(min(1.0, 0.5 * chord[widest])))), grid[widest]
