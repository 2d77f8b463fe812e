"""Continuous refinement of poses: Levenberg-Marquardt over rotation and offset of each image against a reference.

For image values y, transfer c (CTF over the noise's deviation), reference transform F, rotation A, offset o, scale a:

    misfit(A, o, a) = sum_k m_k |y(k) - a c(k) exp(2 pi i k.o / n) F(A^T k)|^2,    m = 2, and 1 at the origin

over the points of a half plane. Noise of power 1 has E|noise|^2 = 1 at each point, and a point of multiplicity 2 is
complex: the log-likelihood is minus half the misfit, and the Gauss-Newton matrix sum m Re conj(J) J its negative
Hessian, whose inverse is the (Laplace) covariance. Rotations change by A <- exp([w]) A: w is in the axes of the view,
its third component a turn in the image plane. The scale is eliminated (its best value is a closed form).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sciml_cryoem.imaging.fourier import HalfPlane
from sciml_cryoem.imaging.threads import in_threads

_THREAD = 32  # starts that are worth a thread


@dataclass(frozen=True)
class PolishOptions:
    """When to stop, and what is free.

    Attributes:
        tolerance_deg: a step that turns less, and moves less than `tolerance`, is the last.
        tolerance: in pixels.
        gain: a step that promises to raise the log-likelihood by less is the last; .01 is .14 standard deviations.
        evaluations: of the misfit of an image, at most; a Levenberg-Marquardt step costs one.
        scale: whether each image has a free scale.
        scale_range: its bounds.
        step_deg: longest turn of one step.
        step: longest move of one step, pixels.
        damping: of the first step, as a fraction of the diagonal.
    """

    tolerance_deg: float = 0.02
    tolerance: float = 0.005
    gain: float = 0.01
    evaluations: int = 20
    scale: bool = False
    scale_range: tuple[float, float] = (0.25, 4.0)
    step_deg: float = 6.0
    step: float = 2.0
    damping: float = 1e-2


@dataclass(frozen=True)
class Reference:
    """A map to compare with, as its transform near the origin.

    Attributes:
        spectrum: padded half spectrum (P, P, P/2 + 1) from `Projector.spectrum`, axes z y x, z and y in FFT order. One
            cropped in Fourier space will do, too: a step of the grid is 1 / padding of a frequency of the images.
            numpy array; for torch a tensor will do.
        plane: the Fourier points of the images, at which they are compared.
        padding: of the spectrum.
    """

    spectrum: Any
    plane: HalfPlane
    padding: int = 2

    def __post_init__(self) -> None:
        side = self.spectrum.shape[0]
        if side % 2 or tuple(self.spectrum.shape) != (side, side, side // 2 + 1):
            raise ValueError(f"a half spectrum of even side is wanted, not one of shape {tuple(self.spectrum.shape)}")
        if self.padding * self.extent > side / 2:
            raise ValueError(f"a spectrum of side {side} at padding {self.padding} ends before |k| = {self.extent:.1f}")

    @property
    def extent(self) -> float:
        """Largest |k| of the points."""
        return math.sqrt(float(np.max(self.plane.kx**2 + self.plane.ky**2)))

    @cached_property
    def grid(self) -> Float[np.ndarray, "S S X 2"]:
        """What the slices can touch, origin in the middle of z and y, real and imaginary parts; float32."""
        from sciml_cryoem.poses import polish_kernels

        reach = int(self.padding * self.extent) + 1
        out = np.empty((2 * reach + 2, 2 * reach + 2, reach + 2, 2), np.float32)
        polish_kernels.crop(self.spectrum, out)
        return out

    @cached_property
    def points(self) -> Float[np.ndarray, "3 points"]:
        """kx, ky and the root of the multiplicity of each point, float32."""
        return np.stack([self.plane.kx, self.plane.ky, np.sqrt(self.plane.multiplicity)]).astype(np.float32)

    @cached_property
    def reach(self) -> int:
        """Largest |kx| or |ky|."""
        return int(max(self.plane.kx.max(), np.abs(self.plane.ky).max()))

    @cached_property
    def index(self) -> Int[np.ndarray, "3 points"]:
        """kx, ky + reach and shell of each point, int32."""
        rows = np.rint(self.plane.ky).astype(np.int32) + self.reach
        return np.stack([self.plane.columns, rows, self.plane.shell]).astype(np.int32)

    def within(self, radius: float) -> "Reference":
        """The same reference for the points |k| < radius only."""
        return replace(self, plane=HalfPlane(self.plane.size, min(radius, self.plane.size / 2)))


@dataclass(frozen=True)
class Observed:
    """Whitened images and what they passed through.

    Attributes:
        values: Fourier values divided by the noise's deviation, origin at n // 2, offsets not undone
            (`HalfPlane.gather` without offsets); complex (images, points), numpy array; for torch a tensor will do.
        ctf: `CTF.coefficients`.
        groups: optics group of each image, from 0.
        whitening: 1 / deviation of the noise at a Fourier point, in each shell from 0 (root of `NoiseModel.weights`).
    """

    values: Any
    ctf: Float[np.ndarray, "images 10"]
    groups: Int[np.ndarray, " images"]
    whitening: Float[np.ndarray, "groups shells"]

    def __len__(self) -> int:
        return len(self.values)

    def within(self, plane: HalfPlane, radius: float) -> "Observed":
        """Only the points |k| < radius of those of `plane`, as in `Reference.within`."""
        keep = plane.kx**2 + plane.ky**2 < radius**2
        return replace(self, values=np.ascontiguousarray(self.values[:, keep]))

    def take(self, which: Int[np.ndarray, " some"] | slice) -> "Observed":
        """Some of the images."""
        return replace(self, values=self.values[which], ctf=self.ctf[which], groups=self.groups[which])


@dataclass(frozen=True)
class Polished:
    """Refined poses.

    Attributes:
        rotations: matrices A, float64.
        offsets: (x, y) in pixels.
        scale: of each image; 1 where it was not free.
        misfit: at the end.
        gain: by how much the log-likelihood rose, half the fall of the misfit; never negative.
        covariance: of (rotation vector in the axes of the view, radian; offset, pixels), from the Gauss-Newton matrix;
            infinite on the diagonal where the image says nothing.
        iterations: evaluations of the misfit.
    """

    rotations: Float[np.ndarray, "n 3 3"]
    offsets: Float[np.ndarray, "n 2"]
    scale: Float[np.ndarray, " n"]
    misfit: Float[np.ndarray, " n"]
    gain: Float[np.ndarray, " n"]
    covariance: Float[np.ndarray, "n 5 5"]
    iterations: Int[np.ndarray, " n"]

    def take(self, which: Int[np.ndarray, " some"]) -> "Polished":
        """Some of them."""
        return Polished(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def replaced(self, which: Int[np.ndarray, " some"], others: "Polished") -> "Polished":
        """These with some replaced by others."""
        out = Polished(*(np.array(getattr(self, name)) for name in self.__dataclass_fields__))
        for name in self.__dataclass_fields__:
            getattr(out, name)[which] = getattr(others, name)
        return out

    def or_better(self, other: "Polished") -> "Polished":
        """Of two refinements of the same images, the one with the smaller misfit of each image."""
        better = other.misfit < self.misfit
        pairs = [(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__]
        return Polished(*(np.where(better.reshape(-1, *([1] * (a.ndim - 1))), b, a) for a, b in pairs))


def polish(
    reference: Reference,
    images: Observed,
    rotations: Float[np.ndarray, "n 3 3"],
    offsets: Float[np.ndarray, "n 2"],
    options: PolishOptions | None = None,
    device: str = "cpu",
) -> Polished:
    """Refine the pose of every image (see the module). On the CPU in threads, one a core.

    Args:
        reference: map and points.
        images: at the same points.
        rotations: where to start.
        offsets: where to start, pixels; RELION's sign (`HalfPlane.ramps`).
        options: when to stop, and whether images have a free scale.
        device: "cpu" for the compiled loops; "torch" for torch on the CPU; "cuda". The same to what single precision
            leaves; torch takes many images at once.

    Raises:
        ValueError: arguments that do not fit each other.
        InputError: a GPU whose memory does not hold one image.
    """
    jobs = (np.arange(len(images)), rotations, offsets)
    return _refine(reference, images, jobs, options or PolishOptions(), device)


def best_of(
    reference: Reference,
    images: Observed,
    rotations: Float[np.ndarray, "n starts 3 3"],
    offsets: Float[np.ndarray, "n starts 2"],
    options: PolishOptions | None = None,
    device: str = "cpu",
) -> tuple[Polished, Int[np.ndarray, " n"]]:
    """Refine several starts of every image and keep the best, the one with the smallest misfit.

    Meant for few evaluations at a low radius (`Reference.within`, `Observed.within`), before `polish` at a higher one.

    Args:
        reference: see `polish`.
        images: see `polish`.
        rotations: starts.
        offsets: starts, pixels.
        options: by default `PolishOptions(evaluations=6)`.
        device: see `polish`.

    Returns:
        The best of each image, and which of its starts that was.

    Raises:
        ValueError: arguments that do not fit each other.
    """
    n, starts = rotations.shape[:2]
    jobs = (np.repeat(np.arange(n), starts), rotations.reshape(-1, 3, 3), offsets.reshape(-1, 2))
    if n != len(images):
        raise ValueError(f"starts for {n} images, but {len(images)} images")
    found = _refine(reference, images, jobs, options or PolishOptions(evaluations=6), device)
    best = found.misfit.reshape(n, starts).argmin(1)
    return found.take(np.arange(n) * starts + best), best


def _check(reference: Reference, images: Observed, starts: int, rotations: np.ndarray, offsets: np.ndarray) -> None:
    if images.values.shape[1] != len(reference.plane):
        raise ValueError(f"images have {images.values.shape[1]} Fourier points, the plane {len(reference.plane)}")
    if rotations.shape != (starts, 3, 3) or offsets.shape != (starts, 2):
        raise ValueError(f"{starts} starts, but rotations {rotations.shape} and offsets {offsets.shape}")
    if images.whitening.shape[1] <= int(reference.plane.shell.max()):
        raise ValueError(f"whitening ends before shell {int(reference.plane.shell.max())}")


def _refine(
    reference: Reference,
    images: Observed,
    jobs: tuple[np.ndarray, np.ndarray, np.ndarray],
    options: PolishOptions,
    device: str,
) -> Polished:
    """Refine starts (image, rotation, offset) with the compiled loops or with torch."""
    which, rotations, offsets = jobs
    _check(reference, images, len(which), rotations, offsets)
    poses = np.ones((len(which), 4, 3))
    poses[:, :3], poses[:, 3, :2] = rotations, offsets
    if device == "cpu":
        report, normals = _compiled(reference, images, which, poses, options)
    else:
        from sciml_cryoem.poses import torch_polish

        report, normals = torch_polish.refine(reference, images, which, poses, options, device)
    return Polished(
        rotations=_orthonormal(poses[:, :3]),
        offsets=poses[:, 3, :2].copy(),
        scale=poses[:, 3, 2].copy(),
        misfit=report[:, 1],
        gain=0.5 * (report[:, 0] - report[:, 1]),
        covariance=covariances(normals[:, :, :5]),
        iterations=report[:, 2].astype(np.int64),
    )


def _compiled(
    reference: Reference, images: Observed, which: np.ndarray, poses: np.ndarray, options: PolishOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Report and equations of `polish_kernels.refine`, which changes the poses."""
    from sciml_cryoem.poses import polish_kernels

    report, normals = np.empty((len(which), 3)), np.empty((len(which), 5, 6))
    data = (
        np.ascontiguousarray(images.values, np.complex64),
        np.ascontiguousarray(images.ctf, np.float32),
        np.ascontiguousarray(images.groups, np.int64),
        np.ascontiguousarray(images.whitening, np.float32),
    )
    geometry = (2.0 * math.pi / reference.plane.size, reference.padding, reference.reach)
    scale = (options.scale, *options.scale_range)
    tolerances = (math.radians(options.tolerance_deg), options.tolerance, math.radians(options.step_deg), options.step)
    settings = np.array([*geometry, *scale, *tolerances, options.evaluations, options.damping, options.gain])
    grid, points, index = reference.grid, reference.points, reference.index
    which = which.astype(np.int64)

    def work(part: slice) -> None:
        own = poses[part], settings, report[part], normals[part]
        polish_kernels.refine(grid, points, index, data, which[part], *own)

    in_threads(len(which), _THREAD, work)
    return report, normals


def _orthonormal(matrices: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "n 3 3"]:
    """Remove what rounding of the starts (single precision files) left of shear: the nearest rotations."""
    left, _, right = np.linalg.svd(matrices)
    return left @ right


def covariances(precisions: Float[np.ndarray, "n 5 5"]) -> Float[np.ndarray, "n 5 5"]:
    """Inverses of Gauss-Newton matrices; infinite diagonals where one is singular."""
    scales = np.sqrt(np.maximum(np.einsum("nii->ni", precisions), 0.0))
    usable = np.all(np.isfinite(precisions), (1, 2)) & np.all(scales > 0, 1)
    scaled = precisions / np.where(scales > 0, scales, 1.0)[:, :, None] / np.where(scales > 0, scales, 1.0)[:, None, :]
    scaled = np.where(usable[:, None, None], scaled, np.eye(5))
    usable &= np.linalg.cond(scaled) < 1e10
    out = np.linalg.inv(np.where(usable[:, None, None], scaled, np.eye(5)))
    out = out / np.where(usable[:, None, None], scales[:, :, None] * scales[:, None, :], 1.0)
    return np.where(usable[:, None, None], out, np.diag(np.full(5, np.inf)))
