"""The density as a stochastic problem: voxels are the parameters, particle images the items, poses and noise are known.

    J(V) = mean over images i of 1/(2 n^2) sum_k |y_i(k) - CTF_i(k) (P V)(A_i^T k)|^2 / sigma^2(k)
           + <V, T V> / (2 N n^2)

over the whole Fourier disc of an n x n image; N images, T the prior precision 1 / tau^2 as an operator on voxels. The
second term does not depend on the image, so the whole is a mean over items. Up to the interpolation, the minimizer is
the direct solve of `reconstruction.py` with the same precision. The Hessian is nearly diagonal in Fourier space: (W +
T) with W the gridded CTF^2 weight; its inverse is the preconditioner, without which plain gradient descent stalls at
high resolution (the weights span decades).

The gradient is written by hand with the projector's adjoint; autograd would store the eight corners of every point.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

import sciml
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import ctf, fourier
from sciml_cryoem.imaging.projection import Projector, correct_gridding
from sciml_cryoem.reconstruction.accumulation import HalfSetSums, positive
from sciml_cryoem.reconstruction.image_spectra import whitened_values
from sciml_cryoem.reconstruction.images import views_of

CHUNK = 1 << 19  # Fourier points whose residuals are in memory at once
MEMORY_MB = 2048.0  # of Fourier values; beyond it, images are read from disk whenever they are drawn

FLOOR = 0.05
"""Prior precision of half maps as a fraction of the mean weight of the shell. A batch sees few of the images that fill
a sparse Fourier voxel; with the floor of the direct path (.001) its noisy Hessian there exceeds the preconditioner and
the steps diverge."""


class Density(torch.nn.Module):
    """A real density on a cubic grid.

    Attributes:
        voxels: the parameter, (n, n, n) float32, axes z y x, origin at n // 2, in the units of the images.
        projector: central slices of it.
    """

    def __init__(self, size: int, start: Float[np.ndarray, "n n n"] | None = None) -> None:
        """A density of zeros, or a start map of side `size`."""
        super().__init__()
        voxels = torch.zeros(size, size, size) if start is None else torch.from_numpy(np.array(start, np.float32))
        self.voxels = torch.nn.Parameter(voxels)
        self.projector = Projector(size)

    def forward(self, axes: Float[Tensor, "batch 2 3"]) -> Complex[Tensor, "batch points"]:
        """Fourier values of the projections."""
        return self.projector.slices(self.projector.spectrum(self.voxels), axes)


@dataclasses.dataclass(frozen=True)
class ImageBatch:
    """Particle images as whitened Fourier values on the half plane, with what predicts them.

    Attributes:
        values: (batch, points) complex64, whitened (`image_spectra.whitened_values`), offsets undone.
        axes: (batch, 2, 3) directions of kx and ky.
        ctf: (batch, 10) coefficients.
        groups: (batch,) optics group, from 0.
    """

    values: Complex[Tensor, "batch points"]
    axes: Float[Tensor, "batch 2 3"]
    ctf: Float[Tensor, "batch 10"]
    groups: Int[Tensor, " batch"]

    def take(self, which: slice) -> "ImageBatch":
        """Some of the images."""
        return ImageBatch(self.values[which], self.axes[which], self.ctf[which], self.groups[which])


class DensityProblem(sciml.Problem[Density, ImageBatch]):
    """Find the density that explains particle images with known poses, under a Fourier-diagonal prior.

    Attributes:
        size: number of images.
        precision: 1 / tau^2 in each shell.
    """

    size: int

    def __init__(
        self,
        particles: Particles,
        half_sums: HalfSetSums,
        half: int | None = None,
        precision: Float[np.ndarray, " shells"] | None = None,
        use_ctf: bool = True,
    ) -> None:
        """State the problem.

        Args:
            particles: where images are read.
            half_sums: half sets, noise and weights of the same particles; the sums of their pixels are not used.
            half: 1 or 2 for the images of one half set; None for all.
            precision: 1 / tau^2 in each shell, as from `reconstruction.prior_precision`; None: `FLOOR` of the mean
                weight of the shell.
            use_ctf: False for images without a CTF.
        """
        self.particles, self.noise = particles, half_sums.noise
        self.which = np.arange(len(particles)) if half is None else np.flatnonzero(half_sums.halves == half)
        self.views = views_of(particles, use_ctf).take(self.which)
        self.size = len(self.which)
        self.plane = Projector(particles.box).plane
        sums = half_sums.sums if half is None else (half_sums.sums[half - 1],)
        if precision is None:
            precision = positive(FLOOR * np.sum([part.shell_weights() for part in sums], 0))
        self.precision = precision
        radius = np.sqrt(fourier.squared_radii(particles.box, 3))
        self._prior = np.interp(radius, np.arange(len(precision)), precision)
        weights = np.sum([part.grid[..., 2] for part in sums], 0)
        self._hessian = np.maximum(fourier.optimal_circulant(weights, particles.box), 0.0) + self._prior
        self._tables: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}

    @cached_property
    def _scale(self) -> float:
        """Images times pixels: what divides the sums over all images."""
        return float(self.size) * self.particles.box**2

    @cached_property
    def _in_memory(self) -> Tensor | None:
        """Fourier values of all images, if they fit."""
        if 8.0 * self.size * len(self.plane) > MEMORY_MB * 2**20:
            return None
        step = max(1, 2**22 // self.particles.box**2)
        parts = [self._read(np.arange(i, min(i + step, self.size))) for i in range(0, self.size, step)]
        return torch.cat(parts)

    def _read(self, picked: np.ndarray) -> Complex[Tensor, "batch points"]:
        rows = self.which[picked]
        images = self.particles.images(rows)
        self.particles.check_finite(images, rows)
        views = self.views.take(picked)
        return torch.from_numpy(whitened_values(images, self.plane, self.noise, views.groups, views.offsets))

    def sample(self, size: int | None, generator: torch.Generator) -> ImageBatch:
        """Images drawn without replacement; None for all of them."""
        if size is None or size >= self.size:
            picked = np.arange(self.size)
        else:
            # In ascending order, because neighbors in a stack are read together.
            picked = np.sort(torch.randperm(self.size, generator=generator)[:size].numpy())
        memory, views = self._in_memory, self.views.take(picked)
        if memory is not None:
            values = memory if len(picked) == self.size else memory[torch.from_numpy(picked)]
        else:
            values = self._read(picked)
        return ImageBatch(
            values=values,
            axes=torch.from_numpy(views.axes),
            ctf=torch.from_numpy(views.ctf),
            groups=torch.from_numpy(views.groups.astype(np.int64)),
        )

    def _table(self, like: Tensor) -> dict[str, Tensor]:
        """The constants of the problem where the model is, in its precision."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            arrays = {
                "kx": self.plane.kx,
                "ky": self.plane.ky,
                "whitening": self.noise.whitening[:, self.plane.shell],
                "prior": self._prior,
                "hessian": self._hessian,
                "roll_off": 1.0 / correct_gridding(np.ones((self.particles.box,) * 3), 2),
            }
            self._tables[key] = {name: torch.from_numpy(np.asarray(a)).to(like) for name, a in arrays.items()}
        return self._tables[key]

    def _residual(self, model: Density, batch: ImageBatch, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened CTF and residual of each point of each image."""
        table = self._table(model.voxels)
        transfer = ctf.evaluate(batch.ctf.to(model.voxels), table["kx"], table["ky"]) * table["whitening"][batch.groups]
        predicted = model.projector.slices(spectrum, batch.axes.to(model.voxels))
        return transfer, predicted * transfer - batch.values.to(predicted)

    def _prior_gradient(self, voxels: Tensor) -> Tensor:
        """T V / (N n^2), with T acting on the grid of the box: P^3 F^-1 [1/tau^2 F V], P the padded side."""
        spectrum = fourier.transform(voxels, 3) * self._table(voxels)["prior"]
        padded = self.particles.box * 2
        return fourier.inverse_transform(spectrum, voxels.shape[0], 3) * (float(padded) ** 3 / self._scale)

    def _data(self, model: Density, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Mean misfit and its gradient, shape of the voxels; a few images at a time."""
        voxels, images, pixels = model.voxels.detach(), len(batch.groups), float(self.particles.box) ** 2
        spectrum, grid = model.projector.spectrum(voxels), None
        total, step = 0.0, max(1, CHUNK // len(self.plane))
        for start in range(0, images, step):
            part = batch.take(slice(start, start + step))
            transfer, residual = self._residual(model, part, spectrum)
            # Sum in float64: a line search compares losses that differ by less than float32 resolves.
            squares = torch.view_as_real(residual).square().sum((1, 2))
            total = total + squares.sum(dtype=torch.float64)
            slices = residual * transfer * (2.0 / (images * pixels))
            grid = model.projector.add_slices(slices, part.axes.to(voxels), grid)
        return torch.as_tensor(total / (pixels * images)), model.projector.volume(grid)

    @torch.no_grad()
    def _evaluate(self, model: Density, batch: ImageBatch) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Both terms, and the gradient of each."""
        voxels = model.voxels.detach()
        data, gradient = self._data(model, batch)
        prior = self._prior_gradient(voxels)
        return {"data": data, "prior": 0.5 * (voxels * prior).sum(dtype=torch.float64)}, [gradient, prior]

    def loss(self, model: Density, batch: ImageBatch) -> Mapping[str, Tensor]:
        """Terms `data` (half the weighted square of the residual per pixel) and `prior`; differentiable."""
        data, prior = _ByHand.apply(model.voxels, self, model, batch)
        return {"data": data, "prior": prior}

    def gradient(self, model: Density, batch: ImageBatch) -> tuple[Mapping[str, Tensor], Tensor]:
        """The terms and the flat gradient of their sum, by the adjoint of the projector."""
        terms, gradients = self._evaluate(model, batch)
        return terms, (gradients[0] + gradients[1]).reshape(-1)

    def preconditioner(self, model: Density) -> Callable[[Tensor], Tensor]:
        """Flat voxels -> D F^-1 [F D v / (W + 1/tau^2)], times the number of pixels: close to the inverse Hessian.

        D, the roll-off of the interpolation, is 1 in the middle of the box. At its corners, where interpolation errors
        raise the Hessian, it keeps the largest eigenvalue of preconditioner times Hessian below 2, so that a step of 1
        is stable.
        """
        size = self.particles.box
        table = self._table(model.voxels)
        hessian, roll_off = table["hessian"], table["roll_off"]
        factor = self._scale / (2.0 * size) ** 3

        def apply(vector: Tensor) -> Tensor:
            spectrum = fourier.transform(vector.reshape(size, size, size) * roll_off, 3) / hessian
            return (fourier.inverse_transform(spectrum, size, 3) * roll_off).reshape(-1) * factor

        return apply


class _ByHand(torch.autograd.Function):
    """The terms of the loss with the gradient that `DensityProblem` computes, for autograd."""

    @staticmethod
    def forward(  # type: ignore[override]
        context: Any, voxels: Tensor, problem: DensityProblem, model: Density, batch: ImageBatch
    ) -> tuple[Tensor, Tensor]:
        terms, gradients = problem._evaluate(model, batch)
        context.save_for_backward(*gradients)
        return terms["data"], terms["prior"]

    @staticmethod
    def backward(context: Any, data: Tensor, prior: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        of_data, of_prior = context.saved_tensors
        return data.to(of_data) * of_data + prior.to(of_prior) * of_prior, None, None, None
