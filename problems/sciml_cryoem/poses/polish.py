"""Continuous refinement of poses: Levenberg-Marquardt over rotation and offset of each image against a reference.

For image values y, transfer c (CTF over the noise's deviation), reference transform F, rotation A, offset o, scale a:

    misfit(A, o, a) = 2 sum_k |y(k) - a c(k) exp(2 pi i k.o / n) F(A^T k)|^2

over the points of a half plane, y and c whitened (`reconstruction.image_spectra`). Noise has E|noise|^2 = 1 at each
point: the log-likelihood is minus half the misfit, and the Gauss-Newton matrix 2 sum Re conj(J) J its negative Hessian,
whose inverse is the (Laplace) covariance. Rotations change by A <- exp([w]) A: w is in the axes of the view,
its third component a turn in the image plane. The scale is eliminated (its best value is a closed form).
"""

import math

import numpy as np
from jaxtyping import Float, Int

from sciml_cryoem.imaging.threads import in_threads
from sciml_cryoem.poses.polish_values import PolishOptions, PolishResult, ReferenceSpectrum
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra

SECONDS = 25e-9
"""What one Fourier point of one image costs in one evaluation (measured)."""
_THREAD = 32  # starts for which a thread pays


def polish(
    reference: ReferenceSpectrum,
    images: ImageSpectra,
    rotations: Float[np.ndarray, "n 3 3"],
    offsets: Float[np.ndarray, "n 2"],
    options: PolishOptions | None = None,
    device: str = "cpu",
) -> PolishResult:
    """Refine the pose of every image (see the module). On the CPU in threads, one a core.

    Args:
        reference: map and points.
        images: at the same points.
        rotations: where to start.
        offsets: where to start, pixels; RELION's sign (`HalfPlane.ramps`).
        options: when to stop, and whether images have a free scale.
        device: "cpu" for the compiled loops; "torch" for torch on the CPU; "cuda". Results agree to single precision.

    Raises:
        ValueError: arguments that do not fit each other.
        InputError: a GPU whose memory does not hold one image.
    """
    jobs = (np.arange(len(images)), rotations, offsets)
    return _refine(reference, images, jobs, options or PolishOptions(), device)


def best_of(
    reference: ReferenceSpectrum,
    images: ImageSpectra,
    rotations: Float[np.ndarray, "n starts 3 3"],
    offsets: Float[np.ndarray, "n starts 2"],
    options: PolishOptions | None = None,
    device: str = "cpu",
) -> tuple[PolishResult, Int[np.ndarray, " n"]]:
    """Refine several starts of every image and keep the best, the one with the smallest misfit.

    Use it with few evaluations at a low radius (`ReferenceSpectrum.within`), before `polish` at a higher one.

    Args:
        reference: see `polish`.
        images: see `polish`.
        rotations: starts.
        offsets: starts, pixels.
        options: by default `PolishOptions(evaluations=6, gain=0.25)`.
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
    found = _refine(reference, images, jobs, options or PolishOptions(evaluations=6, gain=0.25), device)
    best = found.misfit.reshape(n, starts).argmin(1)
    return found.take(np.arange(n) * starts + best), best


def _check(
    reference: ReferenceSpectrum, images: ImageSpectra, starts: int, rotations: np.ndarray, offsets: np.ndarray
) -> None:
    if images.values.shape[1] != len(reference.plane):
        raise ValueError(f"images have {images.values.shape[1]} Fourier points, the plane {len(reference.plane)}")
    if rotations.shape != (starts, 3, 3) or offsets.shape != (starts, 2):
        raise ValueError(f"{starts} starts, but rotations {rotations.shape} and offsets {offsets.shape}")


def _refine(
    reference: ReferenceSpectrum,
    images: ImageSpectra,
    jobs: tuple[np.ndarray, np.ndarray, np.ndarray],
    options: PolishOptions,
    device: str,
) -> PolishResult:
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
    return PolishResult(
        rotations=_orthonormal(poses[:, :3]),
        offsets=poses[:, 3, :2].copy(),
        scale=poses[:, 3, 2].copy(),
        misfit=report[:, 1],
        gain=0.5 * (report[:, 0] - report[:, 1]),
        covariance=covariances(normals[:, :, :5]),
        iterations=report[:, 2].astype(np.int64),
    )


def _compiled(
    reference: ReferenceSpectrum, images: ImageSpectra, which: np.ndarray, poses: np.ndarray, options: PolishOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Report and equations of `polish_kernels.refine`, which changes the poses."""
    from sciml_cryoem.poses import misfit_kernels, polish_kernels

    report, normals = np.empty((len(which), 3)), np.empty((len(which), 5, 6))
    data = np.ascontiguousarray(images.transfer), np.ascontiguousarray(images.values)
    limits = polish_kernels.StepLimits(
        least_turn=math.radians(options.tolerance_deg),
        least_move=float(options.tolerance),
        longest_turn=math.radians(options.step_deg),
        longest_move=float(options.step),
        evaluations=options.evaluations,
        damping=float(options.damping),
        gain=float(options.gain),
    )
    scale = misfit_kernels.ScaleRange(bool(options.scale), *map(float, options.scale_range))
    slices, which = reference.slice_grid(), which.astype(np.int64)

    def work(part: slice) -> None:
        polish_kernels.refine(slices, data, which[part], poses[part], scale, limits, report[part], normals[part])

    in_threads(len(which), _THREAD, work)
    return report, normals


def _orthonormal(matrices: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "n 3 3"]:
    """The nearest rotations: removes the shear that rounding of the starts (single precision files) left."""
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


def polish_seconds(evaluations: float, points: float) -> float:
    """Rough time of so many evaluations of an image's pose on one core."""
    return evaluations * points * SECONDS
