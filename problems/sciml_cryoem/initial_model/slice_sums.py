"""Slices added up in a padded half grid, and what such sums mean for the voxels of a map: the projector's adjoint."""

import numpy as np
from jaxtyping import Complex, Float

from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.projection import correct_gridding
from sciml_cryoem.imaging.symmetry import symmetrize_sums
from sciml_cryoem.poses import search_kernels
from sciml_cryoem.reconstruction.insertion import complete


class SliceSums:
    """Half grids of (real part, imaginary part, weight), twice as fine as the Fourier grid of a map's box.

    Args:
        side: of the box.
        disc: the points of the slices.
        group: of the map.
    """

    def __init__(self, side: int, disc: Disc, group: Float[np.ndarray, "order 3 3"]) -> None:
        self._side, self._disc, self._group = side, disc, group

    def empty(self, classes: int) -> list[Float[np.ndarray, "P P half 3"]]:
        """A grid for each class; float64: see `SearchResult`."""
        padded = 2 * self._side
        return [np.zeros((padded, padded, padded // 2 + 1, 3)) for _ in range(classes)]

    def add(
        self,
        grid: Float[np.ndarray, "P P half 3"],
        axes: Float[np.ndarray, "n 2 3"],
        values: Complex[np.ndarray, "n points"],
        weights: Float[np.ndarray, "n points"],
    ) -> None:
        """Add slices up to any radius, and their weights, to a grid."""
        disc, points = self._disc, values.shape[-1]
        search_kernels.insert_slices(grid, axes, disc.kx[:points], disc.ky[:points], values, weights)

    def completed(self, grid: Float[np.ndarray, "P P half 3"]) -> Float[np.ndarray, "P P half 3"]:
        """A grid with what lies beyond its edges, and as symmetric as the group; changes it."""
        complete(grid)
        if len(self._group) == 1:
            return grid
        # A mean, not a sum: the posterior of an image is one, however many views are the same.
        return symmetrize_sums(grid, self._group) / np.float32(len(self._group))

    def weight(self, weights: Float[np.ndarray, "P P half"]) -> Float[np.ndarray, "m m half2"]:
        """Weight of each Fourier voxel of the box, from the weights of a complete grid."""
        return np.maximum(fourier.optimal_circulant(weights, self._side), 0.0)

    def adjoint(self, grid: Float[np.ndarray, "P P half 3"]) -> Float[np.ndarray, "m m m"]:
        """From a complete grid, which holds every slice point and its Friedel mate, to the voxels."""
        values = grid[..., 0] + 1j * grid[..., 1]
        side, padded = self._side, 2.0 * self._side
        return correct_gridding(fourier.inverse_transform_cropped(values, side), 2) * (0.5 * padded**3)
