"""From summed slices back to a map as a gradient, and the preconditioner that turns such a gradient into a step.

The data term of one image, sum over a half plane of |t P(k) - y(k)|^2 with P a slice of the padded transform of a map,
has the gradient 2 G' (t^2 P - t y) with respect to the map, G' the transpose of cutting a slice. Summed over images,
slices first: `back_project`. Its Hessian is close to a convolution with the summed weights t^2: `precondition` divides
by them and by a prior precision in the Fourier space of the box (a circulant preconditioner, `optimal_circulant`).
"""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.projection import correct_gridding


def back_project(grid: Float[np.ndarray, "P P half 3"], size: int) -> Float[np.ndarray, "n n n"]:
    """Gradient, with respect to a map on `size` voxels, of half the squared misfit of the summed slices.

    Args:
        grid: complete sums (`insertion.complete`) of side P = twice the side of a box that spans that of the map; real
            and imaginary part of t^2 P - t y, and the weight, which is not used.
        size: voxels along the side of the map.
    """
    side = len(grid) // 2
    volume = fourier.inverse_transform_cropped(grid[..., 0] + 1j * grid[..., 1], side)
    gradient = correct_gridding(volume, 2) * (0.5 * float(2 * side) ** 3)
    # The map was resampled to this side, which keeps its transform: the transpose divides by the ratio of volumes.
    return fourier.resample(gradient, size) * np.float32((size / side) ** 3)


def box_weights(grid: Float[np.ndarray, "P P half 3"], size: int) -> Float[np.ndarray, "n n half2"]:
    """The weights of complete sums averaged to the Fourier voxels of a box of `size`, never negative; zero beyond the
    side of the sums."""
    table = fourier.optimal_circulant(grid[..., 2], len(grid) // 2)
    return np.maximum(fourier.resize_half(table, size), 0.0).astype(np.float32)


def apply_in_fourier(maps: Tensor, table: Tensor) -> Tensor:
    """(2n)^3 D^-1 F^-1 [table F D^-1 V], D the correction of the gridding: the inverse of `precondition`.

    The slices of a map are read from the transform of D^-1 V. A prior in the same terms adds to the weights voxel by
    voxel, however steep it is; without D^-1 a steep one would leak into the neighboring shells.

    Args:
        maps: (maps, n, n, n).
        table: (maps, n, n, n // 2 + 1), in FFT order.
    """
    side, line = maps.shape[-1], 1.0 / _roll_off(maps)
    spectrum = fourier.transform(maps * line, 3) * table
    return fourier.inverse_transform(spectrum, side, 3) * line * float(2 * side) ** 3


def precondition(gradient: Tensor, table: Tensor) -> Tensor:
    """D F^-1 [F D g / table] / (2n)^3, D the correction of the gridding: the step that a gradient asks for.

    Args:
        gradient: (maps, n, n, n), in the units of `back_project`.
        table: (maps, n, n, n // 2 + 1) weights plus prior precision, positive.
    """
    side, line = gradient.shape[-1], _roll_off(gradient)
    spectrum = fourier.transform(gradient * line, 3) / table
    return fourier.inverse_transform(spectrum, side, 3) * line / float(2 * side) ** 3


def _roll_off(like: Tensor) -> Tensor:
    """The correction of the gridding at each voxel of a map, at most 1."""
    return like.new_tensor(1.0 / correct_gridding(np.ones((like.shape[-1],) * 3, np.float32), 2))
