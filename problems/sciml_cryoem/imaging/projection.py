"""The Fourier-slice projector and its exact adjoint, for numpy arrays (compiled loops) and torch tensors (any device).

P takes a real volume and rotations to the Fourier values of its projections on a `HalfPlane`: the volume is multiplied
by the gridding correction, padded with zeros (by 2), transformed, and read by trilinear interpolation on central
slices. Interpolating in Fourier space multiplies the density by sinc^2(x) sinc^2(y) sinc^2(z) (arguments over the
padded size); the correction is the inverse of exactly that. Measured accuracy: see the README.

The adjoint is the transpose of every step, so <P v, y> = <v, P' y> to rounding, with the real inner product Re sum
conj(a) b in which each point of the half plane counts once.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Complex, Float

from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.half_plane import HalfPlane
from sciml_cryoem.imaging.rotations import slice_axes


def gridding_correction(size: int, padding: int) -> Float[np.ndarray, " size"]:
    """Inverse of the roll-off of linear interpolation along one axis, 1 / sinc^2(x / (size * padding)), float64."""
    positions = np.arange(size) - size // 2
    return np.sinc(positions / (size * padding)) ** -2.0


def correct_gridding(volume: Any, padding: int) -> Any:
    """Multiply a volume (numpy or torch) by the separable correction along its three axes."""
    line = gridding_correction(volume.shape[-1], padding)
    if not isinstance(volume, np.ndarray):
        import torch

        line = torch.from_numpy(line)
        line = line.to(volume)
    else:
        line = line.astype(volume.dtype)
    return volume * line[:, None, None] * line[None, :, None] * line[None, None, :]


def central_slices(
    spectrum: Complex[np.ndarray, "P P half"],
    rotations: Float[np.ndarray, "batch 3 3"],
    plane: HalfPlane,
    padding: int = 2,
) -> Complex[np.ndarray, "batch points"]:
    """Central slices of a padded half spectrum at the points of a plane, complex64.

    The spectrum may be cropped in Fourier space: a step of its grid is 1 / padding of a frequency of the images.
    """
    from sciml_cryoem.imaging import kernels

    slices = np.empty((len(rotations), len(plane)), np.complex64)
    kernels.gather(spectrum, slice_axes(rotations, padding), plane.kx, plane.ky, slices)
    return slices


@dataclass(frozen=True)
class Projector:
    """Projections of a size^3 volume on the half plane |k| < radius.

    Attributes:
        size: box of the volume and of the images.
        padding: factor of zero padding; padding * size must be even.
        radius: of the Fourier disc, at most size / 2 (the default).
    """

    size: int
    padding: int = 2
    radius: float | None = None

    def __post_init__(self) -> None:
        if self.padding < 1 or (self.padding * self.size) % 2:
            raise ValueError(f"padding {self.padding} times box {self.size} must be positive and even")

    @cached_property
    def plane(self) -> HalfPlane:
        """The Fourier points of each projection."""
        return HalfPlane(self.size, self.radius)

    def spectrum(self, volume: Any) -> Any:
        """Padded half spectrum of a volume, ready for `slices`; (P, P, P/2 + 1) with P = padding * size."""
        if tuple(volume.shape) != (self.size,) * 3:
            raise ValueError(f"the volume has shape {tuple(volume.shape)}, the projector wants {(self.size,) * 3}")
        return fourier.transform_padded(correct_gridding(volume, self.padding), self.padding * self.size)

    def volume(self, spectrum: Any) -> Any:
        """Transpose of `spectrum`."""
        return correct_gridding(fourier.adjoint_transform_padded(spectrum, self.size), self.padding)

    def slices(self, spectrum: Any, axes: Any) -> Any:
        """Read central slices.

        Args:
            spectrum: from `spectrum`.
            axes: (batch, 2, 3) directions of kx and ky (`rotations.slice_axes`), same kind, precision and device.

        Returns:
            Complex (batch, points).
        """
        if isinstance(spectrum, np.ndarray):
            from sciml_cryoem.imaging import kernels

            real = spectrum.real.dtype
            out = np.empty((len(axes), len(self.plane)), spectrum.dtype)
            scaled = np.ascontiguousarray(axes, real) * real.type(self.padding)
            kernels.gather(spectrum, scaled, self.plane.kx.astype(real), self.plane.ky.astype(real), out)
            return out
        from sciml_cryoem.imaging import torch_kernels

        return torch_kernels.gather(spectrum, axes * self.padding, *self._points(axes))

    def add_slices(self, values: Any, axes: Any, grid: Any = None) -> Any:
        """Transpose of `slices`: the half spectrum that receives the values (batch, points) of central slices.

        Args:
            values: complex (batch, points).
            axes: as for `slices`.
            grid: a half spectrum to add to, in place; None for a new one.
        """
        padded = self.padding * self.size
        shape = (padded, padded, padded // 2 + 1)
        if isinstance(values, np.ndarray):
            from sciml_cryoem.imaging import kernels

            real = values.real.dtype
            grid = np.zeros(shape, values.dtype) if grid is None else grid
            scaled = np.ascontiguousarray(axes, real) * real.type(self.padding)
            kernels.scatter(grid, scaled, self.plane.kx.astype(real), self.plane.ky.astype(real), values)
            return grid
        from sciml_cryoem.imaging import torch_kernels

        grid = values.new_zeros(shape) if grid is None else grid
        torch_kernels.scatter(grid, values, axes * self.padding, *self._points(axes))
        return grid

    def _points(self, like: Any) -> tuple[Any, Any]:
        import torch

        return torch.from_numpy(self.plane.kx).to(like), torch.from_numpy(self.plane.ky).to(like)

    def forward(
        self, volume: Float[np.ndarray, "n n n"], matrices: Float[np.ndarray, "batch 3 3"]
    ) -> Complex[np.ndarray, "batch points"]:
        """P: Fourier values of the projections of a volume along rotation matrices."""
        return self.slices(self.spectrum(volume), np.asarray(matrices)[:, :2, :])

    def adjoint(
        self, values: Complex[np.ndarray, "batch points"], matrices: Float[np.ndarray, "batch 3 3"]
    ) -> Float[np.ndarray, "n n n"]:
        """P': transpose of `forward`."""
        return self.volume(self.add_slices(values, np.asarray(matrices)[:, :2, :]))

    def images(
        self, volume: Float[np.ndarray, "n n n"], matrices: Float[np.ndarray, "batch 3 3"]
    ) -> Float[np.ndarray, "batch n n"]:
        """Real-space projections, band-limited to the Fourier disc; origin at n // 2."""
        return self.plane.scatter(self.forward(volume, matrices))
