"""Particle images with known poses added up as weighted Fourier sums: right-hand side and diagonal of least squares.

For each image point the CTF, the particle's offset and the noise weight are applied on the fly, and three numbers are
spread over the eight corners of a cell of a padded (by 2) half grid: CTF * F / sigma^2 (real, imaginary) and CTF^2 /
sigma^2. One grid a half set. On the CPU the loop is compiled (`kernels.insert`); on a GPU, and where numba does not
import, torch adds the same numbers.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.half_plane import HalfPlane


@dataclass(frozen=True)
class Views:
    """Pose, CTF and noise group of each particle.

    Attributes:
        axes: (particles, 2, 3) float32, directions of kx and ky in the map (`rotations.slice_axes`).
        offsets: (particles, 2) origin offsets (x, y) in pixels; the image is the projection moved by minus these.
        ctf: (particles, 10) float32, `CTF.coefficients`.
        groups: (particles,) index of the optics group, from 0.
    """

    axes: Float[np.ndarray, "particles 2 3"]
    offsets: Float[np.ndarray, "particles 2"]
    ctf: Float[np.ndarray, "particles 10"]
    groups: Int[np.ndarray, " particles"]

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, which: Int[np.ndarray, " some"] | slice) -> "Views":
        """The views of some particles, in that order."""
        return Views(self.axes[which], self.offsets[which], self.ctf[which], self.groups[which])


@dataclass
class FourierSums:
    """Weighted sums over one set of images.

    Attributes:
        size: box in pixels.
        weights: (groups, shells) of an independent Fourier point (`NoiseModel.weights`); shells 0 ... size // 2.
        padding: of the grid.
        device: "cpu" for the compiled loop; "torch" for torch on the CPU; else a torch device such as "cuda".
        grid: (P, P, P/2 + 1, 3) float32: real part, imaginary part, weight. Complete after `finish`.
    """

    size: int
    weights: Float[np.ndarray, "groups shells"]
    padding: int = 2
    device: str = "cpu"
    grid: Any = field(init=False)
    images: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        padded = self.padding * self.size
        if padded % 2:
            raise ValueError(f"padding {self.padding} times box {self.size} must be even")
        self.plane = HalfPlane(self.size)
        shape = (padded, padded, padded // 2 + 1, 3)
        self.weights = np.ascontiguousarray(self.weights, np.float32)
        if self.device == "cpu":
            self.grid = np.zeros(shape, np.float32)
            points = (self.plane.rows, self.plane.columns, self.plane.ky, self.plane.shell)
            self._points = np.stack(points).astype(np.int32)
        else:
            import torch

            self._device = torch.device("cpu" if self.device == "torch" else self.device)
            self.grid = torch.zeros(shape, device=self._device)

    def add(self, images: Float[np.ndarray, "batch n n"], views: Views) -> None:
        """Insert a batch of float32 images."""
        if images.shape[1:] != (self.size, self.size) or len(images) != len(views):
            raise ValueError(f"images {images.shape} do not fit {len(views)} views in a box of {self.size}")
        self.images += len(images)
        if self.device == "cpu":
            self._add_compiled(images, views)
        else:
            self._add_torch(images, views)

    def _add_compiled(self, images: np.ndarray, views: Views) -> None:
        from sciml_cryoem.imaging import kernels

        spectra = fourier.corner_transform(images)
        axes = np.ascontiguousarray(views.axes * np.float32(self.padding), np.float32)
        table = np.ascontiguousarray(views.ctf, np.float32)
        groups = views.groups.astype(np.int64)
        ramps = self.plane.ramps(views.offsets)
        kernels.insert(self.grid, spectra, ramps, axes, table, groups, self.weights, self._points)

    def _add_torch(self, images: np.ndarray, views: Views) -> None:
        import torch

        from sciml_cryoem.imaging import torch_kernels

        def send(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

        plane = self.plane
        columns, rows = (send(ramp) for ramp in plane.ramps(views.offsets))
        row, column = send(plane.rows), send(plane.columns)
        spectra = torch.fft.rfft2(send(images))
        values = spectra[:, row, column] * columns[:, column] * rows[:, row]
        weights = send(self.weights)[send(views.groups.astype(np.int64))][:, send(plane.shell)]
        axes, table = send(views.axes.astype(np.float32)) * self.padding, send(views.ctf.astype(np.float32))
        torch_kernels.insert(self.grid, values, axes, table, weights, (send(plane.kx), send(plane.ky)))

    def finish(self) -> None:
        """Bring the grid to the CPU and `complete` it; call once, after the last `add`."""
        if not isinstance(self.grid, np.ndarray):
            self.grid = self.grid.cpu().numpy()
        complete(self.grid)

    def solve(self, precision: Float[np.ndarray, " shells"], *others: "FourierSums") -> Float[np.ndarray, "n n n"]:
        """The map from these sums (and others on the same grid): (sum of values) / (sum of weights + prior precision).

        Args:
            precision: prior precision 1 / tau^2 at integer radii 0 ... size // 2, positive, in units of the weights.
        """
        from sciml_cryoem.imaging import kernels
        from sciml_cryoem.imaging.projection import correct_gridding

        out = np.empty(self.grid.shape[:3], np.complex64)
        grids = (self.grid, *(other.grid for other in others))
        # One shell beyond the last, so that the last has data up to its outer edge.
        table = np.append(precision, precision[-1]).astype(np.float32)
        kernels.divide(grids, table, float(self.padding), out)
        return correct_gridding(fourier.inverse_transform_cropped(out, self.size), self.padding)

    def shell_weights(self) -> Float[np.ndarray, " shells"]:
        """Mean weight of the grid voxels in each shell 0 ... size // 2, float64."""
        from sciml_cryoem.imaging import kernels

        total, number = kernels.shell_sums(self.grid, float(self.padding), self.size // 2 + 1)
        return total / np.maximum(number, 1)


def complete(grid: Float[np.ndarray, "P P half 3"]) -> None:
    """Complete the first and the last plane of summed slices, in place.

    A point next to the plane x = 0, or to the Nyquist plane, has a Friedel mate beyond it, whose corners on that plane
    were not added.
    """
    for column in (0, -1):
        plane = grid[:, :, column, :]
        values = fourier.hermitian_part(plane[..., 0] + 1j * plane[..., 1], 2) * 2.0
        plane[..., 2] = 2.0 * fourier.hermitian_part(plane[..., 2], 2)
        plane[..., 0], plane[..., 1] = values.real, values.imag
